"""How far off is the simulator? Runs a trace on a real model, simulates the same trace, and compares.

    python real/validate.py                                    (tiny model on the processor, under 3 minutes)
    python real/validate.py --profile my-gpu.json --out out    (Vicuna-7B's shape on this machine's GPU)

Every policy runs with every predictor `--repeat` times, in a new order each time; the run-to-run noise is
shown beside the error. Without `--profile` the machine is calibrated first. The exit status is 1 where a
figure errs by more than `--tolerance`, as in `seqsched validate --against`. The last line of stdout is JSON.
`--quality` compares the answers of the policies instead: see real/quality.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a script, the folder on the path is this one, whose modules must not hide others of their names.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from typing import TYPE_CHECKING, Any, Literal

from real.options import ReplayFlags
from sim.cli import run_script
from sim.cli.options import Several
from traces.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from real.validation.report import PolicyCheck
    from sim.studies.tolerance import Judgement

POLICIES = (
    "vanilla;sequence:vbs=table,fcr=off;sequence:vbs=table,fcr=on;sequence:vbs=memory,fcr=off;"
    "sequence:vbs=memory,fcr=on"
)
OWN_POLICIES = "continuous"
"""Of an engine that schedules by itself."""


def validate(
    replay: ReplayFlags = ReplayFlags(),  # noqa: B008  (a frozen dataclass of defaults)
    *,
    clock: Literal["wall", "paced"] | None = None,
    adapter: Path | None = None,
    steps: Path | None = None,
    repeat: int = 3,
    tolerance: Several = (),
    quality: bool = False,
    save_result: Path | None = None,
    out: Path | None = None,
) -> None:
    """Run a trace on a real model, simulate the same trace, and report how far off the simulator was.

    Parameters
    ----------
    clock
        wall, or paced: processor time corrected for the processor's changing speed, for one thread on a
        shared processor with all requests arriving at once; default: paced in that case, else wall.
    adapter
        A LoRA adapter (real/tune.py) used when the model is asked for lengths (predictor model).
    steps
        Without a profile: append what the calibration measures to this CSV file. Rows already in it count as
        measured, so that after an interruption the same command continues.
    repeat
        Real runs of every policy.
    tolerance
        Exit status 1 where the median of the runs is missed by more, in percent, KIND:PERCENT: mean and p99
        of ttft, tpot and e2el always, output throughput where the machine was saturated; those not named are
        ttft:15 tpot:6 e2el:8 throughput:5. A number alone stands for all that are not named. Where runs of
        one policy differ by more from their median, that counts.
    quality
        Compare the answers of the policies instead of their times (real/quality.py).
    save_result
        Write everything measured and predicted to this JSON file.
    out
        Write report.md, errors.csv, result.json and the figures into this folder.
    """
    if quality:
        if replay.schedules_by_itself:
            raise InputError(f"quality: engine {replay.engine} is held against the simulation only")
        from real.quality import quality as compare_answers

        compare_answers(replay, save_result=save_result, out=out)
        return
    from real.validation.experiment import experiment
    from sim.studies.tolerance import parse_tolerances

    if repeat < 1:
        raise InputError(f"repeat: {repeat} must be at least 1")
    tolerances = parse_tolerances(tolerance) if tolerance else None
    replay.use_threads()
    if not replay.is_on_gpu() and replay.model is None:
        _say(
            "NO GPU HERE: this runs a tiny model with random weights on the processor. It checks that the "
            "simulator predicts what it was calibrated for; it says nothing about a GPU."
        )
    cases, about = experiment(
        replay,
        replay.pairs(OWN_POLICIES if replay.schedules_by_itself else POLICIES),
        repeat=repeat,
        clock=clock,
        adapter=adapter,
        steps=steps,
        say=_say,
    )
    _finish(cases, about, tolerances, save_result, out)


def _finish(
    cases: Sequence[PolicyCheck],
    about: dict[str, Any],
    tolerances: Mapping[str, float] | None,
    save_result: Path | None,
    out: Path | None,
) -> None:
    """Tables, files, and the exit status."""
    from real.validation import judging, report
    from traces.files import atomic_write

    judged = {} if tolerances is None else judging.judge_all(cases, tolerances)
    lines = {case.name: judging.failures(case, judged[case.name]) for case in cases if judged}
    too_far = {name: failures for name, failures in lines.items() if failures}
    worst = max((abs(c.figures["request_throughput"].error_fraction or 0.0) for c in cases), default=0.0)
    verdict = {
        "worst_throughput_error_fraction": worst,
        "tolerance": tolerances,
        "over_tolerance": too_far,
        "equal_decisions": all(c.equal_decisions == len(c.measured) for c in cases),
    }
    result = {**about, **verdict, "cases": [case.to_json() for case in cases]}
    text = json.dumps(result, indent=2, allow_nan=False, default=dict)
    facts = {k: v for k, v in about.items() if k not in ("fit_residuals", "versions")}
    bounds = f"\n{judging.markdown(judged)}" if judged else ""
    print(report.markdown(cases, facts) + bounds)
    if save_result is not None:
        with atomic_write(save_result) as file:
            file.write(text + "\n")
    if out is not None:
        _write_folder(cases, text, report.markdown(cases, about) + bounds, out)
    print(json.dumps({**facts, **verdict}, allow_nan=False))
    _say_failures(cases, judged, too_far)
    if too_far:
        sys.exit(1)


def _say_failures(
    cases: Sequence[PolicyCheck],
    judged: Mapping[str, Sequence[Judgement]],
    too_far: Mapping[str, Sequence[str]],
) -> None:
    """What was not judged, and what was and is out of bounds, a line each."""
    from real.validation.judging import is_saturated
    from sim.studies.tolerance import BELOW_SATURATION

    for case in cases:
        if case.name in judged and not is_saturated(case.typical):
            _say(f"{case.name}: {BELOW_SATURATION}")
        for line in too_far.get(case.name, ()):
            _say(f"{case.name}: {line}")


def _write_folder(cases: Sequence[PolicyCheck], text: str, page: str, out: Path) -> None:
    import pandas as pd

    from plots.style import save
    from real.validation import figures
    from real.validation.report import table
    from sim.cli import show
    from traces.files import atomic_write

    folder = show.made_folder(out)
    contents = {
        "result.json": text + "\n",
        "report.md": page,
        "errors.csv": pd.DataFrame(table(cases)).to_csv(index=False, lineterminator="\n"),
    }
    for name, content in contents.items():
        with atomic_write(folder / name) as file:
            file.write(content)
    drawings = {
        "errors.png": figures.error_figure,
        "requests.png": figures.request_figure,
        "timeline.png": figures.timeline_figure,
    }
    for name, draw in drawings.items():
        save(draw(cases), folder / name)
    show.wrote([folder / name for name in (*contents, *drawings)])


def _say(text: str) -> None:
    print(f"validate: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_script(validate)
