"""What each batch of a run computed: token grids and timelines. Takes Results; runs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path

from sim.results.batch_record import BatchRecord
from sim.results.result import Result

from . import style

IntArray = npt.NDArray[np.int64]
Box = tuple[float, float, float, float]

GROUP_SIZE = 256
MAX_BATCHES = 200
NO_PADDED = "no padded batches to draw:\ncontinuous batching has none"
PANELS_PER_ROW = 4
GRID_PARTS = (
    ("padding", style.PADDING, ""),
    ("cut off and recomputed", style.RECOMPUTED, "///"),
    ("useful", style.USEFUL, ""),
)
TIMELINE_PARTS = (
    ("finished rows", style.USEFUL, ""),
    ("rows cut off", style.RECOMPUTED, "////"),
    ("perception", style.PERCEPTION, "...."),
)


def token_grid(
    result: Result, ax: Axes, group: int = 0, group_size: int = GROUP_SIZE, name: str | None = None
) -> None:
    """What one group cost, token by token: a row per attempt in the order in which they ran.

    A row is as wide as it computed; thin lines part the batches; perception is not drawn. A group is all
    padded batches until another `group_size` requests have finished (the last: until none is left). The title
    gives its effective token ratio (final attempts) and, where some failed, the useful share of all attempts.
    Raises ValueError where the run has no such group.
    """
    rows = _attempts(result, group, group_size)
    useful, failed, padding, bounds = [], [], [], []
    top = 0
    for width, outputs in rows:
        done = outputs <= width
        for row, (output, finished) in enumerate(
            zip(outputs.tolist(), done.tolist(), strict=True), start=top
        ):
            if finished:
                useful.append((0.0, row, output, 1.0))
                padding.append((output, row, width - output, 1.0))
            else:
                failed.append((0.0, row, width, 1.0))
        top += len(outputs)
        bounds.append((top, width))
    for boxes, (part, colour, hatch) in zip((padding, failed, useful), GRID_PARTS, strict=True):
        _boxes(ax, boxes, part, colour, hatch)
    widest = max(width for _, width in bounds)
    ax.hlines([b for b, _ in bounds], 0, [w for _, w in bounds], colors="white", linewidth=0.7)
    outline_x = [0, *np.repeat([w for _, w in bounds], 2), 0]
    outline_y = [0, *np.repeat([0, *(b for b, _ in bounds)], 2)[1:-1], top]
    ax.plot(outline_x, outline_y, color=style.EDGE, linewidth=0.6)
    style.tidy(ax, "none")
    ax.set_xlim(0, widest * 1.03)
    ax.set_ylim(top, 0)
    ax.set_xlabel("Decoded length of the row (tokens)")
    shown = sum(int((lengths <= width).sum()) for width, lengths in rows)
    ax.set_ylabel(_grid_label(result.summary["completed"], shown, group, group_size))
    ax.set_title(_grid_title(rows, name or str(result.summary["policy"])), fontsize=style.FONT_SIZE)


def _attempts(result: Result, group: int, group_size: int) -> list[tuple[int, IntArray]]:
    """Per padded batch of the group: the tokens each of its rows computed, and what they needed yet."""
    if group < 0 or group_size < 1:
        raise ValueError(f"group ({group}) must be at least 0 and group_size ({group_size}) at least 1")
    outputs = np.asarray(result.columns["output_tokens"])
    chosen: list[tuple[int, IntArray]] = []
    finished = 0
    for batch in result.batches:
        if batch.is_question or not batch.is_padded:
            continue
        if finished >= (group + 1) * group_size:
            break
        lengths = _left(batch, outputs)
        if finished >= group * group_size:
            chosen.append((batch.iterations, lengths))
        finished += int((lengths <= batch.iterations).sum())
    if not chosen and not has_padded(result):
        raise ValueError(NO_PADDED)
    if not chosen:
        raise ValueError(
            f"group ({group}) must be below {ceil(finished / group_size)}, the groups of this run"
        )
    return chosen


def has_padded(result: Result) -> bool:
    """Whether a run has padded batches, and not iterations of continuous batching alone."""
    return any(batch.is_padded and not batch.is_question for batch in result.batches)


def _grid_label(completed: int, shown: int, group: int, group_size: int) -> str:
    """What the rows of a grid are, and of which requests where it does not show the whole run."""
    label = "Rows computed, in order (attempts)"
    last = min((group + 1) * group_size, completed)
    part = f"requests {group * group_size + 1:,} to {last:,} of {completed:,} to finish"
    return label if shown >= completed else f"{label}\n{part}"


def _grid_title(rows: list[tuple[int, IntArray]], name: str) -> str:
    useful = sum(int(lengths[lengths <= width].sum()) for width, lengths in rows)
    final = sum(width * int((lengths <= width).sum()) for width, lengths in rows)
    computed = sum(width * len(lengths) for width, lengths in rows)
    title = f"{style.label(name, 30, 3)}\neffective token ratio {style.percent(useful / max(final, 1))}"
    return title if computed == final else f"{title}\n({style.percent(useful / computed)} of all attempts)"


def token_grids(results: Mapping[str, Result], group: int = 0, group_size: int = GROUP_SIZE) -> Figure:
    """The token grid of the same group under each policy, on one scale: equal areas are equal tokens."""
    columns = min(len(results), PANELS_PER_ROW)
    lines = ceil(len(results) / columns)
    fig, axes = style.figure(max(1.0 + 2.9 * columns, 5.5), 0.7 + 5.0 * lines, lines, columns)
    filled: list[Axes] = []
    for k, (ax, (name, result)) in enumerate(zip(axes, results.items(), strict=False)):
        try:
            token_grid(result, ax, group, group_size, name)
            filled.append(ax)
        except ValueError as reason:
            style.say(ax, f"{style.label(name, 30, 3)}\n{reason}")
        if k % columns:
            ax.set_ylabel("")
    widest = max((ax.get_xlim()[1] for ax in filled), default=1.0)
    longest = max((ax.get_ylim()[0] for ax in filled), default=1.0)
    for ax in filled:
        ax.set_xlim(0, widest)
        ax.set_ylim(longest, 0)
    for ax in axes[len(results) :]:
        ax.set_axis_off()
    _legend(fig, GRID_PARTS[::-1])
    return fig


def batch_timeline(result: Result, ax: Axes, until_s: float | None = None) -> None:
    """Batches over time, from the first arrival: as long as they ran, as high as they have rows.

    Rows that were cut off at the limit stand on top of those that finished. `until_s` cuts the time axis.
    """
    outputs = np.asarray(result.columns["output_tokens"])
    origin = float(np.min(result.columns["arrival_s"]))
    batches = [
        b for b in result.batches if b.iterations and (until_s is None or b.start_s - origin < until_s)
    ]
    done = [_num_finished(b, outputs) for b in batches]
    parts: list[list[Box]] = [[], [], []]
    for b, finished in zip(batches, done, strict=True):
        start, span, rows = b.start_s - origin, b.end_s - b.start_s, len(b.request_ids)
        if b.is_question:
            parts[2].append((start, 0.0, span, rows))
        else:
            parts[0].append((start, 0.0, span, finished))
            parts[1].append((start, finished, span, rows - finished))
    for boxes, (part, colour, hatch) in zip(parts, TIMELINE_PARTS, strict=True):
        _boxes(ax, boxes, part, colour, hatch)
    style.tidy(ax, "y")
    highest = max((len(b.request_ids) for b in batches), default=1)
    end = max((b.end_s - origin for b in batches), default=1.0) if until_s is None else until_s
    edges = [b.end_s - origin for b in batches]
    if len(batches) <= 400:  # more would paint the picture white
        ax.vlines(edges, 0, [len(b.request_ids) for b in batches], colors="white", linewidth=0.5)
    ax.set_xlim(0, end or 1.0)
    ax.set_ylim(0, highest * 1.05)
    ax.set_xlabel("Time since the first arrival (s)")
    ax.set_ylabel("Batch size (rows)")


def batch_timelines(results: Mapping[str, Result], until_s: float | None = None) -> Figure:
    """The timeline of each policy, one under the other, on one scale.

    Without `until_s` it ends where some policy has run `MAX_BATCHES`; more could not be told apart.
    """
    whole = max(_ends(result).max(initial=0.0) for result in results.values())
    if until_s is None:
        until_s = min(
            [float(e[MAX_BATCHES - 1]) for r in results.values() if len(e := _ends(r)) > MAX_BATCHES],
            default=None,
        )
    fig, axes = style.figure(10, 0.9 + 1.75 * len(results), rows=len(results))
    for ax, (name, result) in zip(axes, results.items(), strict=True):
        batch_timeline(result, ax, until_s)
        ax.set_title(style.label(name, 90, 2).replace("\n", ": "), fontsize=style.FONT_SIZE, loc="left")
        if not has_padded(result):
            ax.text(0.5, 0.9, NO_PADDED.replace("\n", " "), transform=ax.transAxes, ha="center", va="top")
        if ax is not axes[-1]:
            ax.set_xlabel("")
        elif until_s is not None and until_s < whole:
            ax.set_xlabel(f"Time since the first arrival (s), the first {until_s:,.0f} of {whole:,.0f} s")
    end, highest = max(ax.get_xlim()[1] for ax in axes), max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_xlim(0, end)
        ax.set_ylim(0, highest)
    _legend(fig, TIMELINE_PARTS)
    return fig


def _ends(result: Result) -> npt.NDArray[np.float64]:
    """When each batch ended, in seconds since the first arrival."""
    origin = float(np.min(result.columns["arrival_s"]))
    return np.array([b.end_s - origin for b in result.batches if b.iterations], dtype=np.float64)


def _num_finished(batch: BatchRecord, outputs: IntArray) -> int:
    return int((_left(batch, outputs) <= batch.iterations).sum())


def _left(batch: BatchRecord, outputs: IntArray) -> IntArray:
    """What each row's answer needs yet as the batch begins (tokens); `outputs` by request id."""
    lengths: IntArray = outputs[list(batch.request_ids)]
    return lengths - np.array(batch.answered) if batch.answered else lengths


def _boxes(ax: Axes, boxes: Iterable[Box], part: str, colour: str, hatch: str) -> None:
    """Rectangles (left, top, width, height) as one filled shape, so that no seams show between neighbours."""
    kept = np.array([b for b in boxes if b[2] > 0 and b[3] > 0], dtype=float).reshape(-1, 4)
    if not len(kept):
        return
    x, y, w, h = kept.T
    corners = np.stack([np.stack([x, y], 1), np.stack([x + w, y], 1), np.stack([x + w, y + h], 1)], 1)
    corners = np.concatenate([corners, np.stack([x, y + h], 1)[:, None]], 1)
    shape = Path.make_compound_path_from_polys(corners)
    ax.add_patch(
        PathPatch(shape, facecolor=colour, hatch=hatch, edgecolor=style.EDGE, linewidth=0, label=part)
    )


def _legend(fig: Figure, parts: Iterable[tuple[str, str, str]]) -> None:
    handles = [
        Patch(facecolor=c, hatch=hatch, edgecolor=style.EDGE, linewidth=0.5, label=part)
        for part, c, hatch in parts
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=style.FONT_SIZE)
