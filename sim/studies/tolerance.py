"""Whether a simulation is near enough to what was measured: a bound for each kind of figure.

The throughput of a server that keeps up is the rate at which requests come, whatever the machine: it is
judged only where the server was saturated. Latencies are judged always.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from traces import quantities
from traces.errors import InputError

if TYPE_CHECKING:
    from .server_log import Against

DEFAULTS: Mapping[str, float] = {"ttft": 15.0, "tpot": 6.0, "e2el": 8.0, "throughput": 5.0}
"""Largest error in percent, by kind of figure."""

JUDGED: Mapping[str, tuple[str, ...]] = {
    **{kind: (f"mean_{kind}_ms", f"p99_{kind}_ms") for kind in ("ttft", "tpot", "e2el")},
    "throughput": ("output_throughput",),
}
"""The figures that each of them bounds, by summary key."""

BELOW_SATURATION = (
    "output_throughput is not judged: the server kept up, so that it is the rate at which requests came"
)


@dataclass(frozen=True)
class Judgement:
    """One figure's error, a fraction, against its bound in percent.

    `error`: NaN where either side lacks the figure. `spread`: by what fraction repeated measurements of the
    same thing differ from their median; an error within it is no error, whatever the bound.
    """

    figure: str
    error: float
    bound: float
    spread: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the error is within the bound, or within the spread where that is larger; either side."""
        return abs(self.error) <= max(self.bound / 100, self.spread)

    @property
    def limit(self) -> str:
        """The bound, or the spread where that is larger, which it says."""
        if self.spread > self.bound / 100:
            return f"{100 * self.spread:.3g} %, by which runs of one policy differ"
        return f"{self.bound:g} %"

    def __str__(self) -> str:
        if math.isnan(self.error):
            return f"{self.figure} is measured or predicted, but not both"
        return f"{self.figure} errs by {self.error:+.1%}, more than {self.limit}"


def parse_tolerances(texts: Iterable[str]) -> dict[str, float]:
    """Largest errors in percent by kind, of texts `KIND:PERCENT`; a number alone is that of all not named.

    Those that are given by neither are `DEFAULTS`. Raises InputError for anything else.
    """
    given: dict[str, float] = {}
    for text in texts:
        kind, colon, number = text.rpartition(":")
        if colon and kind not in DEFAULTS:
            raise InputError(
                f"tolerance: {text!r} is not KIND:PERCENT with KIND one of {', '.join(DEFAULTS)}"
            )
        if kind in given:
            what = kind or "a number for all"
            raise InputError(f"tolerance: {what} is given twice ({given[kind]:g} and {number} percent)")
        try:
            given[kind] = quantities.percent(number)
        except ValueError:
            raise InputError(
                f"tolerance: {text!r} is not KIND:PERCENT, such as ttft:15, or PERCENT"
            ) from None
        if not 0 < given[kind] < math.inf:
            raise InputError(f"tolerance: {text} must be above 0 percent and finite")
    for_all = given.pop("", None)
    return {
        kind: given.get(kind, default if for_all is None else for_all) for kind, default in DEFAULTS.items()
    }


def judge(comparison: Against, tolerances: Mapping[str, float]) -> list[Judgement]:
    """Every figure that a bound is for and that the log has, in the order of `JUDGED`."""
    kinds = [kind for kind in JUDGED if kind != "throughput" or comparison.is_saturated]
    errors = comparison.errors
    return [
        Judgement(figure, errors[figure], tolerances[kind])
        for kind in kinds
        for figure in JUDGED[kind]
        if figure in errors
    ]
