"""The trace formats by name. One more is a class over `Format` here, and a line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from . import checks, session_columns, witnesses
from .conversations import Message, read_turns
from .errors import InputError
from .prefixes import hash_lists, own_blocks
from .prompt_blocks import share_found_again
from .readers import Format, Lengths, Reading, Requests, make_trace
from .registry import Registry
from .session_columns import NO_WAITS, Waits
from .slo_classes import told_apart
from .tables import Table
from .trace import DEFAULT_MAX_NEW_TOKENS, SLO_COLUMNS, IntArray, Trace
from .units import Times, arrival_column, near_arrivals, read_times


class Seqsched(Requests):
    """Our own columns; every one but the two lengths is optional, `L_<name>` columns are samples.

    The arrival times may have another name, such as timestamp or arrival_ms.
    """

    required = ("prompt_tokens", "output_tokens")
    optional = (
        "request_id",
        "arrival_s",
        "predicted_tokens",
        "priority",
        "prompt",
        "user",
        "deadline_s",
        *SLO_COLUMNS,
        "slo_class",
        "max_tokens",
        "prefix_id",
        "prefix_tokens",
        "hash_ids",
        "hash_tokens",
        "answer_id",
        *session_columns.COLUMNS,
        "L_*",
    )

    @classmethod
    def uses(cls, column: str) -> bool:
        """Whether the reader may look at this column: whatever may hold the arrival times too."""
        return super().uses(column) or arrival_column((column,)) is not None

    def unused(self, table: Table) -> dict[str, str]:
        """Columns that the reader did not look at, other columns of times among them."""
        chosen = arrival_column(table.columns)
        others = {c: "" for c in table.columns if c != chosen and arrival_column((c,)) is not None}
        near = near_arrivals(table.path, table.columns) if chosen is None else {}
        return super().unused(table) | others | near

    def read(self, table: Table, reading: Reading) -> Trace:
        """Every value checked."""
        has = set(table.columns)
        ids = checks.identifiers(table, "request_id") if "request_id" in has else None
        if ids is not None:
            witnesses.refuse_summary(table, "request_id", ids[-1])
        lengths = self.lengths(table, "prompt_tokens", "output_tokens")
        waits = session_columns.read(table, ids)
        times = self._times(table, reading, lengths, waits)
        deadline = checks.deadlines(table, "deadline_s", lengths.left_out) if "deadline_s" in has else None
        if times is not None and deadline is not None:
            arrival = times.seconds
            late = deadline < arrival if lengths.keep is None else (deadline < arrival) & lengths.keep
            checks.refuse(
                table,
                "deadline_s",
                late,
                lambda i: f"{deadline[i]:.10g} is below {arrival[i]:.10g}, the {times.column}",
            )
        classes, lumped = _classes(table) if "slo_class" in has else (None, ())
        caps = checks.tokens(table, "max_tokens", 1, lengths.left_out) if "max_tokens" in has else None
        # L_gt, where a length file was converted by hand, is a person's answer and no sample of the model.
        sampled = tuple(column for column in table.columns if column.startswith("L_") and column != "L_gt")
        return make_trace(
            table,
            lengths.prompt,
            lengths.output,
            arrival=times,
            keep=lengths.keep,
            deadline_s=deadline,
            **_bounds(table, lengths),
            slo_class=classes,
            predicted_tokens=checks.tokens(table, "predicted_tokens", 0, lengths.left_out)
            if "predicted_tokens" in has
            else None,
            priority=checks.priorities(table, "priority", lengths.left_out) if "priority" in has else None,
            prompt=checks.texts(table, "prompt") if "prompt" in has else None,
            user=checks.texts(table, "user") if "user" in has else None,
            max_tokens=caps,
            blocks=own_blocks(table, lengths.prompt, lengths.left_out),
            samples=_samples(table, sampled) if sampled else None,
            sample_names=tuple(column.removeprefix("L_") for column in sampled),
            waits=waits,
            notes=(
                *lengths.notes,
                *waits.notes,
                *lumped,
                *_above_their_caps(lengths, caps),
                *(("L_gt is not used: it is no sample of the model",) if "L_gt" in has else ()),
            ),
            request_id=ids,
        )

    def _times(self, table: Table, reading: Reading, lengths: Lengths, waits: Waits) -> Times | None:
        """The arrival times; of requests that wait for others they may be left out."""
        column = arrival_column(table.columns)
        if column is None:
            return _arrivals(table, None, reading, lengths)
        unstated = waits.unstated(table, column)
        if unstated is None:
            return _arrivals(table, column, reading, lengths)
        missing = unstated if lengths.left_out is None else unstated | lengths.left_out
        times = _arrivals(table, column, reading, replace(lengths, keep=~missing))
        assert times is not None
        return waits.with_times(times, unstated)


def _classes(table: Table) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    return told_apart(checks.optional_texts(table, "slo_class"))


def _bounds(table: Table, lengths: Lengths) -> dict[str, Any]:
    return {c: checks.bounds_ms(table, c, lengths.left_out) for c in SLO_COLUMNS if c in table.columns}


def _above_their_caps(lengths: Lengths, caps: IntArray | None) -> tuple[str, ...]:
    """A note on the answers that are longer than their request allowed; none where there are none."""
    above = 0 if caps is None else int((lengths.output > caps).sum())
    which = f"{above} of {len(lengths.output)} answers are longer than their max_tokens"
    return (f"{which}, which cuts them where caps are the requests' own",) if above else ()


def _samples(table: Table, columns: tuple[str, ...]) -> IntArray:
    return np.column_stack([checks.tokens(table, column) for column in columns])


def _arrivals(
    table: Table, column: str | None, reading: Reading, lengths: Lengths, **kind: Any
) -> Times | None:
    """The arrival times in a column, of any kind that `read_times` takes; None where there is no column."""
    if column is None:
        if reading.time_unit is not None:
            raise InputError(
                f"time_unit: {reading.time_unit} is of no use: {table.path} has no column of times"
            )
        return None
    return read_times(table, column, time_unit=reading.time_unit, unless=lengths.left_out, **kind)


class Azure(Requests):
    """Azure's public LLM inference traces: dates, context and generated tokens."""

    required = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")

    def read(self, table: Table, reading: Reading) -> Trace:
        """Every value checked."""
        lengths = self.lengths(table, "ContextTokens", "GeneratedTokens")
        times = _arrivals(table, "TIMESTAMP", reading, lengths, is_date=True)
        return make_trace(
            table, lengths.prompt, lengths.output, arrival=times, keep=lengths.keep, notes=lengths.notes
        )


