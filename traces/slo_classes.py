"""Draws a class for each request, and with it the bounds that the request states on its latencies; knows
nothing of files, schedulers or routers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from . import checks, quantities, spec
from .errors import InputError
from .generating import stream
from .sessions import first_rows
from .trace import CLASS_NAME, MOST_CLASSES, OTHER_CLASSES, SLO_COLUMNS, FloatArray, Trace, is_class

LATENCIES = tuple(column.removesuffix("_slo_ms") for column in SLO_COLUMNS)
"""What a class may bound."""

HELP = (
    "Draw a class for each request (all of a session get one), whose bounds take the place of those in the "
    "trace: `NAME:share=S,ttft=MS,tpot=MS,e2el=MS` with semicolons between, such as "
    "`chat:share=70%,ttft=300,tpot=40;batch:share=30%,e2el=30s`."
)

EXAMPLE = "chat:share=0.7,ttft=300,tpot=40"


@dataclass(frozen=True)
class SloClass:
    """A kind of requests: its name, the share of the requests that it is, and its bounds in ms by latency."""

    name: str
    share: float
    bounds_ms: Mapping[str, float]


def parse_classes(text: str) -> tuple[SloClass, ...]:
    """The classes in `NAME:share=S,ttft=MS,tpot=MS,e2el=MS;…`; bounds are in ms, or as `2s` in another unit,
    and a share may be `70%`.

    One class may leave its share out: it is what the others leave. What all leave states no bound. Raises
    InputError for anything else, naming the class, the value and its bound.
    """
    parts = [spec.parse(part, "slo_classes") for part in spec.names_of(text, "slo_classes")]
    parts = [(name.strip(), options) for name, options in parts]
    names = [name for name, _ in parts]
    for name in names:
        if not is_class(name):
            raise InputError(f"slo_classes: {checks.display(name)} is not {CLASS_NAME}")
    if len(set(names)) < len(names):
        twice = next(name for k, name in enumerate(names) if name in names[:k])
        raise InputError(f"slo_classes: {twice} is given twice, 1 is allowed")
    if len(names) > MOST_CLASSES:
        raise InputError(f"slo_classes: {len(names)} classes are given, {MOST_CLASSES} are allowed")
    without = [name for name, options in parts if "share" not in options]
    if len(without) > 1:
        raise InputError(f"slo_classes: {' and '.join(without)} have no share, 1 class may leave it out")
    shares = {name: _share(name, options["share"]) for name, options in parts if "share" in options}
    total = math.fsum(shares.values())
    if total > 1 + 1e-9 or (without and not total < 1):
        most = f"below 1, for {without[0]} has none" if without else "at most 1"
        raise InputError(f"slo_classes: the shares sum to {total:g}, which must be {most}")
    classes = tuple(
        SloClass(name, shares.get(name, 1 - total), _bounds_ms(name, options)) for name, options in parts
    )
    if not any(each.bounds_ms for each in classes):
        raise InputError(f"slo_classes: {text!r} bounds none of {', '.join(LATENCIES)}, as in {EXAMPLE}")
    return classes


def with_slo_classes(trace: Trace, text: str, seed: int) -> Trace:
    """The trace with a class drawn for each request, and its bounds in place of those that it states.

    Draws are independent, by share; all requests of a session are of one class. The same seed gives a request
    the same class, wherever the trace ends. Raises InputError for classes that `parse_classes` refuses.
    """
    classes = parse_classes(text)
    if seed < 0:
        raise InputError(f"seed: {seed} must be at least 0")
    drawn = _of_sessions(trace, stream(seed, "slo classes").random(len(trace)))
    ends = np.cumsum([each.share for each in classes])
    if math.isclose(ends[-1], 1.0, rel_tol=0, abs_tol=1e-9):
        ends[-1] = 1.0  # no request is left over by rounding
    chosen = np.searchsorted(ends, drawn, side="right")
    bounds = {f"{name}_slo_ms": _column(classes, name)[chosen] for name in LATENCIES}
    columns: dict[str, Any] = {
        name: None if np.isnan(values).all() else values for name, values in bounds.items()
    }
    names = np.array([*(each.name for each in classes), ""], dtype=object)[chosen]
    counts = np.bincount(chosen, minlength=len(classes) + 1) / len(trace)
    shares = ", ".join(f"{each.name} {share:.1%}" for each, share in zip(classes, counts, strict=False))
    return replace(
        trace,
        **columns,
        slo_class=names,
        notes=(*trace.notes, f"classes of SLOs are drawn, seed {seed}: {shares} of the requests"),
    )


def told_apart(names: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """The classes of a file's rows, shape (n,), of which the rarest are one beyond `MOST_CLASSES`, and a note
    where they are: logs of several runs may name more than one run may.
    """
    counts = Counter(name for name in names.tolist() if name)
    if len(counts) <= MOST_CLASSES:
        return names, ()
    own = counts.copy()
    own.pop(OTHER_CLASSES, None)
    kept = {name for name, _ in own.most_common(MOST_CLASSES - 1)} | {OTHER_CLASSES, ""}
    is_rare = np.array([name not in kept for name in names.tolist()])
    note = (
        f"slo_class has {len(counts)} classes, {MOST_CLASSES} are told apart: the rarest, of {is_rare.sum()} "
        f"of {len(names)} requests, are {OTHER_CLASSES!r}"
    )
    return np.where(is_rare, OTHER_CLASSES, names), (note,)


def _of_sessions(trace: Trace, drawn: FloatArray) -> FloatArray:
    """What was drawn for the first request of each one's session, shape (n,)."""
    if trace.sessions is None:
        return drawn
    return drawn[first_rows(trace.sessions)]


def _column(classes: Sequence[SloClass], latency: str) -> FloatArray:
    """The bound of each class on a latency, NaN for none, and one more for requests of no class."""
    return np.array([*(each.bounds_ms.get(latency, math.nan) for each in classes), math.nan])


def _share(name: str, text: str) -> float:
    try:
        share = quantities.share(text)
    except ValueError:
        raise InputError(f"slo_classes: {name}: share {text!r} is not a number, such as 0.7 or 70%") from None
    if not 0 < share <= 1:
        raise InputError(f"slo_classes: {name}: share {text} must be above 0 and at most 1")
    return share


def _bounds_ms(name: str, options: Mapping[str, str]) -> dict[str, float]:
    bounds = dict[str, float]()
    for key, text in options.items():
        if key == "share":
            continue
        if key not in LATENCIES:
            known = ("share", *LATENCIES)
            hint = spec.nearest(key, known)
            raise InputError(f"slo_classes: {name}: {key!r} is not one of {', '.join(known)}{hint}")
        try:
            bounds[key] = quantities.milliseconds(text)
        except ValueError:
            raise InputError(
                f"slo_classes: {name}: {key} {text!r} is not a number of milliseconds, nor one with a unit "
                f"({quantities.DURATION_UNITS})"
            ) from None
        if not 0 < bounds[key] < math.inf:
            raise InputError(f"slo_classes: {name}: {key} {text} must be above 0 ms and finite")
    return bounds
