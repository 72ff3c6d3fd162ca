"""`seqsched plot arena`: every policy against every predictor, by load and memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from traces.errors import InputError

from ..results import paired
from ..studies import arena as study
from ..studies.cases import map_cases
from . import show
from .options import DEFAULT, Flags
from .plot_load import Names, Numbers, Table, save_points, settings_of
from .running import StudyRunning

if TYPE_CHECKING:
    import pandas as pd

RUNNING = StudyRunning()
SHOWN = ("mean_ttft_ms", "mean_e2el_ms", "p99_e2el_ms")


def arena(
    flags: Flags = DEFAULT,
    *,
    policies: str | None = None,
    predictors: str = ";".join(study.PREDICTORS),
    baseline: str = study.BASELINE,
    loads: Numbers = study.ARENA_LOADS,
    metrics: Names = SHOWN,
    num_seeds: int = 3,
    running: StudyRunning = RUNNING,
    out: Path = Path("arena.png"),
    save_table: Table = None,
) -> None:
    """Which policy to use with which predictor: each against first come, first served, by load and memory.

    Three cases, as in `plot gain`: the KV cache there is, an eighth of it, and that eighth under arrivals
    that clump. All policies of one seed see the same requests; a gain is a geometric mean over seeds.

    Parameters
    ----------
    policies
        Policies with semicolons between them; each runs with every predictor that gives what it needs.
        Without it those that know lengths and those that need not, and for sessions those that know caches.
    predictors
        Predictors with semicolons between them, in place of --predictor.
    baseline
        The policy that all are compared with; loads are shares of what it gets done in each case.
    loads
        Loads to try.
    metrics
        Latencies, a panel each: {mean,p99}_{ttft,tpot,e2el}_ms, of sessions {mean,p99}_session_ms.
    num_seeds
        Runs per point, each with its own arrivals, lengths and predictions.
    out
        Picture to draw (PNG or SVG).
    """
    from plots import arena as figures
    from plots.style import save

    figures.check_metrics(metrics)
    settings = settings_of(flags)
    with show.bar("simulating") as progress:
        frame = study.arena(
            flags.trace,
            cases=map_cases(flags.trace, **settings),
            policies=policies,
            predictors=predictors,
            baseline=baseline,
            loads=loads,
            num_seeds=num_seeds,
            **vars(running),
            on_progress=progress,
            **settings,
        )
    if lacking := [metric for metric in metrics if metric not in frame]:
        raise InputError(f"metrics: {lacking[0]} is of sessions, and {flags.trace} has none")
    save(figures.figure(frame, metrics), out)
    save_points(frame, save_table)
    for metric in metrics:
        show.frame_table(f"{metric} of {baseline} over that of each policy", _by_case(frame, metric))
    show.frame_table(f"who gains most in {metrics[0]}", _winners(frame, metrics[0]))
    show.note_left_out(frame)
    show.wrote([out, *([save_table] if save_table else [])])


def _by_case(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Gains, a column for each case and load."""
    table = paired.gains(frame, metric)
    table["where"] = _where(table)
    wide = table.pivot_table(index=paired.WHO, columns="where", values="gain", sort=False)
    return wide.reset_index()


def _winners(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Who gains most by how much, a row for each predictor and a column for each case and load."""
    table = paired.winners(frame, metric)
    names = table["policy"].str.removeprefix("continuous:").str.replace("order=", "")
    table["best"] = names + table["gain"].map("  {:.2f}".format)
    table["where"] = _where(table)
    wide = table.pivot_table(index="predictor", columns="where", values="best", sort=False, aggfunc="first")
    return wide.reset_index()


def _where(table: pd.DataFrame) -> list[str]:
    return [f"{case}, {100 * load:g} %" for case, load in zip(table["case"], table["load"], strict=True)]
