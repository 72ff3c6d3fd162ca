"""How far is the simulator off? Runs a trace on a real model, simulates the same, and compares.

    python real/validate.py                                    (tiny model on the processor, under 3 minutes)
    python real/validate.py --profile my-gpu.json --out out    (Vicuna-7B's shape on this machine's GPU)

Every policy and predictor runs `--repeat` times, in a new order each time; the run-to-run noise stands beside
the error. Without `--profile` the machine is calibrated on the spot. Exits 1 where, with `--tolerance`, a
policy's throughput errs by more. The last line of stdout is JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, the folder on the path is this one, whose modules must not hide others of their names.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from typing import TYPE_CHECKING, Any, Literal

from sim.cli import run_script
from traces.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from real.report import Case

POLICIES = (
    "vanilla;sequence:vbs=table,fcr=off;sequence:vbs=table,fcr=on;sequence:vbs=memory,fcr=off;"
    "sequence:vbs=memory,fcr=on"
)
PREDICTORS = "oracle;tuned"
TINY_TRACE = (
    "lognormal:prompt_median=16,prompt_sigma=0.5,max_prompt_tokens=64,"
    "output_median=40,output_sigma=0.7,max_output_tokens=160"
)
"""Short enough for a processor, spread enough that the policies differ."""


def validate(
    *,
    trace: str | None = None,
    num_prompts: int | None = None,
    sample_seed: int | None = None,
    request_rate: float | None = None,
    burstiness: float = 1.0,
    max_new_tokens: int | None = None,
    seed: int = 0,
    policies: str = POLICIES,
    predictors: str = PREDICTORS,
    engine: str = "transformers-eager",
    model: str | None = None,
    weights: Literal["random", "pretrained"] | None = None,
    dtype: str | None = None,
    device: str | None = None,
    compile_layers: bool = False,
    threads: int | None = None,
    lengths: Literal["trace", "model"] = "trace",
    profile: str | None = None,
    kv_tokens: int | None = None,
    clock: Literal["wall", "paced"] | None = None,
    adapter: Path | None = None,
    repeat: int = 3,
    tolerance: float | None = None,
    save_result: Path | None = None,
    out: Path | None = None,
) -> None:
    """Run a trace for real, simulate the same, and say how far the simulator was off.

    Parameters
    ----------
    trace
        A file, a dataset or a generator; default: alpaca-vicuna on CUDA, short lengths on the processor.
    num_prompts
        Replay the first N requests; default: 512 on CUDA, 256 on the processor.
    sample_seed
        Take them from the seeded permutation of the trace.
    request_rate
        Requests per second; default: the trace's own times, or all at once where it has none.
    burstiness
        Shape of the gaps between arrivals: 1 is Poisson.
    max_new_tokens
        Cap on output tokens.
    seed
        Seed of everything random: arrivals, predictions, prompts, random weights.
    policies
        Policies with semicolons between them.
    predictors
        Predictors with semicolons between them; vanilla, which asks for none, runs under the first alone.
        Beside those of the simulator, model[:way=po|pia,adapter=on|off,fallback=median|max|N] asks the model
        itself.
    engine
        transformers-eager or cuda-graphs.
    model
        tiny, a known shape such as vicuna-7b, a path, or a name on the hub; default: vicuna-7b on CUDA, else
        tiny.
    weights
        random or pretrained; default: random for a known shape.
    dtype
        float32, float16 or bfloat16; default: bfloat16 on CUDA, else float32.
    device
        cuda or cpu; default: cuda where there is one.
    compile_layers
        Compile the decoder layer (cuda-graphs on CUDA only).
    threads
        Processor threads of torch; default: 1 on the processor.
    lengths
        Answers stop at the trace's lengths (trace), or where the model ends them (model).
    profile
        A measured profile of this machine; default: calibrate on the spot.
    kv_tokens
        Tokens of KV cache to allocate; default: the profile's, else 80 % of what is free (on the processor
        16,384).
    clock
        wall, or paced: the processor's time, evened out by a beat that runs alongside, for one thread on a
        shared processor with all requests at once; default: paced where that holds, else wall.
    adapter
        A LoRA adapter (real/tune.py) with which the model is asked for lengths (predictor model).
    repeat
        Real runs of every policy.
    tolerance
        Exit 1 where a policy's throughput (median of the runs) errs by more than this, in percent.
    save_result
        Write everything measured and predicted to this JSON file.
    out
        Write report.md, errors.csv, result.json and the figures into this folder.
    """
    import torch

    from real.experiment import experiment

    if repeat < 1:
        raise InputError(f"repeat: {repeat} must be at least 1")
    if tolerance is not None and not tolerance > 0:
        raise InputError(f"tolerance: {tolerance:g} must be above 0 percent")
    on_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    if not on_gpu:
        torch.set_num_threads(threads or 1)
    elif threads is not None:
        torch.set_num_threads(threads)
    if not on_gpu and model is None:
        _say(
            "NO GPU HERE: this runs a tiny model with random weights on the processor. It checks that the "
            "simulator predicts what it was calibrated for; it says nothing about a GPU."
        )
    source = trace or ("alpaca-vicuna" if on_gpu else TINY_TRACE)
    settings = {
        "num_prompts": num_prompts or (None if trace else 512 if on_gpu else 256),
        "sample_seed": sample_seed,
        "request_rate": request_rate,
        "burstiness": burstiness,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    chosen = {"model": model, "weights": weights, "dtype": dtype, "device": device}
    cases, about = experiment(
        source,
        settings,
        _pairs(policies, predictors),
        engine=engine,
        chosen=chosen,
        compile_layers=compile_layers,
        lengths=lengths,
        profile=profile,
        kv_tokens=kv_tokens,
        repeat=repeat,
        clock=clock,
        adapter=adapter,
        say=_say,
    )
    _finish(cases, about, tolerance, save_result, out)


def _pairs(policies: str, predictors: str) -> list[tuple[str, str]]:
    """Every policy under every predictor; vanilla under the first alone."""
    names, told = (
        [part.strip() for part in text.split(";") if part.strip()] for text in (policies, predictors)
    )
    if not names or not told:
        raise InputError("policies and predictors: at least one of each is needed")
    return [(n, p) for p in told for n in names if p == told[0] or not n.startswith("vanilla")]


def _finish(
    cases: Sequence[Case],
    about: dict[str, Any],
    tolerance: float | None,
    save_result: Path | None,
    out: Path | None,
) -> None:
    """Tables, files, and the exit status."""
    from real.report import markdown, over_tolerance
    from traces.files import atomic_write

    beyond = over_tolerance(cases, tolerance / 100) if tolerance is not None else []
    worst = max((abs(c.figures["request_throughput"].error or 0.0) for c in cases), default=0.0)
    verdict = {
        "worst_throughput_error": worst,
        "tolerance": tolerance,
        "over_tolerance": beyond,
        "equal_decisions": all(c.equal_decisions == len(c.measured) for c in cases),
    }
    result = {**about, **verdict, "cases": [case.to_json() for case in cases]}
    text = json.dumps(result, indent=2, allow_nan=False, default=dict)
    shown = {k: v for k, v in about.items() if k not in ("fit_residuals", "versions")}
    print(markdown(cases, shown))
    if save_result is not None:
        with atomic_write(save_result) as file:
            file.write(text + "\n")
    if out is not None:
        _write_folder(cases, about, text, out)
    print(json.dumps({**shown, **verdict}, allow_nan=False))
    for name in beyond:
        _say(f"{name}: throughput errs by more than {tolerance:g} %")
    if beyond:
        sys.exit(1)


def _write_folder(cases: Sequence[Case], about: dict[str, Any], text: str, out: Path) -> None:
    import pandas as pd

    from plots.style import save
    from real import figures
    from real.report import markdown, table
    from sim.cli import show
    from traces.files import atomic_write

    folder = show.made_folder(out)
    contents = {
        "result.json": text + "\n",
        "report.md": markdown(cases, about),
        "errors.csv": pd.DataFrame(table(cases)).to_csv(index=False, lineterminator="\n"),
    }
    for name, content in contents.items():
        with atomic_write(folder / name) as file:
            file.write(content)
    drawn = {
        "errors.png": figures.error_figure,
        "requests.png": figures.request_figure,
        "timeline.png": figures.timeline_figure,
    }
    for name, draw in drawn.items():
        save(draw(cases), folder / name)
    show.wrote([folder / name for name in (*contents, *drawn)])


def _say(text: str) -> None:
    print(f"validate: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_script(validate)
