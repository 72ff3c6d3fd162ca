"""What a scheduler may know of a request; the true length of its answer is not here, only executors know
that.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class KnownBlocks:
    """How a prompt begins: blocks of any sizes with their hashes, and the tokens from the start of the prompt
    to the end of each.

    A hash stands for its block and for all before it: two requests with the same hash agree in every token up
    to the end of that block. What is behind the last one is like nobody else's. `answer`: the hash that a
    later prompt has for a block which is the answer to this request, so that it goes on from there; -1 where
    none does. An answer is looked for only when its request has ended.
    """

    hashes: Sequence[int]
    ends: Sequence[int]
    answer: int = -1

    def goes_on_from(self, other: KnownBlocks) -> bool:
        """Whether the prompt holds the answer to the other or, where that has no hash, begins with the blocks
        of its prompt, but perhaps the last: where that is not a whole one, another is in its place.
        """
        if other.answer >= 0:
            return other.answer in self.hashes
        last = len(other.hashes) - 1
        return 0 <= last < len(self.hashes) and any(
            self.hashes[at] == other.hashes[at] for at in (last, max(last - 1, 0))
        )


@dataclass(slots=True, eq=False)
class Request:
    """One request, identified by `id`, its row in the trace.

    Tokens are counts, times are seconds on the executor's clock. A lower `priority` number goes first (as in
    vLLM). The two predictions are None until perception has spoken: `predicted_tokens` is the expected length
    of the answer, `predicted_upper_tokens` the length that it stays below with the scheduler's
    `upper_quantile`. `predicted_lengths` is a distribution: lengths that the answer has with equal
    probability, by rising length. Where the predictor ranks only, `predicted_tokens` is no length: only its
    order means something.

    `max_new_tokens` is the cap by which admission decides and where the answer is cut. Where requests have
    caps of their own, these may be the answers' lengths, and `largest_cap` is the largest of all requests:
    what is to order or plan goes by `bound_tokens`, so that a cap is no prediction unless one is made of it.

    `blocks`: what is known of how the prompt begins, None for nothing. `session_id`: whose turn it is, None
    where that is not known.

    `answered_tokens`: how much of the answer the prompt holds already, where a padded batch is to go on with
    what another one has cut off. It is part of `prompt_tokens`, and `max_new_tokens` is for the rest.

    `ttft_slo_ms`, `tpot_slo_ms`, `e2el_slo_ms`: bounds that it states on its own latencies, None where it
    states none.

    `predicted_wait_s`: how long its session is predicted to wait after its end until the next turn comes (a
    tool works, a person reads and types); None where none is known to come, or nobody needs to know.
    """

    id: int
    arrival_s: float
    prompt_tokens: int
    max_new_tokens: int
    priority: int = 0
    user: str | None = None
    deadline_s: float | None = None
    predicted_tokens: int | None = None
    predicted_upper_tokens: int | None = None
    largest_cap: int | None = None
    blocks: KnownBlocks | None = None
    predicted_lengths: tuple[int, ...] | None = None
    session_id: Hashable = None
    answered_tokens: int = 0
    ttft_slo_ms: float | None = None
    tpot_slo_ms: float | None = None
    e2el_slo_ms: float | None = None
    predicted_wait_s: float | None = None

    @property
    def bound_tokens(self) -> int:
        """The most tokens that any request's answer may have: the same for all, whatever their own caps."""
        return self.max_new_tokens if self.largest_cap is None else self.largest_cap
