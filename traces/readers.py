"""The trace formats by name: each says which columns it is known by, and reads a table of them as a Trace.

One more is a class here and a line in `FORMATS`; in a module of your own it is a class over `Format`, named
as `some.module:Class:file=PATH`. Knows nothing of what holds the table (`tables`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from . import checks
from .errors import InputError
from .registry import Registry
from .tables import Table
from .trace import DEFAULT_MAX_NEW_TOKENS, FloatArray, IntArray, Trace

Tokenizer = Callable[[str], int]


@dataclass(frozen=True)
class Reading:
    """What a reader may need beyond the file: a seed for what is drawn, a cap on outputs, a token counter."""

    seed: int = 0
    max_new_tokens: int | None = None
    tokenizer: Tokenizer | None = None


@dataclass(frozen=True)
class Format:
    """Base of the formats: a table with every `required` column and none of the `excluded` is in it.

    `optional` columns may be asked for too (a trailing * stands for any ending); all others are ignored. A
    subclass may add fields: they are its options, read from the text that names it.
    """

    file: str
    """The file to read."""

    required: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()
    excluded: ClassVar[tuple[str, ...]] = ()

    def read(self, table: Table, reading: Reading) -> Trace:
        """The trace in a table of this format; InputError for a value that is not sound."""
        raise NotImplementedError

    @classmethod
    def matches(cls, columns: tuple[str, ...]) -> bool:
        """Whether a table with these columns is in this format."""
        return set(cls.required) <= set(columns) and not set(cls.excluded) & set(columns)

    @classmethod
    def uses(cls, column: str) -> bool:
        """Whether the reader may look at this column."""
        return any(fnmatchcase(column, pattern) for pattern in (*cls.required, *cls.optional))


def make_trace(
    table: Table,
    prompt_tokens: IntArray,
    output_tokens: IntArray,
    *,
    arrival: FloatArray | None = None,
    arrival_column: str = "",
    per_second: float = 1.0,
    keep: npt.NDArray[np.bool_] | None = None,
    notes: tuple[str, ...] = (),
    **columns: Any,
) -> Trace:
    """A Trace of the kept rows in order of arrival; `arrival` is in 1/`per_second` s since any epoch."""
    columns = {name: values for name, values in columns.items() if values is not None}
    columns = {"request_id": np.arange(table.num_rows), **columns}
    columns |= {"prompt_tokens": prompt_tokens, "output_tokens": output_tokens}
    if arrival is not None:
        first = float(arrival.min() if keep is None else arrival[keep].min())
        elapsed = (arrival - first) / per_second
        checks.refuse(
            table,
            arrival_column,
            elapsed > checks.MAX_SPAN_S,
            lambda i: f"{elapsed[i]:.10g} s after the first arrival is above {checks.MAX_SPAN_S} s",
        )
        columns["arrival_s"] = elapsed
        if "deadline_s" in columns:
            columns["deadline_s"] = columns["deadline_s"] - first
    names = columns.pop("sample_names", ())
    if keep is not None:
        columns = {name: values[keep] for name, values in columns.items()}
    if "arrival_s" in columns and (np.diff(columns["arrival_s"]) < 0).any():
        order = np.argsort(columns["arrival_s"], kind="stable")
        columns = {name: values[order] for name, values in columns.items()}
        notes = (
            *notes,
            f"{arrival_column} was not in order: rows are sorted by arrival, ties as in the file",
        )
    return Trace(name=Path(table.path).stem, sample_names=names, notes=notes, **columns)


class Seqsched(Format):
    """Our own columns; every one but the two lengths is optional, `L_<name>` columns are samples."""

    required = ("prompt_tokens", "output_tokens")
    optional = (
        "request_id",
        "arrival_s",
        "predicted_tokens",
        "priority",
        "prompt",
        "user",
        "deadline_s",
        "L_*",
    )

    def read(self, table: Table, reading: Reading) -> Trace:
        """Every value checked."""
        has = set(table.columns)
        arrival = checks.times(table, "arrival_s") if "arrival_s" in has else None
        deadline = checks.times(table, "deadline_s") if "deadline_s" in has else None
        if arrival is not None and deadline is not None:
            late = deadline < arrival
            checks.refuse(
                table,
                "deadline_s",
                late,
                lambda i: f"{deadline[i]:.10g} is below {arrival[i]:.10g}, the arrival_s",
            )
        # L_gt, where a length file was converted by hand, is a person's answer and no sample of the model.
        sampled = tuple(column for column in table.columns if column.startswith("L_") and column != "L_gt")
        return make_trace(
            table,
            checks.tokens(table, "prompt_tokens"),
            checks.tokens(table, "output_tokens"),
            arrival=arrival,
            arrival_column="arrival_s",
            deadline_s=deadline,
            predicted_tokens=checks.tokens(table, "predicted_tokens", low=0)
            if "predicted_tokens" in has
            else None,
            priority=checks.priorities(table, "priority") if "priority" in has else None,
            prompt=checks.texts(table, "prompt") if "prompt" in has else None,
            user=checks.texts(table, "user") if "user" in has else None,
            samples=_samples(table, sampled) if sampled else None,
            sample_names=tuple(column.removeprefix("L_") for column in sampled),
            notes=("L_gt is ignored: it is no sample of the model",) if "L_gt" in has else (),
            request_id=checks.identifiers(table, "request_id") if "request_id" in has else None,
        )


def _samples(table: Table, columns: tuple[str, ...]) -> IntArray:
    return np.column_stack([checks.tokens(table, column) for column in columns])


class Azure(Format):
    """Azure's public LLM inference traces: dates, context and generated tokens."""

    required = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")

    def read(self, table: Table, reading: Reading) -> Trace:
        """Every value checked."""
        return make_trace(
            table,
            checks.tokens(table, "ContextTokens"),
            checks.tokens(table, "GeneratedTokens"),
            arrival=checks.instants(table, "TIMESTAMP"),
            arrival_column="TIMESTAMP",
        )


