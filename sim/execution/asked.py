"""Continuous batching in which the model is asked again, while answers grow, how long they will be.

Knows what the questions cost and who answers them; knows nothing of how the answers come about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..request import Request
from ..work import Iterations, Prediction, SchedulingError
from .iterations import RunningRequests, TimedRequests
from .leap import Leap


class LaterAnswers(NamedTuple):
    """`ask_s`: seconds that each question adds to its iteration. `answer(request id, tokens so far)`."""

    ask_s: float
    answer: Callable[[int, int], Prediction]


class AskedRequests(RunningRequests):
    """Running requests of which some are asked about."""

    def __init__(self, later: LaterAnswers, *about: Any) -> None:
        super().__init__(*about)
        self.later = later

    def begin(self, work: Iterations, now: float, until_s: float = math.inf) -> Leap:
        """The same; questions make the one iteration longer, and first tokens come as much later."""
        if work.ask:
            self.done = 0
        leap = super().begin(work, now, until_s)
        if work.ask:
            first_token_s, end_s = self.ledger.first_token_s, now + leap.head_s
            leap.head_s += self.later.ask_s * len(work.ask)
            leap.head_end_s, leap.end_s = leap.ends_s(1), leap.ends_s(leap.iterations)
            for chunk in work.chunks:
                if first_token_s[chunk.request.id] == end_s:
                    first_token_s[chunk.request.id] = now + leap.head_s
        return leap

    def answers(self, requests: Sequence[Request]) -> list[Prediction]:
        """What is answered of each, with the tokens that it has by now."""
        tick, output_tokens = self.use.iterations, self.output_tokens
        left = {request.id: end - tick for end, request in self._decoding()}
        answers = []
        for request in requests:
            i = request.id
            if i not in left and not self.ledger.ended(i):
                raise SchedulingError(f"request {i} was asked about again though it does not decode")
            answers.append(self.later.answer(i, output_tokens[i] - left.get(i, 0)))
        return answers


class TimedAskedRequests(TimedRequests, AskedRequests):
    """The same, where the gaps between tokens are to be told apart by when they were."""


def running_requests(later: LaterAnswers | None, *about: Any, is_timed: bool) -> RunningRequests:
    """The requests in memory of one accelerator, as far as they have to be told apart and asked about."""
    if later is None:
        return (TimedRequests if is_timed else RunningRequests)(*about)
    return (TimedAskedRequests if is_timed else AskedRequests)(later, *about)
