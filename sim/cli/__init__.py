"""The `seqsched` command: a thin skin over `sim` and `traces`; every heavy import waits inside a command.

Where a setting comes from, by rank: command line, environment (`SEQSCHED_` + flag), TOML file, default.
Exit status: 0, 1 (it ran, and a check failed), 2 (bad input: one line on stderr).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from cyclopts import App, ArgumentCollection, CycloptsError, UnusedCliTokensError
from cyclopts.config import Env, Toml

from traces.errors import InputError

from ..version import __version__
from . import streams, variables
from .told import assumptions

CONFIG_FILE = "seqsched.toml"
EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "accelerate", "peft"), "real"),
    **dict.fromkeys(("aiohttp", "prometheus_client", "starlette", "uvicorn"), "serve"),
    "sklearn": "predict",
}
"""Modules that a simulation does without -> the extra that has them."""

COMMANDS = {
    "simulate": ("run:simulate", "Replay a trace under one policy and print its metrics."),
    "compare": ("run:compare", "Replay a trace under several policies: table, ratios, pictures."),
    "plan": ("plan:plan", "How many replicas, or requests per second, within an SLO; and what it costs."),
    "sweep": ("sweep:sweep", "Simulate every point of a grid: resumable, on all cores or a cluster."),
    "validate": (
        "validate:validate",
        "Compare the simulation with a log (--against), or with a real model here.",
    ),
    "observe": (
        "observe:observe",
        "Send a trace to a server at its times, and log what was measured.",
    ),
    "serve": (
        "serve:serve",
        "Stand before an inference API: predict lengths, order requests, send them on.",
    ),
    "pilot": (
        "pilot:pilot",
        "Replay a server's log under other policies, slots or machines: what would each gain?",
    ),
    "list": (
        "listing:list_names",
        "What flags take by name: policies, predictors, routers, formats, generators.",
    ),
    "calibrate": (
        "machine:calibrate",
        "Fit a profile to measured step times (--steps), or measure a --device.",
    ),
}
GROUPS = {
    "trace": (
        "Fetch, inspect, generate and convert request traces.",
        {
            "fetch": ("trace:fetch", "Download a public dataset, or verify the copy at hand."),
            "inspect": ("trace:inspect", "Distribution table and pictures of a trace."),
            "generate": ("trace:generate", "Write a synthetic trace."),
            "convert": ("trace:convert", "Read any known format and write CSV, JSONL or Parquet."),
        },
    ),
    "predictor": (
        "Learn the lengths of answers from a log of prompts, and judge what was learned.",
        {
            "train": (
                "predictor:train",
                "Learn from a log: errors on rows held out, and a file to predict by.",
            ),
            "check": ("predictor:check", "Judge a learned predictor by newer rows: is it worse than it was?"),
            "limit": (
                "predictor:limit",
                "How well any predictor can do, by several answers to the same prompts.",
            ),
        },
    ),
    "profile": (
        "List and show calibrated machines.",
        {
            "list": ("machine:list_profiles", "The shipped profiles and where their numbers come from."),
            "show": ("machine:show_profile", "One profile in full."),
            "what-if": ("machine:write_what_if", "A profile with something changed, marked as such."),
            "compose": ("machine:compose", "A profile from the measured kernels of a GPU and an engine."),
            "estimate": ("machine:estimate", "A roofline estimate for a GPU that nobody measured."),
        },
    ),
    "quality": (
        "Whether a policy changes more than the order of requests.",
        {"report": ("quality:report", "Compare both arms of `serve --share` by its log.")},
    ),
    "plot": (
        "Experiments that answer with a picture.",
        {
            "sensitivity": ("plot:sensitivity", "Gain of sequence scheduling against prediction error."),
            "variance": ("plot:variance", "How far samples of one prompt differ, and what that costs."),
            "perception": ("plot:perception", "A predictor against truth: error, Acc-50, Acc-100."),
            "load": ("plot_load:load", "Latency and goodput against request rate, per policy."),
            "gain": ("plot_load:gain", "Where knowing lengths pays, by load and prediction error."),
            "arena": ("plot_arena:arena", "Which policy to use with which predictor, by load and memory."),
            "starvation": ("plot_load:starvation", "What shortest-first costs the long requests."),
        },
    ),
}


def build_app(config: Path | None = None, tokens: Sequence[str] = ()) -> App:
    """The command with all its subcommands, none of them imported yet.

    `config`: a TOML file to read settings from. `tokens`: the command line, which tells `validate` of a log
    from `validate` on a device.
    """
    sources: list[Any] = [Env("SEQSCHED_", command=False)]
    if config is None and Path(CONFIG_FILE).is_file():
        config = Path(CONFIG_FILE)
    if config is not None:
        _check_toml(config)
        sources.append(Toml(config, must_exist=True))
    app = App(
        name="seqsched",
        help="What would another scheduling policy, GPU or fleet do to LLM throughput, latency and cost?",
        help_epilogue=f"Settings may stand in {CONFIG_FILE} (or --config FILE), one [section] a command. "
        "--debug shows the traceback of an error.",
        version=__version__,
        config=[*sources, _whole_numbers],
    )
    for name, (target, text) in COMMANDS.items():
        app.command(
            f"sim.cli.{target if not _on_a_device(name, tokens) else f'real:{name}'}", name=name, help=text
        )
    for name, (text, commands) in GROUPS.items():
        group = App(name=name, help=text)
        for sub, (target, sub_text) in commands.items():
            group.command(f"sim.cli.{target}", name=sub, help=sub_text)
        app.command(group)
    app.register_install_completion_command(
        help="Complete commands and flags in bash, zsh, fish or PowerShell."
    )
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its status."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    sys.path.append("")  # so that --policy module:Class finds a module in the working directory
    debug = _take_debug(tokens)
    _run(lambda: build_app(_take_config(tokens), tokens), tokens, debug, _unused_variables)


def run_script(function: Callable[..., object], arguments: Sequence[str] | None = None) -> None:
    """Run a script's main function with flags made of its parameters; errors and exit status as in `main`."""
    app = App(help=function.__doc__, version=__version__, config=[_whole_numbers])
    app.default(function)
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    _run(lambda: app, tokens, _take_debug(tokens))