class BurstGPT(Format):
    """BurstGPT: times in seconds; a request without response tokens failed and is left out."""

    required = ("Timestamp", "Request tokens", "Response tokens")

    def read(self, table: Table, reading: Reading) -> Trace:
        """Every value checked."""
        prompt = checks.tokens(table, "Request tokens", low=0)
        output = checks.tokens(table, "Response tokens", low=0)
        arrival = checks.times(table, "Timestamp")
        answered = output > 0
        failed = len(output) - int(answered.sum())
        if failed == len(output):
            raise InputError(
                f"{table.path}, Response tokens: 0 in every row, at least 1 answered request is needed"
            )
        checks.refuse(table, "Request tokens", answered & (prompt < 1), lambda i: f"{prompt[i]} is below 1")
        return make_trace(
            table,
            prompt,
            output,
            arrival=arrival,
            arrival_column="Timestamp",
            keep=answered if failed else None,
            notes=(f"{failed} of {len(output)} requests have 0 response tokens (failed) and are left out",)
            if failed
            else (),
        )


class Mooncake(Format):
    """Mooncake: times in milliseconds; the hashes of shared prefixes are not used."""

    required = ("timestamp", "input_length", "output_length")

    def read(self, table: Table, reading: Reading) -> Trace:
        """Every value checked."""
        return make_trace(
            table,
            checks.tokens(table, "input_length"),
            checks.tokens(table, "output_length"),
            arrival=checks.times(table, "timestamp", per_second=1000),
            arrival_column="timestamp",
            per_second=1000,
        )


class Vidur(Format):
    """Vidur: prefill and decode tokens, times in seconds where there are any."""

    required = ("num_prefill_tokens", "num_decode_tokens")
    optional = ("arrived_at",)

    def read(self, table: Table, reading: Reading) -> Trace:
        """Every value checked."""
        return make_trace(
            table,
            checks.tokens(table, "num_prefill_tokens"),
            checks.tokens(table, "num_decode_tokens"),
            arrival=checks.times(table, "arrived_at") if "arrived_at" in table.columns else None,
            arrival_column="arrived_at",
        )


