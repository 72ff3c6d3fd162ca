"""Reads a request trace in any of the known formats, told apart by their column names.

A format is one function in `readers` and one entry in `FORMATS`. Knows nothing of containers (CSV, JSON lines
and Parquet look the same from here) and nothing of where a file came from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from . import checks, readers
from .errors import InputError
from .readers import Options, Tokenizer
from .tables import Records, Table, open_table
from .trace import Trace


@dataclass(frozen=True)
class Format:
    """One trace format: a table with every `required` column and none of the `excluded` is read by `read`.

    `optional` columns may be asked for too (a trailing * stands for any ending); all others are ignored.
    """

    name: str
    required: tuple[str, ...]
    read: Callable[[Table, Options], Trace]
    optional: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()

    def matches(self, columns: tuple[str, ...]) -> bool:
        """Whether a table with these columns is in this format."""
        return set(self.required) <= set(columns) and not set(self.excluded) & set(columns)

    def uses(self, column: str) -> bool:
        """Whether the reader may look at this column."""
        return any(fnmatchcase(column, pattern) for pattern in (*self.required, *self.optional))


def read(
    path: str | Path,
    *,
    seed: int = 0,
    max_new_tokens: int | None = None,
    tokenizer: Tokenizer | None = None,
) -> Trace:
    """The trace in a file of any known format, detected from its content.

    `seed` feeds what the file does not state and the reader draws (said in the trace's notes).
    `max_new_tokens` caps the output lengths (None: as they are; the paper's length files: 512).
    `tokenizer(text)` counts tokens, needed for ShareGPT, which holds text. Rows come in order of arrival,
    times in seconds from the first.
    Raises InputError, one line naming file, row, column, value and bound, for a file that is not wholly
    sound.
    """
    if max_new_tokens is not None and not 1 <= max_new_tokens <= checks.MAX_TOKENS:
        raise InputError(f"max_new_tokens: {max_new_tokens} is not between 1 and {checks.MAX_TOKENS}")
    if seed < 0:
        raise InputError(f"seed: {seed} is below 0")
    table = open_table(path, wanted=lambda column: any(known.uses(column) for known in FORMATS))
    form = _detect(table)
    trace = form.read(table, Options(seed, max_new_tokens, tokenizer))
    ignored = [column for column in table.columns if not form.uses(column)]
    if ignored:
        trace = replace(trace, notes=(*trace.notes, f"columns ignored: {', '.join(ignored)}"))
    return trace if max_new_tokens is None else trace.with_output_cap(max_new_tokens)


def _detect(table: Table) -> Format:
    if not isinstance(table, Records) or table.uniform:
        return _match(table.path, table.columns)
    first = _match(table.where(0), tuple(table.records[0]))
    seen: set[frozenset[str]] = set()
    for index, record in enumerate(table.records):
        keys = frozenset(record)
        if keys not in seen:
            seen.add(keys)
            form = _match(table.where(index), tuple(record), expected=first)
            if form is not first:
                wanted = f"that of {table.label(0)}, {first.name}, is needed"
                raise InputError(f"{table.where(index)}: is in format {form.name}; {wanted}")
    return _match(table.path, table.columns)


def _match(where: str, columns: tuple[str, ...], expected: Format | None = None) -> Format:
    found = [known for known in FORMATS if known.matches(columns)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(known.name for known in found)
        raise InputError(f"{where}: the columns fit {len(found)} formats, {names}; exactly 1 is allowed")
    missing = {known: [c for c in known.required if c not in columns] for known in FORMATS}
    nearest = min(FORMATS, key=lambda known: len(missing[known]) / len(known.required) or 1.0)
    if expected is not None and missing[expected]:
        nearest = expected
    elif len(missing[nearest]) in (0, len(nearest.required)):
        known_columns = "; ".join(f"{known.name}: {', '.join(known.required)}" for known in FORMATS)
        shown = checks.shown(", ".join(columns))
        raise InputError(f"{where}: columns {shown} are those of no known format ({known_columns})")
    absent = missing[nearest]
    what = f"column {absent[0]} is" if len(absent) == 1 else f"columns {', '.join(absent)} are"
    raise InputError(f"{where}: {what} missing (format {nearest.name} needs {', '.join(nearest.required)})")


FORMATS = (
    Format(
        "seqsched",
        required=("prompt_tokens", "output_tokens"),
        read=readers.seqsched,
        optional=(
            "request_id",
            "arrival_s",
            "predicted_tokens",
            "priority",
            "prompt",
            "user",
            "deadline_s",
            "L_*",
        ),
    ),
    Format("Azure", required=("TIMESTAMP", "ContextTokens", "GeneratedTokens"), read=readers.azure),
    Format("BurstGPT", required=("Timestamp", "Request tokens", "Response tokens"), read=readers.burstgpt),
    Format("Mooncake", required=("timestamp", "input_length", "output_length"), read=readers.mooncake),
    Format(
        "Vidur",
        required=("num_prefill_tokens", "num_decode_tokens"),
        read=readers.vidur,
        optional=("arrived_at",),
    ),
    Format("ShareGPT", required=("conversations",), read=readers.sharegpt, optional=("id",)),
    Format(
        "length file",
        required=readers.LENGTH_COLUMNS,
        read=readers.length_file,
        optional=("id",),
        excluded=("prompt_tokens", "output_tokens"),
    ),
)