class BurstGPT(Requests):
    """BurstGPT: times in seconds; a request without response tokens failed and is left out."""

    required = ("Timestamp", "Request tokens", "Response tokens")

    def read(self, table: Table, reading: Reading) -> Trace:
        """Every value checked."""
        lengths = self.lengths(table, "Request tokens", "Response tokens")
        times = _arrivals(table, "Timestamp", reading, lengths, habit="s", is_certain=True)
        return make_trace(
            table, lengths.prompt, lengths.output, arrival=times, keep=lengths.keep, notes=lengths.notes
        )


CHATS = ("chat_id", "parent_chat_id")
"""Columns that make sessions of Qwen-Bailian's requests, where both are there."""


class Mooncake(Requests):
    """Mooncake: times in milliseconds; hashes of blocks of 512 tokens. Beside chat_id, as in Qwen-Bailian,
    times are in seconds and blocks of 16 tokens, and turns wait for their parent_chat_id.
    """

    required = ("timestamp", "input_length", "output_length")
    optional = ("hash_ids", *CHATS)

    def read(self, table: Table, reading: Reading) -> Trace:
        """Every value checked."""
        lengths = self.lengths(table, "input_length", "output_length")
        is_chat = bool({"chat_id", "parent_chat_id", "turn"} & set(table.columns))
        times = _arrivals(
            table,
            "timestamp",
            reading,
            lengths,
            habit="s" if is_chat else "ms",
            is_certain=is_chat or "hash_ids" in table.columns,
        )
        blocks, notes = None, lengths.notes
        if "hash_ids" in table.columns:
            usual = 16 if is_chat else 512
            blocks, size = hash_lists(table, "hash_ids", lengths.prompt, usual, lengths.left_out)
            share = share_found_again(blocks, lengths.prompt)
            notes += (
                f"hash_ids of blocks of {size} tokens: {100 * share:.0f} % of the prompt tokens can be found "
                "again",
            )
        waits = NO_WAITS
        if times is not None and set(CHATS) <= set(table.columns):
            waits = session_columns.read_chats(table, times.seconds)
        return make_trace(
            table,
            lengths.prompt,
            lengths.output,
            arrival=times,
            keep=lengths.keep,
            notes=(*notes, *waits.notes),
            blocks=blocks,
            waits=waits,
        )

    def unused(self, table: Table) -> dict[str, str]:
        """Half of what makes sessions too: it makes none."""
        unused = super().unused(table)
        half = () if set(CHATS) <= set(table.columns) else CHATS
        return {c: unused.get(c, "") for c in table.columns if c in unused or c in half}


class Vidur(Requests):
    """Vidur: prefill and decode tokens, times in seconds where there are any."""

    required = ("num_prefill_tokens", "num_decode_tokens")
    optional = ("arrived_at",)

    def read(self, table: Table, reading: Reading) -> Trace:
        """Every value checked."""
        lengths = self.lengths(table, "num_prefill_tokens", "num_decode_tokens")
        column = "arrived_at" if "arrived_at" in table.columns else None
        times = _arrivals(table, column, reading, lengths, habit="s", is_certain=True)
        return make_trace(
            table, lengths.prompt, lengths.output, arrival=times, keep=lengths.keep, notes=lengths.notes
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


@dataclass(frozen=True)
class ShareGPT(Format):
    """ShareGPT conversations, one request each or all their turns; the texts are counted by the tokenizer."""

    turns: Literal["first", "all"] = "first"
    """Read the first exchange of each conversation, or all of it as a session."""

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
        if self.turns == "all":
            talks = enumerate(table.raw("conversations"))
            return read_turns(table, [list(_messages(table, i, talk)) for i, talk in talks], count)
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
    for speaker, text in _messages(table, index, conversation):
        first.setdefault(speaker, text)
    return first.get("human", ""), first.get("gpt", "")


def _messages(table: Table, index: int, conversation: object) -> Iterator[Message]:
    if not isinstance(conversation, list):
        raise checks.fault(
            table, index, "conversations", f"{checks.display(conversation)} is not a list of turns"
        )
    for turn in conversation:
        speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if not isinstance(speaker, str) or not isinstance(text, str):
            what = f"{checks.display(turn)} is not a turn with text under from and value"
            raise checks.fault(table, index, "conversations", what)
        yield Message(speaker, text)


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
