"""Which rows of a table are requests that were not completed, by its columns of states and errors.

Knows nothing of formats, lengths and times.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from . import checks
from .checks import BoolArray
from .errors import InputError
from .tables import Table
from .units import without_unit

STATES = (
    *("status", "state", "outcome", "request_status", "status_code", "http_status", "http_status_code"),
    *("http_code", "response_code", "response_status", "finish_reason"),
)
"""Columns that say how a request ended."""
SUCCESSES = ("success", "successful", "succeeded", "ok", "completed", "is_success")
"""Columns that say whether it was completed."""
FAILURES = (
    *("failed", "failure", "is_failed", "timed_out", "cancelled", "canceled", "was_cancelled"),
    *("is_error", "has_error", "is_cancelled", "is_timeout"),
)
"""Columns that say whether it was not."""
ERRORS = ("error", "errors", "error_message", "error_msg", "error_type", "error_code", "exception")
"""Columns that are empty where it was completed."""
COLUMNS = (*STATES, *SUCCESSES, *FAILURES, *ERRORS)

FAILED = re.compile(
    r"fail|error|time.?out|timed|abort|cancel|reject|refus|drop|expire|denied|throttl|unavail|exceed|incomplete|"
    r"lost|invalid|exception|kill|evict|unfinished|unserved|disconnect|^[45]\d\d(\D|$)|^(false|no)$",
    re.IGNORECASE,
)
"""What is in the words for a state that is no completion."""
TRUE = ("true", "t", "yes", "y", "1", "1.0", "ok", "success")
FALSE = ("false", "f", "no", "n", "0", "0.0", "", "none", "null", "nan")


@dataclass(frozen=True)
class Failures:
    """Rows that are no completed requests: where, shape (n,), and what is to be said of them."""

    where: BoolArray
    note: str


def is_named(column: str) -> bool:
    """Whether a column with this name says which requests were completed."""
    return without_unit(column) in COLUMNS


def failures(table: Table) -> Failures | None:
    """The rows that columns such as status, success and error say were not completed; None for none.

    Raises InputError where no row is left.
    """
    where = np.zeros(table.num_rows, dtype=np.bool_)
    first: dict[int, str] = {}
    for column in filter(is_named, table.columns):
        judged: dict[str, bool] = {}
        for index, value in enumerate(table.raw(column)):
            text = "" if value is None else str(value).strip()
            if text not in judged:
                judged[text] = _is_failure(without_unit(column), text)
            if judged[text]:
                where[index] = True
                first.setdefault(index, f"{column} {_shown(value)}")
    if not where.any():
        return None
    count, index = int(where.sum()), int(where.argmax())
    reason = f"{table.label(index)}: {first[index]}"
    if count == table.num_rows:
        raise InputError(
            f"{table.path}: all {count} requests failed ({reason}), at least 1 completed one is needed"
        )
    share = f"{count} of {table.num_rows} requests ({100 * count / table.num_rows:.2g} %)"
    return Failures(where, f"{share} failed and are left out, the first in {reason}")


def _is_failure(column: str, text: str) -> bool:
    if column in SUCCESSES:
        return text.lower() in FALSE
    if column in FAILURES:
        return text.lower() in TRUE
    if column in ERRORS:
        return text.lower() not in (*FALSE, "{}", "[]", "-")
    return FAILED.search(text) is not None and not text.lower().startswith(("no ", "no_", "none"))


def _shown(value: object) -> str:
    """A state or an error for people."""
    if isinstance(value, dict):
        named = [str(value[key]) for key in ("type", "error_type", "message", "error_msg") if value.get(key)]
        value = ": ".join(named) or value
    return checks.display(value) if not isinstance(value, str) else checks.display(value).strip("'\"")
