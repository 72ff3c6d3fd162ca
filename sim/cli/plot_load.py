"""`seqsched plot load | gain | starvation`: what load does to policies, where lengths pay, and who pays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from traces.errors import InputError
from traces.spec import names_of

from ..results.slo_metrics import is_of_own_bounds
from ..scenario.scenario import scenario
from ..scenario.settings import Keywords
from ..studies import ageing, capacity, gain_map, load_curves
from ..studies.cases import map_cases
from ..studies.prediction_error import check_policies
from . import show
from .options import DEFAULT, RATE, Flags, keywords
from .running import StudyRunning

if TYPE_CHECKING:
    import pandas as pd

RUNNING = StudyRunning()

Numbers = Annotated[tuple[float, ...], Parameter(consume_multiple=True, negative="")]
Rates = Annotated[
    tuple[float, ...], Parameter(consume_multiple=True, negative="", n_tokens=-1, converter=RATE)
]
Names = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")]
Table = Annotated[Path | None, Parameter(help="Write the points to this CSV file.")]


def load(
    flags: Flags = DEFAULT,
    *,
    policies: str = ";".join(load_curves.POLICIES),
    loads: Numbers = load_curves.CURVE_LOADS,
    rates: Rates = (),
    num_seeds: int = 3,
    running: StudyRunning = RUNNING,
    out: Path = Path("load.png"),
    save_table: Table = None,
) -> None:
    """Latency, goodput and throughput of each policy as requests come faster.

    Parameters
    ----------
    policies
        Policies (`seqsched list policies`) with semicolons between them.
    loads
        Request rates as shares of what `continuous` gets done here while there is always a queue.
    rates
        Request rates in requests/s, in place of --loads.
    num_seeds
        Runs per point, each with its own arrivals, lengths and predictions.
    out
        Picture to draw (PNG or SVG).
    """
    from plots import load as figures
    from plots.style import save

    settings = settings_of(flags)
    chosen = names_of(policies, "policies")
    check_policies(*chosen)
    capacity.check(num_seeds, settings, **({"rates": rates} if rates else {"loads": loads}))
    with show.bar("simulating") as progress:
        how: dict[str, Any] = {**vars(running), "on_progress": progress}
        most = capacity.capacity(flags.trace, num_seeds=num_seeds, **how, **settings)
        bounds = (
            scenario(flags.trace, **settings).goodput_ms
            if flags.goodput
            else capacity.idle_bound(flags.trace, rate=most, **how, **settings)
        )
        settings["goodput"] = bounds
        frame = load_curves.load_curves(
            flags.trace,
            rates=rates or [share * most for share in loads],
            policies=chosen,
            num_seeds=num_seeds,
            **how,
            **settings,
        )
    save(figures.figure(frame, bounds), out)
    save_points(frame, save_table)
    frame["load"] = frame["request_rate"] / most
    columns = ["load", "mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "p99_e2el_ms", "request_goodput"]
    columns += filter(is_of_own_bounds, map(str, frame))
    mean = frame.groupby(["policy", "request_rate"], sort=False)[columns].mean()
    show.frame_table(f"capacity of continuous: {most:.2f} requests/s", mean.reset_index())
    show.note_left_out(frame)
    show.wrote([out, *([save_table] if save_table else [])])


def gain(
    flags: Flags = DEFAULT,
    *,
    policies: str = ";".join(gain_map.LENGTH_AWARE),
    baseline: str = "continuous",
    loads: Numbers = gain_map.MAP_LOADS,
    sigmas: Numbers = gain_map.MAP_SIGMAS,
    metrics: Names = ("mean_e2el_ms", "p99_e2el_ms"),
    charge: bool = False,
    num_seeds: int = 3,
    running: StudyRunning = RUNNING,
    out: Path = Path("gain.png"),
    save_table: Table = None,
) -> None:
    """Where knowing lengths pays: latency under a plain policy over that under length-aware ones, as a map.

    Three cases: the KV cache there is, an eighth of it, and that eighth under arrivals that clump (the
    trace's own where it has times, else bursty ones).

    Parameters
    ----------
    policies
        Length-aware policies with semicolons between them; errors of growing size replace --predictor.
    baseline
        The plain policy; loads are shares of what it gets done in each case while there is always a queue.
    loads
        Loads to try.
    sigmas
        Prediction errors to try: standard deviations of the logarithm of the length.
    metrics
        Latencies, a picture each: mean_ttft_ms, p99_ttft_ms, mean_e2el_ms, p99_e2el_ms.
    charge
        Charge the accelerator for asking, as where the serving model itself predicts.
    num_seeds
        Runs per point, each with its own arrivals, lengths and predictions.
    out
        Picture to draw (PNG or SVG); those of further metrics get the metric into their name.
    """
    names_of(metrics, "metrics", gain_map.GAINS)
    settings = settings_of(flags)
    with show.bar("simulating") as progress:
        frame = gain_map.gain_map(
            flags.trace,
            cases=map_cases(flags.trace, **settings),
            policies=policies,
            baseline=baseline,
            loads=loads,
            sigmas=sigmas,
            charge=charge,
            num_seeds=num_seeds,
            **vars(running),
            on_progress=progress,
            **settings,
        )
    pictures = _draw_maps(frame, metrics, baseline, out)
    save_points(frame, save_table)
    _show_map(frame, metrics[0], baseline)
    show.note_left_out(frame)
    show.wrote([*pictures, *([save_table] if save_table else [])])


def starvation(
    flags: Flags = DEFAULT,
    *,
    load: float = 1.25,
    agings: Numbers = ageing.AGINGS,
    sigma: float = ageing.SIGMA,
    num_seeds: int = 3,
    running: StudyRunning = RUNNING,
    out: Path = Path("starvation.png"),
    save_table: Table = None,
) -> None:
    """What shortest-first costs the long requests under continuous batching, and what ageing gives back.

    Parameters
    ----------
    load
        Request rate as a share of what `continuous` gets done here while there is always a queue.
    agings
        Seconds of waiting that are worth one level, a level being 50 predicted tokens.
    sigma
        Prediction error: standard deviation of the logarithm of the length.
    num_seeds
        Runs per discipline, each with its own arrivals, lengths and predictions.
    out
        Picture to draw (PNG or SVG).
    """
    from plots import starvation as figures
    from plots.style import save

    with show.bar("simulating") as progress:
        frame = ageing.starvation(
            flags.trace,
            load=load,
            agings=agings,
            sigma=sigma,
            num_seeds=num_seeds,
            **vars(running),
            on_progress=progress,
            **settings_of(flags),
        )
    save(figures.figure(frame), out)
    save_points(frame, save_table)
    columns = ["mean_ttft_ms", "mean_e2el_ms", "p99_e2el_ms", "long_e2el_ms", "short_e2el_ms"]
    mean = frame.groupby("label", sort=False)[[*columns, "throughput"]].mean()
    show.frame_table(f"{frame['request_rate'].iloc[0]:.2f} requests/s", mean.reset_index())
    show.note_left_out(frame)
    show.wrote([out, *([save_table] if save_table else [])])


def _show_map(frame: pd.DataFrame, metric: str, baseline: str) -> None:
    rows = ["case", "policy", "sigma"]
    table = frame.pivot_table(index=rows, columns="load", values=metric, sort=False).reset_index()
    show.frame_table(f"{metric} of {baseline} over that of each policy, by sigma and load", table)


def _draw_maps(frame: pd.DataFrame, metrics: tuple[str, ...], baseline: str, out: Path) -> list[Path]:
    """Draw one picture for each metric; those after the first get the metric into their name."""
    from plots import gain_map as figures
    from plots.style import save

    paths = [out, *(out.with_stem(f"{out.stem}_{name.removesuffix('_ms')}") for name in metrics[1:])]
    for name, path in zip(metrics, paths, strict=True):
        save(figures.figure(frame, name, baseline), path)
    return paths


def settings_of(flags: Flags) -> Keywords:
    """The settings of a study that sets the request rate itself; InputError where it is given."""
    if flags.request_rate is not None:
        raise InputError(
            f"request-rate: {flags.request_rate:g} has no place here; --loads (or --rates) set it"
        )
    return keywords(flags)


def save_points(frame: pd.DataFrame, path: Path | None) -> None:
    """Write the points of a study, where they are asked for."""
    from traces.files import atomic_write

    if path is not None:
        with atomic_write(path) as file:
            frame.to_csv(file, index=False, lineterminator="\n")
