"""Decides which unit a column of times is in, from its name, its format's habit, and what is plausible.

Two readings that are both plausible are refused, never guessed. Knows nothing of the formats themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np

from . import checks
from .checks import BoolArray
from .errors import InputError
from .tables import Table
from .trace import FloatArray, IntArray

Unit = Literal["s", "ms", "us", "ns"]

PER_SECOND: dict[Unit, float] = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
WORDS: dict[Unit, str] = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
LEAST_RATE, MOST_RATE = 0.01, 300.0
"""Requests per second between which a trace is plausible where nothing else tells its unit."""
MOST_HABITUAL_RATE = 1000.0
"""The same where the format tells it."""
EPOCH_S = (9.5e8, 4.2e9)
"""Seconds since 1970 of the years 2000 to 2103: times there are dates in disguise, whatever they are in."""
SHEET_DAYS, MOST_SHEET_DAYS = (36526, 73050), 60
"""Days since 1900 of the years 2000 to 2099, as spreadsheets write dates, and how many a trace may span."""
EPOCH_SPREAD = 0.05
"""What dates in disguise may differ by, as a share of the first."""

SUFFIX = re.compile(
    r"(?:^|[_\s.(\[-])(?:"
    r"(?P<s>s|secs?|seconds?)|(?P<ms>ms|msecs?|millis|milliseconds?)|"
    r"(?P<us>us|µs|usecs?|micros|microseconds?)|(?P<ns>ns|nsecs?|nanos|nanoseconds?)"
    r")[)\]]?$",
    re.IGNORECASE,
)


def checked_unit(text: str | None) -> Unit | None:
    """The unit that a user names; InputError for another text."""
    if text is not None and text not in get_args(Unit):
        raise InputError(f"time_unit: {text!r} is not one of {', '.join(get_args(Unit))}")
    return cast("Unit | None", text)


def unit_in_name(column: str) -> Unit | None:
    """The unit that a column's name ends with, as in `arrival_ms` or `Arrival (us)`."""
    found = SUFFIX.search(_words(column))
    return None if found is None else cast(Unit, found.lastgroup)


def without_unit(column: str) -> str:
    """The column's name in lower case, without the unit at its end, with underscores for all else."""
    return re.sub(r"[^a-z0-9]+", "_", SUFFIX.sub("", _words(column)).lower()).strip("_")


