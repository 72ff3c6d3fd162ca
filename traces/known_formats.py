"""The trace formats by name. One more is a class over `Format` here, and a line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from . import checks, session_columns
from .conversations import Message, read_turns
from .errors import InputError
from .own_format import Seqsched, arrivals, samples_of
from .prefixes import hash_lists
from .prompt_blocks import share_found_again
from .readers import Format, Reading, Requests, make_trace
from .registry import Registry
from .session_columns import NO_WAITS
from .tables import Table
from .trace import DEFAULT_MAX_NEW_TOKENS, Trace


class Azure(Requests):
    """Azure's public LLM inference traces: dates, context and generated tokens."""

    required = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")

    def read(self, table: Table, reading: Reading) -> Trace:
        """Every value checked."""
        lengths = self.lengths(table, "ContextTokens", "GeneratedTokens")
        times = arrivals(table, "TIMESTAMP", reading, lengths, is_date=True)
        return make_trace(
            table, lengths.prompt, lengths.output, arrival=times, keep=lengths.keep, notes=lengths.notes
        )


class BurstGPT(Requests):
    """BurstGPT: times in seconds; a request without response tokens failed and is left out."""

    required = ("Timestamp", "Request tokens", "Response tokens")

    def read(self, table: Table, reading: Reading) -> Trace:
        """Every value checked."""
        lengths = self.lengths(table, "Request tokens", "Response tokens")
        times = arrivals(table, "Timestamp", reading, lengths, habit="s", is_certain=True)
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
        times = arrivals(
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
        times = arrivals(table, column, reading, lengths, habit="s", is_certain=True)
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

        samples = samples_of(table, self.required)
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