def _unused_variables() -> list[str]:
    """What to say of variables that look like settings and are those of no command, on whatever it runs."""
    apps = lambda: (build_app(tokens=tokens) for tokens in ((), ("validate",), ("calibrate", "--device")))  # noqa: E731
    return variables.unused_variables(apps, os.environ)


def _run(
    make_app: Callable[[], App],
    tokens: list[str],
    debug: bool,
    lines: Callable[[], Iterable[str]] = tuple,
) -> None:
    try:
        streams.check()
        with assumptions() as assumed:
            for line in lines():
                assumed.add(line)
            try:
                make_app()(tokens, exit_on_error=False, print_error=False, result_action="return_value")
            except SystemExit:  # it ran, and a check failed
                streams.flush()
                assumed.print()
                raise
            streams.flush()
            assumed.print()
    except (InputError, CycloptsError) as error:
        sys.exit(_report(error, debug))
    except BrokenPipeError:
        streams.abandon()
        sys.stderr.close()  # the reader has gone: nothing more can be said
        sys.exit(1)
    except OSError as error:
        streams.abandon()
        sys.exit(_report(streams.failure(error), debug))
    except KeyboardInterrupt:
        print("seqsched: interrupted", file=sys.stderr)
        sys.exit(130)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        missing = InputError(f'this needs {error.name}: pip install "seqsched[{EXTRAS[error.name]}]"')
        missing.__cause__ = error
        sys.exit(_report(missing, debug))
    except RuntimeError as error:
        from ..work import SchedulingError

        if not isinstance(error, SchedulingError):
            raise
        sys.exit(_report(error, debug))


def _on_a_device(command: str, tokens: Sequence[str]) -> bool:
    """Whether the command is to run a real model: `validate` without a log, `calibrate` with a device."""
    flags = {token.partition("=")[0] for token in tokens[1:]}
    if not tokens or tokens[0] != command or flags & {"--help", "-h"}:
        return False
    return (command == "validate" and "--against" not in flags) or (
        command == "calibrate" and "--device" in flags
    )


def _take_debug(tokens: list[str]) -> bool:
    """Remove `--debug` from the command line, wherever it stands; whether it was there."""
    debug = "--debug" in tokens
    tokens[:] = [token for token in tokens if token != "--debug"]
    return debug


def _take_config(tokens: list[str]) -> Path | None:
    """Remove `--config FILE` from the command line, wherever it stands."""
    for i, token in enumerate(tokens):
        name, equals, value = token.partition("=")
        if name != "--config":
            continue
        if not equals and i + 1 == len(tokens):
            raise InputError("--config: a TOML file must follow")
        path = Path(value if equals else tokens[i + 1])
        del tokens[i : i + (1 if equals else 2)]
        if not path.is_file():
            raise InputError(f"--config {path}: no such file")
        return path
    return None


def _check_toml(path: Path) -> None:
    """InputError where it is no TOML, or has a section of no command. (Cyclopts checks what is in one.)"""
    import tomllib

    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not a TOML file ({error})") from None
    for name, section in found.items():
        if not isinstance(section, dict):
            raise InputError(f"{path}: {name} stands above all sections; put it under [simulate], say")
        if name not in COMMANDS and name not in GROUPS:
            raise InputError(f"{path}: [{name}] is no command ({', '.join([*COMMANDS, *GROUPS])})")
        for sub in section if name in GROUPS else ():
            commands = GROUPS[name][1]
            if sub not in commands:
                raise InputError(f"{path}: [{name}.{sub}] is no command ({', '.join(commands)})")


def _whole_numbers(app: App, commands: Sequence[str], arguments: ArgumentCollection) -> None:
    """InputError where a flag of whole numbers was given another; cyclopts would round it."""
    for argument in arguments:
        if int not in (argument.hint, *get_args(argument.hint)):
            continue
        for token in argument.tokens:
            if "." in token.value and not token.value.rstrip("0").endswith("."):
                name = argument.name.lstrip("-").replace("-", "_")
                raise InputError(f"{name}: {token.value} is not a whole number")


def _report(error: Exception, debug: bool) -> int:
    """Print bad input as one line, with `debug` below the traceback of its error; the exit status."""
    if debug:
        import traceback

        traceback.print_exception(error)
    text = str(error)
    if isinstance(error, UnusedCliTokensError):
        text = f"{' '.join(error.unused_tokens or ())!r} is too much: no flag before it takes another value"
        text += ' (several --policies or --profiles are one value, "A;B")'
    print("seqsched: " + " ".join(text.split()), file=sys.stderr)
    return 2
