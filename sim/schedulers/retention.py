"""What becomes of a turn's memory while its session waits for a tool or a person, and what that wastes.

Three ways, those of InferCept (arXiv 2402.01869): `preserve` the KV in memory, `discard` it and compute it
again, or `swap` it to the host and back. The waste of each is memory over time that serves nobody, in
token-seconds: C tokens of the turn, C_other of those that run beside it,

    preserve  wait * C
    discard   forward(C) * (C + C_other)           others stand still while the prompt is computed again
    swap      2 * transfer(C) * (C + C_other)      where transfers do not overlap with computing, else * C

These are its equations 1 to 3, but for transfers that overlap: within a budget for each iteration it counts
them as free.

LAMPS (arXiv 2410.18248) takes the least before a request runs, by what is predicted of answer and wait, and
ranks requests by all memory over time. Knows nothing of queues, blocks or clocks.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Literal, TypeAlias

from ..request import Request
from ..work import Limits

Way: TypeAlias = Literal["discard", "preserve", "swap"]
WaitOption: TypeAlias = Literal["discard", "preserve", "swap", "least-waste"]

WAYS: tuple[Way, ...] = ("discard", "preserve", "swap")


class Retention:
    """The way that is chosen for each wait: always the same, or with `least-waste` the cheapest there is.

    `swap` is there where the limits have a tier that gives up by LRU: ARC keeps nothing for anybody. Where
    they do not say how long prompts take, nothing is wasted by computing them.
    """

    def __init__(self, option: WaitOption, limits: Limits) -> None:
        self.option, self.limits = option, limits
        may_swap = bool(limits.tiers) and limits.tiers_eviction == "lru"
        self.ways: tuple[Way, ...] = WAYS if may_swap else ("discard", "preserve")

    def way(self, wait_s: float, context_tokens: int, other_tokens: int) -> Way:
        """What to do with so many tokens in a wait of `wait_s`, beside `other_tokens` of those that run."""
        if self.option != "least-waste":
            return self.option
        return min(self.ways, key=lambda way: self.waste(way, wait_s, context_tokens, other_tokens))

    def waste(self, way: Way, wait_s: float, context_tokens: int, other_tokens: int) -> float:
        """Memory over time that serves nobody, in token-seconds."""
        if way == "preserve":
            return wait_s * context_tokens
        if way == "discard":
            return self.forward_s(context_tokens) * (context_tokens + other_tokens)
        stalled_tokens = 0 if self.limits.tiers_overlap else other_tokens
        return 2 * self.transfer_s(context_tokens) * (context_tokens + stalled_tokens)

    def memory_time(self, request: Request, context_tokens: int) -> float:
        """What the wait after a request with so many tokens adds to its own memory over time, in tokens times
        iterations; 0 where nobody goes on from it. Memory is taken to be full of others.
        """
        wait_s, iteration_s = request.predicted_wait_s, self.limits.iteration_s
        if wait_s is None or not iteration_s:
            return 0.0
        way = self.way(wait_s, context_tokens, max(0, self.limits.kv_tokens - context_tokens))
        return self.waste(way, wait_s, context_tokens, 0) / iteration_s

    def forward_s(self, tokens: int) -> float:
        """How long a prompt of so many tokens takes alone, in straight lines through the lengths that the
        limits have.
        """
        pairs = self.limits.prefill_s
        if len(pairs) < 2:
            return pairs[0][1] if pairs else 0.0
        at = min(max(1, bisect_left(pairs, (tokens,))), len(pairs) - 1)
        (low, low_s), (high, high_s) = pairs[at - 1], pairs[at]
        return max(0.0, low_s + (high_s - low_s) * (tokens - low) / (high - low))

    def transfer_s(self, tokens: int) -> float:
        """How long so many tokens take to the host, or back."""
        return tokens * self.limits.tiers[0].token_s
