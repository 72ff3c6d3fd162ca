"""`seqsched profile list | show | what-if | compose | estimate` and `seqsched calibrate`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from traces.errors import InputError
from traces.spec import nearest

from ..hardware import catalogue as profiles
from ..hardware import describe, overrides, roofline
from . import show
from .log_fit import fit_to_logs
from .options import SetFlag, Several

if TYPE_CHECKING:
    from ..hardware.fitting import FitReport
    from ..hardware.profile import Profile


Logs = Annotated[tuple[Path, ...], Parameter(consume_multiple=True, negative="")]


def list_profiles() -> None:
    """The shipped profiles: model, GPU, engine, and whether their numbers were measured, published or
    estimated.
    """
    from rich.table import Table

    table = Table()
    for heading in ("profile", "numbers are", "model", "GPU", "engine", "KV tokens"):
        table.add_column(heading, justify="right" if heading == "KV tokens" else "left")
    for name in profiles.names():
        p = profiles.load(name)
        table.add_row(
            name,
            p.provenance.kind,
            p.model_name or "–",
            p.gpu.name if p.gpu else "–",
            p.engine,
            f"{p.kv_tokens():,}" if p.memory else "–",
        )
    show.console().print(table)


def show_profile(
    name: str,
    /,
    *,
    set: SetFlag = (),
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """One profile in full, its provenance first.

    Parameters
    ----------
    name
        A shipped profile or a JSON file.
    json_
        Print it as one JSON object.
    """
    from rich.table import Table

    loaded = overrides.apply(profiles.load(name), set)
    if json_:
        print(json.dumps(loaded.to_json(), indent=2, allow_nan=False))
        return
    table = Table(show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("value", overflow="fold")
    for label, value in describe(loaded):
        table.add_row(label, value)
    show.console().print(table)


def write_what_if(
    name: str, /, *, set: Annotated[Several, Parameter(help=overrides.HELP_IN_FULL)], out: Path
) -> None:
    """Write a profile with something changed; its name and provenance say what.

    Parameters
    ----------
    name
        A shipped profile or a JSON file.
    out
        The profile to write (JSON).
    """
    overrides.apply(profiles.load(name), set).save(out)
    show.wrote([out])


def estimate(
    *,
    gpu: str,
    model: str = "vicuna-7b",
    out: Path,
    name: str | None = None,
    efficiency: float = roofline.EFFICIENCY,
    utilization: float = 0.9,
) -> None:
    """A profile for a machine that nobody measured, from its datasheet; it stays marked as an estimate.

    Parameters
    ----------
    gpu
        A100-80GB, H100, H200, L40S or "RTX 4090".
    model
        vicuna-7b or another known LLaMA shape.
    out
        The profile to write (JSON).
    name
        Name of the profile; default: the file name of --out.
    efficiency
        Share of the datasheet's bandwidth and peak that is reached.
    utilization
        Share of the GPU memory that the engine may use.
    """
    made = roofline.estimate(
        model, gpu, efficiency=efficiency, utilization=utilization, name=name or out.stem
    )
    made.save(out)
    show.wrote([out])


def compose(
    *,
    gpu: str,
    model: str,
    engine: str = "vllm",
    tp: int = 1,
    ep: int = 1,
    dp_attention: int = 1,
    dtype: str = "",
    kv: str = "bf16",
    host: str = "",
    utilization: float | None = None,
    out: Path,
    name: str | None = None,
) -> None:
    """A profile of a model on a GPU from the measured times of an engine's kernels (the extra `kernels`).

    Wherever a profile is named, the text MODEL@GPU,tp=…,dtype=…,engine=… means the same.

    Parameters
    ----------
    gpu
        a100-80gb, h100, h200, l40s, b200, b300, gb200 or gb300.
    model
        A known name such as llama-3.1-8b, a config.json of Hugging Face, or a name such as Qwen/Qwen3-32B.
    engine
        vllm, sglang or trtllm, or one with the version of its tables: vllm:0.24.0.
    tp
        GPUs among which every layer is divided.
    ep
        Groups of GPUs among which experts are divided; it divides tp.
    dp_attention
        Groups of GPUs that compute the attention of sequences of their own; it divides tp.
    dtype
        Format of the weights: bf16, fp8, fp8-block or nvfp4; default: that of the checkpoint.
    kv
        Format of the KV cache: bf16 or fp8.
    host
        The named set of terms of the engine's host, or none; default: that of the engine.
    utilization
        The engine's share of memory; default: its own (0.9, SGLang 0.88; of free memory for trtllm).
    out
        The profile to write (JSON).
    name
        Name of the profile; default: the file name of --out.
    """
    from rich.table import Table

    from ..hardware.composed import compose as compose_profile
    from ..hardware.datasheets import gpu_key
    from ..hardware.deployment import Deployment

    asked = Deployment(model, gpu_key(gpu), engine, tp, ep, dp_attention, dtype, kv, host, utilization)
    made = compose_profile(asked, name=name or out.stem)
    made.save(out)
    table = Table(
        title=f"profile {made.name} ({made.provenance.kind})", title_justify="left", show_header=False
    )
    for label, value in describe(made):
        if label in ("engine", "KV cache", "grid") or label.startswith("error"):
            table.add_row(label, value)
    show.console().print(table)
    show.wrote([out])


def calibrate(
    *,
    steps: Annotated[tuple[Path, ...], Parameter(consume_multiple=True, negative="")] = (),
    log: Logs = (),
    out: Path,
    name: str | None = None,
    engine: str = "unknown",
    source: str | None = None,
    host_ms: float | None = None,
    async_scheduling: bool = True,
    gpu: str | None = None,
    model: str | None = None,
    figure: Path | None = None,
    policy: str | None = None,
    kv_blocks: int | None = None,
    block_size: int | None = None,
) -> None:
    """Fit a profile to measured step times, or to logs of requests, and say how well it fits.

    The profile has no memory part: give --kv-blocks wherever it is used.

    Parameters
    ----------
    steps
        CSV with the columns num_decode, decode_context_tokens, num_prefill, prefill_tokens,
        prefill_attention, step_ms, and decode_context_max where contexts differ; one file or several.
    log
        Logs that clients wrote (`seqsched observe --out`), at several rates, where nobody has timed steps.
    out
        The profile to write (JSON).
    name
        Name of the profile; default: the file name of --out.
    engine
        What was measured, such as vllm-0.19 or transformers-eager.
    source
        Where the rows of --steps come from: measured (iterations of a running engine; the default), composed
        (sums of measured kernels), published or estimated. The profile says so wherever it is named.
    host_ms
        What the engine adds on the host per iteration, where the steps are GPU time alone.
    async_scheduling
        The server decides an iteration while the one before it runs, as vLLM does by default.
    gpu
        What it was measured on, such as H200 or "RTX 4090"; --set gpu=… needs it.
    model
        Which model ran, such as llama-3.1-8b; --set gpu=… and other what-ifs need it.
    figure
        Where to draw measured against fitted steps; default: beside --out, as PNG.
    policy
        The settings of the server that --log watched, such as continuous:max_num_seqs=256 (the default but
        for its seats); with async_scheduling=on, as vLLM has it, unless it says off.
    kv_blocks
        The KV memory of that server in blocks of --block-size tokens; default: enough for all.
    block_size
        Tokens of a KV block of that server; default: 16.
    """
    import pandas as pd

    from ..hardware.datasheets import known_gpu
    from ..hardware.fitting import SOURCES, fit, read_steps
    from ..hardware.model_shape import known_model
    from ..hardware.steps_file import check_hardware

    shape, card = known_model(model) if model else None, known_gpu(gpu) if gpu else None
    _check_one_kind(
        log,
        {"steps": steps or None, "source": source, "host-ms": host_ms, "figure": figure},
        {"policy": policy, "kv-blocks": kv_blocks, "block-size": block_size},
    )
    if not steps:
        fit_to_logs(
            log, out, name=name or out.stem, policy=policy, kv_blocks=kv_blocks, block_size=block_size,
            engine=engine, model=shape, gpu=card,
        )  # fmt: skip
        return
    source = source or "measured"
    if source not in SOURCES:
        raise InputError(f"source: {source!r} is not one of {', '.join(SOURCES)}{nearest(source, SOURCES)}")
    parts = [read_steps(path, in_part=len(steps) > 1) for path in steps]
    for path, part in zip(steps, parts, strict=True):
        check_hardware(part, str(path), shape, card)
    source_files = ", ".join(path.name for path in steps)
    fitted, report = fit(
        pd.concat(parts, ignore_index=True),
        name or out.stem,
        model=shape,
        gpu=card,
        engine=engine,
        host_s=(host_ms or 0.0) / 1e3,
        async_scheduling=async_scheduling,
        source=source_files,
        kind=SOURCES[source],
    )
    fitted.save(out)
    picture = figure or out.with_suffix(".png")
    _report_fit(fitted, report, source_files, picture)
    show.wrote([out, picture])


def _check_one_kind(
    log: Sequence[Path], of_steps: Mapping[str, object], of_logs: Mapping[str, object]
) -> None:
    """InputError unless there are steps or logs, and nothing that belongs to the other."""
    if bool(log) == (of_steps["steps"] is not None):
        raise InputError(
            "--steps and --log: one of them, not both"
            if log
            else "--steps FILE, or --log FILE...: neither is given"
        )
    for name, value in (of_steps if log else of_logs).items():
        if value is not None:
            raise InputError(f"--{name}: {value} belongs to {'--steps' if log else '--log'}")


def _report_fit(profile: Profile, report: FitReport, source: str, picture: Path) -> None:
    """Draw measured against fitted, and print the errors of the fit."""
    from rich.table import Table

    from plots import calibration
    from plots.style import save

    title = f"{profile.name}: {len(report.measured_s):,} distinct steps of {source}"
    save(calibration.report(report.measured_s * 1e3, report.fitted_s * 1e3, ~report.is_mixed, title), picture)
    table = Table(
        title=f"profile {profile.name} ({profile.provenance.kind})", title_justify="left", show_header=False
    )
    for label, value in report.rows():
        table.add_row(label, value)
    show.console().print(table)
