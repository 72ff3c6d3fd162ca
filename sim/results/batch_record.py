"""The record of one Work as an executor carried it out; computes no metrics."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..work import KINDS, Kind


class BatchRecord(NamedTuple):
    """One Work as it was carried out: what was decided, and when it ran.

    `limit` is its token limit (a Perceive: the tokens of an answer), `prompt_tokens` the padded prompt. The
    decode iteration j = 0, 1, ... after the prefill took `first_step_s + j * step_slope_s`. `replica` is the
    accelerator that ran it, `num_waiting` the requests that waited there meanwhile, `paused` those in memory
    that got no token in its first iteration, `found_tokens` what was in memory already of those let in,
    `answered` the tokens of each row's answer that it went on from, empty where none did.
    """

    kind: Kind
    request_ids: tuple[int, ...]
    limit: int
    iterations: int
    start_s: float
    prefill_end_s: float
    end_s: float
    prompt_tokens: int = 0
    first_step_s: float = 0.0
    step_slope_s: float = 0.0
    kv_tokens: int = 0
    chunks: tuple[tuple[int, bool], ...] = ()
    evicted: tuple[int, ...] = ()
    replica: int = 0
    num_waiting: int = 0
    paused: tuple[int, ...] = ()
    found_tokens: int = 0
    answered: tuple[int, ...] = ()

    def decision(self) -> dict[str, Any]:
        """The entry of the decision log: what was decided, and how many iterations it ran."""
        entry: dict[str, Any] = {"kind": self.kind, "requests": list(self.request_ids), "limit": self.limit}
        if self.is_chunked:
            entry |= {"chunks": [list(chunk) for chunk in self.chunks]}
            entry |= {"evicted": list(self.evicted), "paused": list(self.paused)}
        if self.answered:
            entry |= {"answered": list(self.answered)}
        return {**entry, "iterations": self.iterations}

    @property
    def label(self) -> str:
        """What a timeline calls it."""
        return KINDS[self.kind].label

    @property
    def is_busy(self) -> bool:
        """Whether it took the accelerator's time."""
        return KINDS[self.kind].is_busy

    @property
    def is_padded(self) -> bool:
        """Whether it was one batch of rows, whose time and iterations are not in `ReplicaUse`."""
        return KINDS[self.kind].is_padded

    @property
    def is_chunked(self) -> bool:
        """Whether it computed chunks of prompts, and may have evicted."""
        return KINDS[self.kind].is_chunked

    @property
    def is_question(self) -> bool:
        """Whether it asked for lengths."""
        return KINDS[self.kind].is_question
