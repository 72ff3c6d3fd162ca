"""What an executor is given to run; knows nothing of how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from sim.execution.padded_batch import PerceptionCost
from sim.request import Request
from sim.work import Prediction

from ..lengths.turns import Turns


@dataclass(frozen=True)
class Job:
    """What is run, by request id: the prompts (`turns`), the lengths at which answers stop, what is predicted
    of them.

    `question` goes into a prompt to ask for its length, `turn_tokens` before its end; `asking(engine)` is
    entered meanwhile, for the model may be another then. With `eos_tokens`, answers end there, and
    `output_tokens` are the most that each may have.
    """

    requests: Sequence[Request]
    turns: Turns
    output_tokens: Sequence[int]
    predictions: Sequence[Prediction]
    question: Sequence[int]
    perception: PerceptionCost
    eos_tokens: frozenset[int] = frozenset()
    max_concurrency: int | None = None
    turn_tokens: int = 0
    asking: Callable[[Any], AbstractContextManager[None]] = nullcontext
