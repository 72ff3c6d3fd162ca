"""How much faster do padded batches get than the paper's, and what does continuous batching leave of that?

    python plots/examples/better_padded.py --out padded.png

Serves the paper's 1,024 requests in padded batches: as published, with each change alone, and with all. First
all requests are there from the start, which measures throughput; then they arrive at random (Poisson), which
measures the mean latency. Lengths are predicted as by the paper's model, which is asked on the same machine,
or known (the largest of the known answers). ± is half a 95 % interval over seeds. Prints two Markdown tables;
the last line of stdout is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cyclopts import Parameter
from matplotlib.axes import Axes

from plots import style
from sim.cli import run_script
from sim.planning.slo import Interval, interval
from sim.scenario.scenario import scenario

BEST = "sequence:vbs=memory,bins=least-time,requeue=on"
PUBLISHED = "the paper's"
WAYS = {
    "vanilla": "vanilla",
    PUBLISHED: "sequence",
    "… bins by the 90 % quantile": "sequence:margin=0.9",
    "… what was cut off goes on": "sequence:requeue=on",
    "… batch sizes by memory": "sequence:vbs=memory",
    "… batch sizes by memory, bins by the quantile": "sequence:vbs=memory,margin=0.9",
    "… batch sizes by memory, bins of least time": "sequence:vbs=memory,bins=least-time",
    "… all but the quantile": BEST,
    "… the same, groups of 1,024": f"{BEST},group_size=1024",
    "… groups of 1,024, what was cut off recomputed": "sequence:vbs=memory,bins=least-time,group_size=1024",
    "continuous": "continuous",
}
ONLINE = ("vanilla", PUBLISHED, "… all but the quantile", "continuous")
PREDICTORS = {"tuned": "the paper's predictor", "oracle": "known lengths"}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What is served, on what, and how often."""

    trace: str = "alpaca-vicuna-val"
    """A file, a dataset or a generator NAME[:key=value,...]."""
    profile: str = "a100-80gb-vicuna-7b-transformers"
    """The machine."""
    num_prompts: int = 1024
    """Requests of a run."""
    rates: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 12.0)
    """Requests per second where they arrive at random."""
    sample_seed: int | None = 42
    """Which requests of the file: those that the paper's code draws with its seed."""
    num_seeds: int = 10
    """Runs of a cell, each with its own predictions, order and arrivals; at least 2."""
    seed: int = 0
    """First of the seeds."""
    out: Path | None = None
    """Draw throughput and latency into this PNG or SVG file."""


DEFAULT = Options()


def main(options: Options = DEFAULT) -> None:
    """Padded batches as published and bettered, beside continuous batching."""
    offline = {
        (name, predictor): interval(runs(options, policy, predictor, None, "request_throughput"))
        for predictor in PREDICTORS
        for name, policy in WAYS.items()
    }
    heads = [f"{text}, requests/s | × the paper's" for text in PREDICTORS.values()]
    print(f"| {' | '.join(['batches', *heads])} |\n|---|{'---:|' * 4}")
    for name in WAYS:
        cells = [
            f"{offline[name, p].mean:.2f} ± {half(offline[name, p]):.2f} | "
            f"{offline[name, p].mean / offline[PUBLISHED, p].mean:.2f}"
            for p in PREDICTORS
        ]
        print(f"| {' | '.join([name, *cells])} |")
    online = {
        (name, rate): interval([ms / 1e3 for ms in runs(options, WAYS[name], "tuned", rate, "mean_e2el_ms")])
        for name in ONLINE
        for rate in options.rates
    }
    print(f"\n| mean E2EL, s | {' | '.join(f'{rate:g}/s' for rate in options.rates)} |")
    print(f"|---|{'---:|' * len(options.rates)}")
    for name in ONLINE:
        print(f"| {name} | {' | '.join(f'{online[name, rate].mean:.1f}' for rate in options.rates)} |")
    if options.out is not None:
        draw(options, offline, online, options.out)
    rows = [{"batches": name, "predictor": p, **asdict(of)} for (name, p), of in offline.items()]
    waits = [{"batches": name, "rate": rate, **asdict(of)} for (name, rate), of in online.items()]
    print(json.dumps({"request_throughput": rows, "mean_e2el_s": waits}))


def half(of: Interval) -> float:
    """Half of the width of an interval."""
    return (of.high - of.low) / 2


def columns(cells: Sequence[Interval]) -> npt.NDArray[np.float64]:
    """Means and both ends of intervals, shape (3, n)."""
    return np.array([[of.mean, of.low, of.high] for of in cells]).T


def runs(options: Options, policy: str, predictor: str, rate: float | None, key: str) -> list[float]:
    """The figure `key` of a run per seed, all requests there from the start or at so many requests/s."""
    found = []
    for seed in range(options.seed, options.seed + options.num_seeds):
        workload = scenario(
            options.trace,
            predictor=predictor,
            profile=options.profile,
            request_rate=rate,
            num_prompts=options.num_prompts,
            sample_seed=options.sample_seed,
            seed=seed,
        )
        found.append(float(workload.run(policy).summary[key]))
    return found


def draw(
    options: Options,
    offline: dict[tuple[str, str], Interval],
    online: dict[tuple[str, float], Interval],
    out: Path,
) -> None:
    """Throughput as bars, and latency against the request rate."""
    fig, (bars, lines) = style.figure(11.0, 4.0, 1, 2)
    for k, (predictor, text) in enumerate(PREDICTORS.items()):
        _bars(bars, k, text, [offline[name, predictor] for name in WAYS])
    style.tidy(bars, "x")
    bars.set_yticks(np.arange(len(WAYS)), list(WAYS), fontsize=style.FONT_SIZE)
    bars.invert_yaxis()
    bars.set_xlabel("Throughput, all requests there from the start (requests/s)")
    bars.legend(fontsize=style.FONT_SIZE, frameon=False)
    for k, name in enumerate(ONLINE):
        means, lows, highs = columns([online[name, rate] for rate in options.rates])
        lines.plot(
            options.rates, means, color=style.colour(k), linestyle=style.dash(k), label=name, marker="o"
        )
        lines.fill_between(options.rates, lows, highs, color=style.colour(k), alpha=0.2)
    style.log_scale(lines, "x", min(options.rates) * 0.9, max(options.rates) * 1.1)
    ends = np.array([of.mean for of in online.values()])
    style.log_scale(lines, "y", ends.min() * 0.8, ends.max() * 1.2)
    lines.set_xlabel("Request rate (requests/s)")
    lines.set_ylabel("Mean E2EL (s)")
    # between the curves of padded batches and that of continuous batching
    lines.legend(fontsize=style.FONT_SIZE, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.14))
    style.save(fig, out)


def _bars(ax: Axes, number: int, label: str, cells: Sequence[Interval]) -> None:
    means, lows, highs = columns(cells)
    places = np.arange(len(cells)) + 0.4 * (number - 0.5)
    ax.barh(
        places,
        means,
        0.38,
        xerr=(highs - lows) / 2,
        color=style.colour(number),
        label=label,
        ecolor=style.EDGE,
    )
    for place, mean, high in zip(places, means, highs, strict=True):
        ax.text(high, place, f"  {mean:.1f}", va="center", fontsize=style.FONT_SIZE - 1)


if __name__ == "__main__":
    run_script(main)
