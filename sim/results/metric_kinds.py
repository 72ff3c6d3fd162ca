"""What a metric is: one number of a summary, or a latency, of which a summary has several statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from traces.trace import FloatArray

from .own_slos import Bound
from .tables import Columns, RunTables

STATISTICS = ("mean", "median", "std", "p90", "p99")
MILLISECONDS_PER_UNIT = {"s": 1e3, "ms": 1.0}


@dataclass(frozen=True)
class Metric:
    """One number of a summary.

    `name`: within a sentence, `unit` beside it; `heading`: over a column of a table, where it is another;
    `form`: for `str.format`, a latency already in `shown_unit`. `better`: whether more of it is better, less,
    or neither. `compute`: from the tables of a run; None for a statistic of a latency.
    """

    key: str
    name: str
    unit: str
    form: str
    better: Literal["more", "less", "neither"]
    definition: str
    compute: Callable[[RunTables], float | int | None] | None = None
    heading: str = ""
    shown_unit: Literal["s", "ms", ""] = ""

    @property
    def is_latency(self) -> bool:
        """Whether it is a statistic of a latency, of which completed requests alone have a value."""
        return self.shown_unit != ""

    @property
    def column_heading(self) -> str:
        """Over a column of a table, in two lines where it has two words."""
        heading = self.heading or self.name
        return heading.replace("/", "\n/") if "/" in heading else heading.replace(" ", "\n", 1)

    @property
    def scale(self) -> float:
        """Factor from a value to one in the unit that people are shown."""
        return 1 / MILLISECONDS_PER_UNIT[self.shown_unit] if self.shown_unit else 1.0

    @property
    def axis(self) -> str:
        """For an axis of a figure, in the unit that people are shown: `Mean TTFT (s)`, `p99 TPOT (ms)`."""
        name = self.name if self.name[1:2].isdigit() else self.name[:1].upper() + self.name[1:]
        unit = self.shown_unit or self.unit
        return f"{name} ({unit})" if unit else name

    def text(self, value: float | None) -> str:
        """A value for a table; a dash where it is undefined."""
        return "–" if value is None else self.form.format(value * self.scale)


@dataclass(frozen=True)
class Latency:
    """A time in ms whose statistics over completed requests are the keys `{statistic}_{key}_ms` of a summary.

    `of_requests`: its value per request in ms, NaN where undefined, from the per-request columns (times in
    seconds); the table of requests then has it as `{key}_ms`, and SLOs and goodput may bound it. None: it is
    pooled over the gaps between all tokens. `shown_unit`: of figures and tables.
    """

    key: str
    symbol: str
    title: str
    definition: str
    of_requests: Callable[[Columns], FloatArray] | None
    shown_unit: Literal["s", "ms"] = "s"

    @property
    def column(self) -> str:
        """Its name in the table of requests."""
        return f"{self.key}_ms"

    @property
    def axis(self) -> str:
        """For an axis of a figure of single requests."""
        return f"{self.title} ({self.shown_unit})"

    @property
    def scale(self) -> float:
        """Factor from a value to one in the unit that people are shown."""
        return 1 / MILLISECONDS_PER_UNIT[self.shown_unit]

    def values_ms(self, requests: Columns) -> FloatArray:
        """Its value per request, of shape (n,)."""
        assert self.of_requests is not None
        return self.of_requests(requests)

    def statistics(self, run: RunTables) -> dict[str, float | None]:
        """Each of STATISTICS in ms over the completed requests; None where there are none."""
        if self.of_requests is None:
            return dict(run.token_gaps_ms)
        return statistics(run.requests[self.column][run.steady])

    def metric(self, statistic: str) -> Metric:
        """One of its statistics as a number of a summary."""
        return Metric(
            key=f"{statistic}_{self.key}_ms",
            name=f"{statistic} {self.symbol}",
            unit="ms",
            form="{:.2f}",
            better="less",
            definition=f"{statistic} of: {self.definition}",
            heading=f"{statistic} {self.symbol} {self.shown_unit}",
            shown_unit=self.shown_unit,
        )


def statistics(values: FloatArray) -> dict[str, float | None]:
    """Each of STATISTICS over the values that are there."""
    values = values[~np.isnan(values)]
    if not len(values):
        return dict.fromkeys(STATISTICS)
    median, p90, p99 = (float(q) for q in np.percentile(values, (50, 90, 99)))
    return dict(zip(STATISTICS, (float(values.mean()), median, float(values.std()), p90, p99), strict=True))


def good_requests(
    requests: Columns, done: npt.NDArray[np.bool_], bounds_ms: Mapping[str, Bound]
) -> npt.NDArray[np.bool_]:
    """Which requests completed within every bound, by latency, for all or each its own; a TPOT that a
    one-token answer lacks is within any.
    """
    good = done.copy()
    for key, bound in bounds_ms.items():
        good &= np.nan_to_num(requests[f"{key}_ms"], nan=0.0) <= bound
    return good
