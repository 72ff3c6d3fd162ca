"""What the readers of load generators' results share: rows of a log, and small looks into JSON.

Knows nothing of any one result.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]

CAPS = ("max_tokens", "max_completion_tokens", "max_new_tokens", "max_output_tokens")
"""What the body of a request calls the most tokens that it allows."""
INSIDE = ("body", "payload", "json", "parameters")
"""Where such a body may lie."""


class Unfolded(NamedTuple):
    """Rows of a log, what they were taken from, what was assumed, and which objects they are if not all."""

    rows: list[Row]
    source: str
    notes: tuple[str, ...] = ()
    kept: Sequence[int] | None = None


def latencies(start: float | None, first: float | None, last: float | None, tokens: object) -> Row:
    """The three latencies in ms of a request by the seconds of its start, first token and end."""
    tpot = None
    if first is not None and last is not None and isinstance(tokens, int) and tokens > 1:
        tpot = 1e3 * (last - first) / (tokens - 1)
    return {
        "ttft_ms": None if start is None or first is None else 1e3 * (first - start),
        "tpot_ms": tpot,
        "e2el_ms": None if start is None or last is None else 1e3 * (last - start),
    }


def cap_of(request: Any) -> int | None:
    """The most tokens that a request allowed, by its body: an object, or the JSON text of one; None where it
    states none.
    """
    if isinstance(request, str):
        try:
            request = json.loads(request)
        except (ValueError, RecursionError):
            return None
    if not isinstance(request, dict):
        return None
    stated = (number(request.get(key)) for key in CAPS)
    cap = next((int(value) for value in stated if value is not None and value >= 1), None)
    inner = (cap_of(request[key]) for key in INSIDE if key in request)
    return cap if cap is not None else next((value for value in inner if value is not None), None)


def with_caps(rows: list[Row]) -> tuple[list[Row], tuple[str, ...]]:
    """The rows with `max_tokens` where every answered one states it, else without; a note where some do."""
    answered = [row.get("max_tokens") is not None for row in rows if not row.get("error")]
    if answered and all(answered):
        return rows, ()
    note = f"{answered.count(False)} of {len(answered)} requests state no max_tokens, so that none is used"
    without = [{key: value for key, value in row.items() if key != "max_tokens"} for row in rows]
    return without, (note,) if any(answered) else ()


def at(value: Any, *keys: str) -> Any:
    """What lies below these keys; None where one is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def first_of(*values: Any) -> Any:
    """The first that is not None."""
    return next((value for value in values if value is not None), None)


def number(value: Any) -> float | None:
    """A number as it is, None for anything else."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
