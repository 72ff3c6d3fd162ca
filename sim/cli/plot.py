"""`seqsched plot sensitivity | variance | perception`: experiments that answer with a picture."""

from __future__ import annotations

import json
from pathlib import Path

from ..perception.accuracy import error_report, rank_report
from ..perception.predictions import perceive
from ..results import failures
from ..scenario.scenario import scenario, stream
from ..studies import prediction_error
from . import show
from .options import DEFAULT, Flags, keywords
from .running import StudyRunning

RUNNING = StudyRunning()


def sensitivity(
    flags: Flags = DEFAULT,
    *,
    policies: str = "sequence:vbs=off,fcr=off;sequence;sequence:vbs=memory",
    num_seeds: int = 3,
    running: StudyRunning = RUNNING,
    out: Path = Path("sensitivity.png"),
    save_table: Path | None = None,
) -> None:
    """How much of the gain over vanilla batching is left as predictions get worse.

    Parameters
    ----------
    policies
        Policies (`seqsched list policies`) with semicolons between them; --predictor is replaced by errors of
        growing size.
    num_seeds
        Runs per point, each with its own predictions.
    out
        Picture to draw (PNG or SVG).
    save_table
        Write the points to this CSV file.
    """
    from plots import sensitivity as figures
    from plots.style import save
    from traces.files import atomic_write

    with show.bar("simulating") as progress:
        frame = prediction_error.sensitivity(
            flags.trace,
            policies=policies,
            num_seeds=num_seeds,
            **vars(running),
            on_progress=progress,
            **keywords(flags),
        )
    save(figures.gain_figure(frame), out)
    if save_table is not None:
        with atomic_write(save_table) as file:
            frame.to_csv(file, index=False, lineterminator="\n")
    mean = frame.groupby(["policy", "sigma"], sort=False)[["mean_error", "throughput_ratio"]].mean()
    show.frame_table("gain over vanilla", mean.reset_index())
    show.note_left_out(frame)
    show.wrote([out, *([save_table] if save_table else [])])


def variance(
    flags: Flags = DEFAULT,
    *,
    policy: str = "sequence",
    running: StudyRunning = RUNNING,
    out: Path = Path("variance.png"),
) -> None:
    """How far the samples of one prompt differ, and what that alone costs a perfect predictor of one of them.

    Parameters
    ----------
    policy
        Policy that uses the predictions.
    out
        Picture to draw (PNG or SVG).
    """
    from plots import sensitivity as figures
    from plots.style import save

    with show.bar("simulating") as progress:
        frame, trace = prediction_error.variance(
            flags.trace, policy=policy, **vars(running), on_progress=progress, **keywords(flags)
        )
    assert trace.samples is not None
    save(figures.variance_figure(trace.samples, trace.sample_names, trace.output_tokens, frame), out)
    show.frame_table(f"perfect predictors, policy {policy}", frame.drop(columns=list(failures.KEYS)))
    show.note_left_out(frame)
    show.wrote([out])


def perception(flags: Flags = DEFAULT, *, out: Path = Path("perception.png")) -> None:
    """A predictor against truth: mean error, shares within 50 and 100 tokens, order, and a picture.

    Parameters
    ----------
    out
        Picture to draw (PNG or SVG).
    """
    from plots import perception as figures
    from plots.style import save

    shared = scenario(flags.trace, **keywords(flags))
    rng = stream(shared.seed, "perception")
    perception = perceive(shared.predictor, shared.trace, rng, needs=("length",))
    truth = shared.trace.perceived_truth
    report = error_report(perception.predicted, truth)
    title = f"{flags.predictor} on {shared.trace.name}: mean error {report.error:.1f} tokens"
    save(figures.report(perception.predicted, truth, title), out)
    order = rank_report(perception.predicted, truth)
    print(json.dumps(report._asdict() | order._asdict(), indent=2))
    show.wrote([out])