def _words(column: str) -> str:
    """The name with an underscore before each capital that follows a small letter: startTime, start_Time."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column)


@dataclass(frozen=True)
class Times:
    """A column of times: values since any epoch in units of 1/`per_second` s, shape (n,), and how read."""

    column: str
    values: FloatArray
    per_second: float
    read_as: str

    @property
    def seconds(self) -> FloatArray:
        """The same in seconds, shape (n,)."""
        return self.values / self.per_second


def read_times(
    table: Table,
    column: str,
    *,
    habit: Unit | None = None,
    is_certain: bool = False,
    is_date: bool = False,
    time_unit: str | None = None,
    unless: BoolArray | None = None,
) -> Times:
    """A column of times, numbers or dates, with its unit; rows where `unless` holds are not looked at.

    `habit` is the unit that files of the format have, `is_certain` that the file is surely of that format,
    `is_date` that the format has dates. `time_unit`, the user's word, settles it. Raises InputError for a
    value that is no time, and where two units are plausible.
    """
    unit = checked_unit(time_unit)
    named = unit_in_name(column)
    values = table.numbers(column)
    rows = np.arange(table.num_rows) if unless is None else np.flatnonzero(~unless)
    if values is None and (is_date or _holds_dates(table, column, rows)):
        return _dates(table, column, unit, named, unless)
    top = checks.MAX_TIME_S * PER_SECOND["ns"]
    if values is None or not ((values >= 0) & (values <= top)).all():
        values = checks.times(table, column, PER_SECOND[unit or named or habit or "s"], unless)
    decided, why = _decide(table, column, rows, values[rows], unit, named, habit, is_certain)
    per_second = PER_SECOND[decided]
    values = checks.times(table, column, per_second, unless)
    return Times(column, values, per_second, f"{table.called(column)} read as {WORDS[decided]}{why}")


def _decide(
    table: Table,
    column: str,
    rows: IntArray,
    values: FloatArray,
    given: Unit | None,
    named: Unit | None,
    habit: Unit | None,
    is_certain: bool,
) -> tuple[Unit, str]:
    """The unit of the times in these rows, and what is to be added where that is said."""
    if given is not None:
        return given, ", as asked"
    epoch = _epoch_unit(values)
    if epoch is not None:
        if named is not None and named != epoch:
            what = (
                f"{values[0]:.0f} is a date since 1970 in {WORDS[epoch]}, where {WORDS[named]} are needed by "
                f"the column's name; --time-unit {epoch} reads it so"
            )
            raise checks.fault(table, int(rows[0]), column, what)
        return epoch, " since 1970"
    rates = _rates(values)
    if named is not None:
        return named, _doubt(rates, named)
    _refuse_missing_dates(table, column, rows, values)
    _refuse_days(table, column, rows, values, habit)
    if not rates:  # all at once, whatever they are in
        return habit or "s", ""
    fractional = bool((values != np.floor(values)).any())
    if habit == "s" and fractional:
        return habit, ""
    if is_certain and habit is not None and not fractional and _is_within(rates[habit], MOST_HABITUAL_RATE):
        return habit, ""
    possible = _possible(rates, fractional)
    if possible == [habit] or (possible == ["s"] and fractional) or (len(possible) == 1 and habit is None):
        return possible[0], ""
    if not possible and habit is not None:
        return habit, ""
    raise InputError(f"{table.path}, {table.called(column)}: {_ambiguity(rates, possible, habit)}")


def _possible(rates: dict[Unit, float], fractional: bool) -> list[Unit]:
    """The units of an ordinary rate. Fractions speak for seconds, so that these stay possible beside them."""
    if not fractional:
        return [unit for unit, rate in rates.items() if _is_within(rate, MOST_RATE)]
    return (
        ["s"] if _is_within(rates["s"], MOST_RATE) and not _is_within(rates["ms"], MOST_RATE) else ["s", "ms"]
    )


def _is_within(rate: float, most: float) -> bool:
    return LEAST_RATE <= rate <= most


def _rates(values: FloatArray) -> dict[Unit, float]:
    """Requests per second by the unit that these times may be in; empty where they do not differ."""
    span = float(np.ptp(values)) if len(values) else 0.0
    return {u: (len(values) - 1) * per / span for u, per in PER_SECOND.items()} if span > 0 else {}


def _ambiguity(rates: dict[Unit, float], possible: list[Unit], habit: Unit | None) -> str:
    units = [habit] if habit is not None and habit not in possible else []
    units += possible or list(rates)
    readings = "; ".join(f"{WORDS[unit]}: {rate_text(rates[unit])}" for unit in units)
    flags = " or ".join(units)
    return f"the unit of its times is not clear ({readings}); --time-unit {flags} says which"


def _doubt(rates: dict[Unit, float], named: Unit) -> str:
    """What is added where the unit in a name makes an odd rate and another an ordinary one."""
    if not rates or LEAST_RATE <= rates[named] <= MOST_HABITUAL_RATE:
        return ""
    others = [unit for unit in rates if 0.1 <= rates[unit] <= 100]
    if not others:
        return ""
    return f" by its name, where {WORDS[others[0]]} would make {rate_text(rates[others[0]])}"


def _epoch_unit(values: FloatArray) -> Unit | None:
    """The unit in which all of these are dates of this century, close together."""
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    for unit, per_second in PER_SECOND.items():
        if EPOCH_S[0] * per_second <= low <= EPOCH_S[1] * per_second and high - low <= EPOCH_SPREAD * low:
            return unit
    return None


def _refuse_missing_dates(table: Table, column: str, rows: IntArray, values: FloatArray) -> None:
    """InputError where all are dates but some that are 0, which then stands for a missing one."""
    if 0 in values and _epoch_unit(values[values > 0]) is not None:
        what = (
            "0 is no date, where all others are dates since 1970; if they are not, --time-unit says the unit"
        )
        raise checks.fault(table, int(rows[(values == 0).argmax()]), column, what)


def _refuse_days(table: Table, column: str, rows: IntArray, values: FloatArray, habit: Unit | None) -> None:
    """InputError for what may be dates of a spreadsheet: days since 1900, the time of day as a fraction."""
    if habit is not None or not len(values) or (values == np.floor(values)).all():
        return
    if SHEET_DAYS[0] <= values.min() and values.max() <= SHEET_DAYS[1] and np.ptp(values) <= MOST_SHEET_DAYS:
        day = f"{np.datetime64('1899-12-30') + int(values[0])}"
        what = f"{values[0]:.10g} may be a date of a spreadsheet, {day}, or a number of seconds"
        advice = "write dates as 2023-11-16 18:15:46.68, or say --time-unit s"
        raise checks.fault(table, int(rows[0]), column, f"{what}; {advice}")


def _holds_dates(table: Table, column: str, rows: IntArray) -> bool:
    first = table.raw(column)[rows[0]] if len(rows) else None
    return isinstance(first, str) and re.match(r"\s*\d{4}-\d\d-\d\d", first) is not None


def _dates(
    table: Table, column: str, unit: Unit | None, named: Unit | None, unless: BoolArray | None
) -> Times:
    if unit is not None:
        name = table.called(column)
        raise InputError(f"time_unit: {unit} is of no use for {name} of {table.path}, which holds dates")
    if named is not None:
        first = 0 if unless is None else int((~unless).argmax())
        what = (
            f"{checks.display(table.raw(column)[first])} is not a number, but a date and time; the column's "
            f"name asks for {WORDS[named]} (call it timestamp to have dates read)"
        )
        raise checks.fault(table, first, column, what)
    return Times(column, checks.instants(table, column, unless), 1.0, f"{table.called(column)} read as dates")


def span_text(span_s: float) -> str:
    """A span of time for people, such as `61.1 s`."""
    return f"{span_s:,.1f} s" if span_s >= 10 else f"{span_s:.3g} s"


def rate_text(rate: float) -> str:
    """A rate for people, such as `0.049 requests/s`."""
    return f"{rate:,.0f} requests/s" if rate >= 100 else f"{rate:.2g} requests/s"


ARRIVALS = (
    "arrival",
    "arrival_time",
    "arrived_at",
    "arrival_timestamp",
    "timestamp",
    "time_stamp",
    "datetime",
    "date_time",
    "time",
    "ts",
    "request_start",
    "request_start_time",
    "start_time",
    "starttime",
    "created_at",
    "submit_time",
    "submitted_at",
    "send_time",
    "sent_at",
    "received_at",
)
"""What a column of arrival times is called, without its unit, the surest name first."""


GAPS = (
    "gap",
    "gaps",
    "interarrival",
    "inter_arrival",
    "interarrival_time",
    "inter_arrival_time",
    "iat",
    "time_delta",
)
"""What a column of the times between arrivals is called, without its unit."""
OFFSETS = (
    "relative_time",
    "time_offset",
    "start_offset",
    "offset",
    "elapsed",
    "elapsed_time",
    "t",
    "since_start",
)
"""What a column that may be of arrival times, or not, is called, without its unit."""
LONG_UNIT = re.compile(r"(?:^|[_\s(])(mins?|minutes?|h|hrs?|hours?|days?)\)?$", re.IGNORECASE)


def long_unit_in_name(column: str) -> str | None:
    """The unit beyond seconds that a column's name ends with, as in `sent_minutes`; None for none."""
    found = LONG_UNIT.search(_words(column))
    return None if found is None else found[1]


def near_arrivals(path: str, columns: tuple[str, ...]) -> dict[str, str]:
    """Columns that are no arrival times but near them -> what is to be said of them.

    Raises InputError for arrival times in minutes, hours or days.
    """
    said = {}
    for column in columns:
        name, long_unit = without_unit(column), long_unit_in_name(column)
        if long_unit is not None and without_unit(LONG_UNIT.sub("", _words(column))) in ARRIVALS:
            raise InputError(f"{path}: column {column} is in {long_unit}; write it in seconds, as arrival_s")
        if name in GAPS:
            said[column] = "gaps; their running sum is read as arrival_s"
        elif name in OFFSETS:
            said[column] = "read as arrival times if it is called arrival"
    return said


def arrival_column(columns: tuple[str, ...]) -> str | None:
    """The column that holds the arrival times, by its name; `arrival_s` before any other."""
    if "arrival_s" in columns:
        return "arrival_s"
    by_name: Callable[[str], int] = lambda column: ARRIVALS.index(without_unit(column))  # noqa: E731
    found = [column for column in columns if without_unit(column) in ARRIVALS]
    return min(found, key=by_name, default=None)
