"""How close do simulated servers come to measured ones, and to the estimator that has the same kernels?

    python plots/accuracy.py                   (the rows that the terms of the host were fitted on)
    python plots/accuracy.py --judge --out accuracy.png

Replays rows of TTFT and TPOT that others measured, as they were made, under the engine's rules on a profile
composed from measured kernels. Needs the extra `kernels`, which has the rows too. Prints a Markdown table of
groups with medians of the absolute error, beside those of the package's own estimator; the last line of
stdout is JSON. `--judge` takes the rows that nothing was fitted on in place of the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plots import style
from sim.cli import run_script
from sim.parallel.runner import Workers
from sim.studies.measured_servers import FIGURES, Replayed, errors, figures, replay_all, servers

LABELS = {"ttft": "TTFT (ms)", "tpot": "TPOT (ms)", "rate": "requests/s"}
ENGINES = {"vllm": "vLLM", "trtllm": "TensorRT-LLM", "sglang": "SGLang"}
Points = Mapping[str, Sequence[tuple[float, float]]]
"""Engine → (measured, predicted) pairs."""


def scatter(ax: Axes, points: Points, label: str) -> None:
    """Predicted against measured, both logarithmic, a colour for each engine; the line is where they agree.

    Raises ValueError without a point.
    """
    values = [value for pairs in points.values() for pair in pairs for value in pair]
    if not values:
        raise ValueError("points: 0 are given, at least 1 is needed")
    low, high = min(values) / 1.3, max(values) * 1.3
    ax.plot([low, high], [low, high], color=style.EDGE, linewidth=0.8, zorder=1)
    ax.fill_between([low, high], [low / 1.1, high / 1.1], [low * 1.1, high * 1.1], color="#e9e9e9", zorder=0)
    for k, (engine, pairs) in enumerate(points.items()):
        if pairs:
            measured, predicted = zip(*pairs, strict=True)
            ax.plot(
                measured,
                predicted,
                "o",
                color=style.COLOURS[k % len(style.COLOURS)],
                markersize=2.6,
                alpha=0.6,
                markeredgewidth=0,
                label=f"{engine} ({len(pairs):,})",
            )
    style.log_scale(ax, "x", low, high)
    style.log_scale(ax, "y", low, high)
    ax.set_aspect("equal")
    ax.set_title(label, fontsize=style.FONT_SIZE)
    ax.set_xlabel("Measured (log scale)", fontsize=style.FONT_SIZE)


def report(rows: Sequence[Replayed]) -> Figure:
    """One panel each for TTFT, TPOT and the rate; the band is ±10 %. Raises ValueError without a row."""
    fig, axes = style.figure(9.6, 3.5, 1, 3)
    for ax, name in zip(axes, FIGURES, strict=True):
        points: dict[str, list[tuple[float, float]]] = {engine: [] for engine in ENGINES.values()}
        for row in rows:
            if row.simulated is not None:
                measured = figures(row.server, row.server.ttft_ms, row.server.tpot_ms)[name]
                predicted = figures(row.server, *row.simulated)[name]
                points[ENGINES[row.server.deployment.engine]].append((measured, predicted))
        scatter(ax, points, LABELS[name])
    axes[0].set_ylabel("Simulated (log scale)", fontsize=style.FONT_SIZE)
    axes[0].legend(fontsize=style.FONT_SIZE - 2, frameon=False, loc="upper left", markerscale=2)
    return fig


def by_group(rows: Sequence[Replayed]) -> dict[str, list[Replayed]]:
    """The rows of each group that the simulation can say something of."""
    groups: dict[str, list[Replayed]] = {}
    for row in rows:
        if row.simulated is not None:
            groups.setdefault(row.server.group, []).append(row)
    return dict(sorted(groups.items()))


def better(rows: Sequence[Replayed]) -> dict[str, float]:
    """The estimator's errors, each by the reading of the settings that has the smaller one."""
    readings = [errors(rows, by) for by in ("estimated", "estimated_full")]
    return {name: min(reading[name] for reading in readings) for name in FIGURES if all(readings)}


def table(groups: Mapping[str, Sequence[Replayed]]) -> str:
    """Markdown: medians of the absolute error in percent, the simulation's and the estimator's."""
    lines = [
        "| rows | | simulated: TTFT | TPOT | rate | estimator: TTFT | TPOT | rate |",
        "|---|" + "---:|" * 7,
    ]
    for name, rows in groups.items():
        ours, theirs = errors(rows, "simulated"), better(rows)
        cells = [
            f"{100 * found[figure]:.1f} %" if figure in found else "–"
            for found in (ours, theirs)
            for figure in FIGURES
        ]
        lines.append(f"| {name} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(*, judge: bool = False, out: Path | None = None, jobs: int = -1) -> None:
    """Replay measured servers and print how far off simulation and estimator are, group by group.

    Parameters
    ----------
    judge
        The rows that the terms of the host were not fitted on, in place of those they were.
    out
        Where to draw simulated against measured.
    jobs
        Processes; -1: one per core.
    """
    rows, left_out = servers(judge=judge)
    replayed = replay_all(rows, Workers(jobs))
    groups = by_group(replayed)
    print(table(groups))
    compared = [row for group in groups.values() for row in group]
    num_silent = len(replayed) - len(compared)
    if num_silent:
        left_out["no profile can be composed"] = num_silent
    for why, number in left_out.most_common():
        print(f"\nleft out, {number}: {why}")
    if out is not None:
        style.save(report(compared), out)
    found = {by: errors(compared, by) for by in ("simulated", "estimated", "estimated_full")}
    shares = {by: {name: round(value, 4) for name, value in found[by].items()} for by in found}
    medians = {
        "rows": len(compared),
        "groups": len(groups),
        "rows_per_group_median": float(np.median([len(g) for g in groups.values()])) if groups else None,
    }
    print(json.dumps({**medians, **shares}))


if __name__ == "__main__":
    run_script(main)
