"""Queue disciplines by bounds that requests state: who is due first, and who has the least time to lose.

On one machine, with free preemption and one request at a time, both meet all deadlines that any order meets
(Liu and Layland, J. ACM 20, 1973; Mok, MIT/LCS/TR-297, 1983). In serving, Scorpio (arXiv 2505.23022) orders
its queue by the deadline of the first token, Medha (arXiv 2409.17264) by the slack. Knows nothing of memory.
"""

from __future__ import annotations

from math import floor, inf

from ..request import Request
from .order import LONG

ROUNDING = 1e-6
"""Tokens by which a rise may come sooner than reckoned, for ranks are rounded."""


class Deadline:
    """The earliest deadline first: that of the next token or of the whole answer, whichever comes first.

    The first token is due by the bound on TTFT, or when the request has to begin (`deadline_s`); each
    further one a bound on TPOT later, where both are stated; the last by the bound on E2EL. Who states none
    goes last, by submission.
    """

    token_s = 0.0

    def __call__(self, request: Request, generated: int) -> float:
        """When it is due, or has to be computed from then on (s)."""
        return min(self._next(request, generated), self._last(request, generated))

    def until_above(self, request: Request, generated: int, bound: float) -> int:
        """The next token's rises with every token, the last one's with its share of the rest."""
        if not generated:  # the bound on the first token is behind it then
            return 1
        if bound == inf:
            return LONG
        rises = (
            (self._next(request, generated), (request.tpot_slo_ms or 0.0) / 1e3),
            (self._last(request, generated), self.token_s),
        )
        return max([1, *(self._until(bound - rank, step) for rank, step in rises if rank <= bound)])

    def _until(self, distance_s: float, step_s: float) -> int:
        """After how many steps a rank may have come further than that."""
        steps = distance_s / step_s if step_s > 0 else inf
        return LONG if steps >= LONG else floor(steps - ROUNDING) + 1

    def _next(self, request: Request, generated: int) -> float:
        due = inf
        ttft_ms, tpot_ms = request.ttft_slo_ms, request.tpot_slo_ms
        if ttft_ms is not None and (generated == 0 or tpot_ms is not None):
            due = request.arrival_s + ttft_ms / 1e3 + (tpot_ms or 0.0) / 1e3 * generated
        if generated == 0 and request.deadline_s is not None:
            due = min(due, request.deadline_s)
        return due - self.token_s

    def _last(self, request: Request, generated: int) -> float:
        if request.e2el_slo_ms is None:
            return inf
        return request.arrival_s + request.e2el_slo_ms / 1e3 - self._rest(request, generated) * self.token_s

    def _rest(self, request: Request, generated: int) -> int:
        return max(1, (request.predicted_tokens or 0) - generated)


class LeastLaxity(Deadline):
    """The least slack first: the deadline less what is to be computed until then, by the predicted rest; what
    outlived its prediction is taken to end with the next token.

    `token_ms`: how long a token takes.
    """

    def __init__(self, token_ms: float) -> None:
        self.token_s = token_ms / 1e3
