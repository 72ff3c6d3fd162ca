"""Skip-join multi-level feedback queues: the fewer tokens a request has had, the sooner it goes on.

Needs no prediction. From FastServe (arXiv 2305.05920): a request joins the queue whose quantum holds its
prefill, skipping those before it, and is demoted whenever it has used up the quantum of its queue. Each
quantum is twice that of the queue before.
"""

from __future__ import annotations

from ..request import Request


class SkipJoinQueues:
    """The lowest level first. `level_tokens`: quantum of the first level; `prompt_weight`: decoded tokens
    that a prompt token is worth.
    """

    def __init__(self, level_tokens: int, prompt_weight: float) -> None:
        self.level_tokens, self.prompt_weight = level_tokens, prompt_weight

    def _first(self, request: Request) -> tuple[int, int]:
        """The level that it joins, and the quantum there."""
        level, quantum, need = 0, self.level_tokens, self.prompt_weight * request.prompt_tokens
        while quantum < need:
            level, quantum = level + 1, 2 * quantum
        return level, quantum

    def __call__(self, request: Request, generated: int) -> float:
        """Its level."""
        level, quantum = self._first(request)
        return float(level + (generated // quantum + 1).bit_length() - 1)

    def until_above(self, request: Request, generated: int, bound: float) -> int:
        """It rises when the quanta of its levels so far are used up."""
        _, quantum = self._first(request)
        num_levels = (generated // quantum + 1).bit_length()
        return ((1 << num_levels) - 1) * quantum - generated
