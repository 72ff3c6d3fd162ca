"""Fits a profile to measured iterations and estimates its errors; knows nothing of how they were measured.

The two regimes of `StepCost` are fitted separately. Whether what a context token costs depends on the batch,
and further terms of the mixed regime, are chosen by the error on grid cells that the fit did not see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date as Date
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sim.hardware.context_slopes import PER_CONTEXT, choose_num_slopes
from sim.hardware.datasheets import Gpu
from sim.hardware.kv_memory import KvMemory
from sim.hardware.model_shape import ModelShape
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.profile import Kind, Profile, Provenance
from sim.hardware.regime_fit import (
    Cells,
    FloatArray,
    IntArray,
    RegimeFit,
    cell_folds,
    choose_terms,
    cross_validate,
    errors_of_unseen,
    fit_regime,
    size_folds,
    summarise,
)
from sim.hardware.step_cost import StepCost
from sim.hardware.steps_file import COUNTS, LONGEST, read_steps, with_longest
from sim.hardware.uneven_contexts import (
    UNEVEN,
    DecodeFit,
    even_cells,
    fit_decode,
    uneven_tokens,
)
from traces.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FitReport", "fit", "read_steps"]

SOURCES: dict[str, Kind] = {
    "measured": "measured",
    "composed": "composed from measured kernels",
    "published": "published",
    "estimated": "roofline estimate",
}
"""Where the rows of a steps file may come from, and what numbers fitted to them are."""

ALWAYS = ("mixed_per_context_s", "mixed_per_attention_s")
CANDIDATES = ("mixed_per_decode_s", "mixed_per_longest_s", "mixed_per_key_s")
"""Terms of `StepCost` that the mixed regime gets only where they lower the cross-validated error."""


@dataclass(frozen=True)
class Repeats:
    """Cells with more than one row: how many, of how many rows, and how far the fit lies from them.

    of_means, of_medians: the mean over these cells of fitted over the mean (the median) of its rows, less 1.
    Where a few rows of a cell are slow its median is below its mean, and a run takes the sum of its steps.
    """

    num_cells: int
    num_rows: int
    of_means: float
    of_medians: float

    @property
    def text(self) -> str:
        """For people."""
        return (
            f"{self.num_rows:,} of {self.num_cells:,} cells; the fit lies {100 * self.of_means:+.2f} % from "
            f"their means, {100 * self.of_medians:+.2f} % from their medians"
        )


@dataclass(frozen=True)
class FitReport:
    """What the fit did, ready to be shown and drawn. Arrays have one entry per distinct cell, shape (n,)."""

    measured_s: FloatArray
    fitted_s: FloatArray
    is_mixed: npt.NDArray[np.bool_]
    """The cell has prefill in it."""
    errors: dict[str, dict[str, dict[str, float]]]
    """Absolute relative errors: regime (decode_only, mixed, and of both uneven_contexts) → how judged
    (in_sample, unseen_cells, unseen_sizes) → mean, median, p95, max. A way of judging is absent where there
    are too few cells or sizes for it."""
    alpha: tuple[tuple[float, float], ...]
    """(sequences, alpha of uneven contexts in decode-only iterations); empty where it was not measured."""
    slopes: tuple[tuple[float, float], ...]
    """(sequences, seconds per context token in decode-only iterations); one where it does not depend on
    them."""
    tried_slopes: dict[int, float]
    """Cross-validated mean error of every number of slopes that was tried."""
    terms: tuple[str, ...]
    """The coefficients that the mixed regime has."""
    repeats: Repeats | None
    """How the fit lies to rows of the same cell; None where no cell has more than one."""
    tried: dict[str, float]
    """Cross-validated mean error of every set of mixed terms that was tried."""
    notes: tuple[str, ...]
    """What these measurements cannot show."""

    def rows(self) -> list[tuple[str, str]]:
        """(label, value) rows for people."""
        rows = [
            (
                f"{regime} {way}".replace("_", " "),
                ", ".join(f"{name} {100 * value:.2f} %" for name, value in errors.items()),
            )
            for regime, ways in self.errors.items()
            for way, errors in ways.items()
        ]
        if self.repeats is not None:
            rows.append(("repeated rows", self.repeats.text))
        if len(self.slopes) > 1:
            costs = ", ".join(f"{1e6 * seconds:.3g} µs at batch {n:g}" for n, seconds in self.slopes)
            rows.append(("a context token, decode only", costs))
        rows.append(("mixed terms", ", ".join(self.terms)))
        if self.alpha:
            shares = ", ".join(f"{share:.3f} at batch {n:g}" for n, share in self.alpha)
            rows.append(("alpha of uneven contexts", shares))
        rows.extend(("note", note) for note in self.notes)
        return rows


def fit(
    steps: pd.DataFrame,
    name: str,
    *,
    model: ModelShape | None = None,
    gpu: Gpu | None = None,
    engine: str = "unstated",
    memory: KvMemory | None = None,
    host_s: float = 0.0,
    ragged_prefill: bool = False,
    ragged_decode: bool = False,
    async_scheduling: bool = False,
    source: str = "",
    kind: Kind = "measured",
    versions: dict[str, str] | None = None,
    date: str | None = None,
) -> tuple[Profile, FitReport]:
    """A profile from iterations as `read_steps` gives them, and a report on the fit.

    kind: what the iterations are; the profile's numbers are no better.

    host_s: what the engine adds to every iteration and that `step_ms` leaves out. ragged_*: see `StepCost`;
    async_scheduling: see `Profile`.
    date: ISO, by default today. Rows of the same cell count as one, at their mean. Weighted non-negative
    least squares on the relative error; 10-fold cross-validation, folds leaving out whole grid cells (and,
    reported beside it, whole batch sizes or token counts). Raises `InputError` for a missing regime.
    """
    by_cell = with_longest(steps).groupby([*COUNTS, LONGEST], sort=True)["step_ms"]
    cells = by_cell.mean().reset_index()
    mixed_rows = (cells["num_prefill"] > 0).to_numpy(dtype=bool)
    for there, regime in ((~mixed_rows, "decode-only rows"), (mixed_rows, "rows with prefill")):
        if not there.any():
            raise InputError(f"{source or name}: no {regime}; both regimes must be measured")
    decode_fit, mixed_fit, report = _fit_regimes(cells, mixed_rows)
    num_rows = np.asarray(by_cell.size(), dtype=np.int64)
    medians_ms = np.asarray(by_cell.median(), dtype=np.float64)
    report = replace(report, repeats=_repeats(report, num_rows, medians_ms / 1e3))
    coefficients: dict[str, Any] = {**mixed_fit.coefficients, **_beside_prefill(cells, decode_fit)}
    cost = StepCost(
        decode_base=decode_fit.even.base,
        decode_per_context_s=decode_fit.even.least_s,
        decode_context=decode_fit.even.beyond,
        mixed_base=mixed_fit.base,
        host_ms=round(host_s * 1e3, 9),
        ragged_prefill=ragged_prefill,
        ragged_decode=ragged_decode,
        decode_uneven=decode_fit.curve,
        **coefficients,
    )
    provenance = Provenance(
        kind=kind,
        date=date or Date.today().isoformat(),
        description=_description(kind, len(steps), len(cells), report),
        source=source,
        versions=versions or {},
        grid=_grid(cells.loc[~mixed_rows], cells.loc[mixed_rows]),
        residuals=report.errors,
    )
    profile = Profile(name, model, gpu, engine, cost, memory, provenance, async_scheduling=async_scheduling)
    return profile, report


def _fit_regimes(
    cells: pd.DataFrame, mixed_rows: npt.NDArray[np.bool_]
) -> tuple[DecodeFit, RegimeFit, FitReport]:
    """The fits of decode-only and of mixed iterations, and the report on both."""
    decode, mixed = _decode_cells(cells.loc[~mixed_rows]), _mixed_cells(cells.loc[mixed_rows])
    num_slopes, tried_slopes = choose_num_slopes(even_cells(decode))
    decode_fit = fit_decode(decode, num_slopes)
    terms = list(ALWAYS)
    if mixed.terms["mixed_per_uneven_s"].any():
        terms.append("mixed_per_uneven_s")
    tried: dict[str, float] = {}
    folds = cell_folds(len(mixed.seconds))
    if folds is not None:
        terms, tried = choose_terms(mixed, terms, CANDIDATES, folds)
    mixed_fit = fit_regime(mixed, terms)

    fitted = np.empty(len(cells))
    fitted[~mixed_rows], fitted[mixed_rows] = decode_fit.predict(decode), mixed_fit.predict(mixed)
    report = FitReport(
        measured_s=_column(cells, "step_ms") / 1e3,
        fitted_s=fitted,
        is_mixed=mixed_rows,
        errors=_errors(decode, decode_fit, num_slopes, mixed, mixed_fit),
        alpha=decode_fit.alpha,
        slopes=decode_fit.even.slopes,
        tried_slopes=tried_slopes,
        terms=tuple(terms),
        repeats=None,
        tried=tried,
        notes=_notes(cells.loc[~mixed_rows], cells.loc[mixed_rows], decode_fit),
    )
    return decode_fit, mixed_fit, report


def _beside_prefill(cells: pd.DataFrame, decode_fit: DecodeFit) -> dict[str, Any]:
    """Where no row shows what context costs beside a prefill: what it costs without."""
    if (cells["decode_context_tokens"] * cells["num_prefill"]).any():
        return {}
    even = decode_fit.even
    if even.beyond is None:
        return {"mixed_per_context_s": even.least_s}
    # Beside this curve a context token costs what it does in a decode-only iteration.
    return {"mixed_decode": PiecewiseLinear((1.0,), (0.0,))}


def _repeats(report: FitReport, num_rows: IntArray, medians_s: FloatArray) -> Repeats | None:
    """num_rows, medians_s: of every cell of the report, whose `measured_s` are means."""
    several = num_rows > 1
    if not several.any():
        return None
    of_means, of_medians = (
        float(np.mean(report.fitted_s[several] / measured_s[several])) - 1
        for measured_s in (report.measured_s, medians_s)
    )
    return Repeats(int(several.sum()), int(num_rows[several].sum()), of_means, of_medians)


def _decode_cells(rows: pd.DataFrame) -> Cells:
    return Cells(
        sizes=_column(rows, "num_decode"),
        terms={PER_CONTEXT: _column(rows, "decode_context_tokens"), UNEVEN: _uneven(rows)},
        seconds=_column(rows, "step_ms") / 1e3,
    )


def _mixed_cells(rows: pd.DataFrame) -> Cells:
    """The quantities that `StepCost.mixed_s` multiplies its coefficients with."""
    decode, context, tokens, attention = (
        _column(rows, name)
        for name in ("num_decode", "decode_context_tokens", "prefill_tokens", "prefill_attention")
    )
    keys = attention / tokens
    return Cells(
        sizes=decode + tokens,
        terms={
            "mixed_per_context_s": context,
            "mixed_per_attention_s": attention,
            "mixed_per_decode_s": decode,
            "mixed_per_longest_s": np.maximum(_column(rows, LONGEST), keys),
            "mixed_per_key_s": keys,
            "mixed_per_uneven_s": _uneven(rows),
        },
        seconds=_column(rows, "step_ms") / 1e3,
    )


def _column(rows: pd.DataFrame, name: str) -> FloatArray:
    return rows[name].to_numpy(dtype=np.float64)


def _uneven(rows: pd.DataFrame) -> FloatArray:
    columns = (_column(rows, name) for name in ("num_decode", "decode_context_tokens", LONGEST))
    return uneven_tokens(*columns)


def _errors(
    decode: Cells, decode_fit: DecodeFit, num_slopes: int, mixed: Cells, mixed_fit: RegimeFit
) -> dict[str, dict[str, dict[str, float]]]:
    """Summaries of the errors of both regimes, and of their cells with uneven contexts."""
    terms, refit = list(mixed_fit.coefficients), partial(fit_decode, num_slopes=num_slopes)
    judged = {
        "decode_only": _judge(decode, decode_fit, partial(errors_of_unseen, fit=refit)),
        "mixed": _judge(mixed, mixed_fit, lambda cells, folds: cross_validate(cells, terms, folds)),
    }
    is_uneven = {"decode_only": decode.terms[UNEVEN] > 0, "mixed": mixed.terms["mixed_per_uneven_s"] > 0}
    if any(uneven.any() for uneven in is_uneven.values()):
        judged["uneven_contexts"] = {
            way: np.concatenate([judged[regime][way][uneven] for regime, uneven in is_uneven.items()])
            for way in ("in_sample", "unseen_cells")
            if all(way in judged[regime] for regime in is_uneven)
        }
    return {
        regime: {way: summarise(errors) for way, errors in of_regime.items()}
        for regime, of_regime in judged.items()
    }


def _judge(
    cells: Cells,
    fitted: RegimeFit | DecodeFit,
    cross_validate: Callable[[Cells, IntArray], FloatArray],
) -> dict[str, FloatArray]:
    """Errors of the fit on its own cells, and of similar fits on cells and sizes left out."""
    ways = {"in_sample": fitted.predict(cells) / cells.seconds - 1}
    for way, folds in (
        ("unseen_cells", cell_folds(len(cells.seconds))),
        ("unseen_sizes", size_folds(cells.sizes)),
    ):
        if folds is not None:
            ways[way] = cross_validate(cells, folds)
    return ways


def _notes(decode: pd.DataFrame, mixed: pd.DataFrame, decode_fit: DecodeFit) -> tuple[str, ...]:
    notes = []
    most = int(mixed["num_prefill"].max())
    if int(mixed["num_prefill"].min()) == most:
        notes.append(
            f"Every row with prefill has num_prefill {most}, so a cost per prefill cannot be told apart; "
            "iterations with another number are predicted from their tokens and their attention alone."
        )
    if not mixed["num_decode"].any():
        notes.append(
            "No row decodes beside a prefill: a context token is taken to cost there what it costs in "
            "decode-only iterations, and a decoding sequence what a prompt token costs."
        )
    if decode.groupby("num_decode")["decode_context_tokens"].nunique().max() < 2:
        notes.append(
            "Every decode-only batch size was measured at one context, so the cost per context token rests "
            "on the differences between batch sizes."
        )
    if _uneven(decode).any() and not decode_fit.alpha:
        notes.append(
            "No decode-only row with uneven contexts lies between even rows of its batch size, so that what "
            "uneven contexts cost there is unknown and left out."
        )
    return tuple(notes)


def _description(kind: Kind, num_rows: int, num_cells: int, report: FitReport) -> str:
    text = (
        f"Fitted to {num_rows} {_CALLED[kind]} ({num_cells} distinct) by non-negative least squares on "
        "the relative error; terms of the mixed regime chosen by cross-validation: "
        f"{', '.join(report.terms)}."
    )
    if len(report.slopes) > 1:
        text += " What a context token costs depends on the batch, by cross-validation too."
    if report.repeats is not None:
        text += f" Repeated rows: {report.repeats.text}."
    return " ".join([text, *report.notes])


_CALLED: dict[Kind, str] = {
    "measured": "measured iterations",
    "composed from measured kernels": "iterations, each the sum of measured kernels,",
    "published": "published iterations",
    "what-if": "supposed iterations",
    "roofline estimate": "estimated iterations",
}


def _grid(decode: pd.DataFrame, mixed: pd.DataFrame) -> dict[str, str]:
    def span(rows: pd.DataFrame, column: str) -> str:
        return f"{rows[column].min():,.0f} to {rows[column].max():,.0f}"

    return {
        "decode_only": (
            f"{len(decode)} cells, batch {span(decode, 'num_decode')}, "
            f"{span(decode, 'decode_context_tokens')} context tokens"
        ),
        "mixed": (
            f"{len(mixed)} cells, {span(mixed, 'prefill_tokens')} prefill tokens in chunks "
            f"{span(mixed, 'num_prefill')}, batch {span(mixed, 'num_decode')}, "
            f"{span(mixed, 'decode_context_tokens')} context tokens"
        ),
    }