class LengthFile(Format):
    """The paper's response lengths: the one at temperature 0 is the output, all four are samples."""

    required = ("L_t0.0", "L_t0.3", "L_t0.5", "L_t0.7")
    optional = ("id",)
    excluded = ("prompt_tokens", "output_tokens")

    def read(self, table: Table, reading: Reading) -> Trace:
        """Every value checked."""
        from .synthetic import ALPACA_PROMPT_NOTE, alpaca_prompt_tokens

        samples = _samples(table, self.required)
        cap = reading.max_new_tokens or DEFAULT_MAX_NEW_TOKENS
        return make_trace(
            table,
            alpaca_prompt_tokens(table.num_rows, np.random.default_rng(reading.seed)),
            samples[:, 0],
            samples=samples,
            sample_names=tuple(column.removeprefix("L_") for column in self.required),
            notes=(
                f"output_tokens is L_t0.0 clipped to {cap}; the samples are not clipped",
                f"{ALPACA_PROMPT_NOTE}; seed {reading.seed}",
            ),
            request_id=checks.identifiers(table, "id") if "id" in table.columns else None,
        ).with_output_cap(cap)


class ShareGPT(Format):
    """ShareGPT conversations, one request each; the texts are counted by the tokenizer."""

    required = ("conversations",)
    optional = ("id",)

    def read(self, table: Table, reading: Reading) -> Trace:
        """Every value checked."""
        if reading.tokenizer is None:
            raise InputError(
                f"{table.path}: ShareGPT holds text, so its lengths need a tokenizer "
                "(a function from text to a number of tokens, passed as tokenizer=)"
            )
        count = reading.tokenizer
        prompts: list[str] = []
        lengths = np.zeros((table.num_rows, 2), dtype=np.int64)
        for index, conversation in enumerate(table.raw("conversations")):
            prompt, answer = _first_exchange(table, index, conversation)
            prompts.append(prompt)
            if prompt and answer:
                lengths[index] = count(prompt), count(answer)
        whole = (lengths[:, 0] > 0) & (lengths[:, 1] > 0)
        partial = table.num_rows - int(whole.sum())
        if partial == table.num_rows:
            raise InputError(
                f"{table.path}, conversations: 0 have both a human and a gpt turn, at least 1 is needed"
            )
        over = lengths.max(axis=1) > checks.MAX_TOKENS
        checks.refuse(
            table,
            "conversations",
            over,
            lambda i: f"a turn of {lengths[i].max()} tokens is above {checks.MAX_TOKENS}",
        )
        left_out = f"{partial} of {table.num_rows} conversations lack a human or a gpt turn and are left out"
        return make_trace(
            table,
            lengths[:, 0],
            lengths[:, 1],
            prompt=np.array(prompts, dtype=object),
            keep=whole if partial else None,
            notes=(
                "one request per conversation: its first human and its first gpt turn",
                *([left_out] if partial else []),
            ),
            request_id=checks.identifiers(table, "id") if "id" in table.columns else None,
        )


def _first_exchange(table: Table, index: int, conversation: object) -> tuple[str, str]:
    first: dict[str, str] = {}
    if not isinstance(conversation, list):
        raise checks.fault(
            table, index, "conversations", f"{checks.display(conversation)} is not a list of turns"
        )
    for turn in conversation:
        speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if not isinstance(speaker, str) or not isinstance(text, str):
            what = f"{checks.display(turn)} is not a turn with text under from and value"
            raise checks.fault(table, index, "conversations", what)
        first.setdefault(speaker, text)
    return first.get("human", ""), first.get("gpt", "")


FORMATS = Registry(
    "trace",
    {
        "seqsched": Seqsched,
        "Azure": Azure,
        "BurstGPT": BurstGPT,
        "Mooncake": Mooncake,
        "Vidur": Vidur,
        "ShareGPT": ShareGPT,
        "length-file": LengthFile,
    },
    fields_are_options=True,
)
"""Called as `Class(**options)`, where the fields of the dataclass are the options."""
