"""Explains why equal prompts get different answers in half precision: two tokens were nearly tied.

A batch of another size sums in another order, so logits move slightly; where the best two are closer than
that, greedy decoding takes the other one, and the answers diverge. Knows nothing of schedulers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..engines.engine import Engine
from ..engines.logit_tap import LogitTap, logit_tap

SLACK = 4.0
"""A difference counts as rounding up to so many times the effect of batch sizes alone on logits."""

FORCED_STEPS = 8
"""Decode steps after a prefill in which the effect of a batch size is measured."""


@dataclass(frozen=True)
class Divergence:
    """The first token in which two answers to one prompt differ, and how its logits differ."""

    request: int
    place: int
    margin: float
    """In the first run, the logit of its token less the next best."""
    difference: float
    """Largest |difference| of a logit between the runs, after the same tokens."""
    shift: float
    """Change of the gap between the two tokens from one run to the other."""

    @property
    def is_tie(self) -> bool:
        """Whether the margin was no larger than the change of the gap."""
        return self.margin <= self.shift

    def to_json(self) -> dict[str, Any]:
        """A flat row of plain values."""
        return {**asdict(self), "is_tie": self.is_tie}


def explain(request: int, place: int, one: torch.Tensor, other: torch.Tensor) -> Divergence | None:
    """The divergence between two vectors of logits; None if both prefer the same token (not reproduced)."""
    a, b = int(one.argmax()), int(other.argmax())
    if a == b:
        return None
    best, second = one.topk(2).values.tolist()
    moved = other - one
    return Divergence(request, place, best - second, float(moved.abs().max()), float(moved[b] - moved[a]))


def batch_effect(engine: Engine, texts: Sequence[Sequence[int]], sizes: Sequence[int]) -> dict[int, float]:
    """Batch size -> the largest |difference| of a logit from a run of each text alone.

    texts: prompts with part of an answer appended, which are prefilled and decoded for `FORCED_STEPS` more
    tokens, as long as the tokens are those of the text alone. Every size takes that many of the first texts;
    size 1 runs the text again. Empty without sizes.
    """
    if not sizes:
        return {}
    tap = logit_tap(engine, {})
    with tap.attached():
        single = torch.cat([_logits(tap, [text]) for text in texts[: max(sizes)]], dim=1)
        return {size: _largest_move(single[:, :size], _logits(tap, texts[:size])) for size in sizes}


def _logits(tap: LogitTap, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits of the prefill and of every step after it, shape (steps + 1, rows, vocabulary)."""
    tap.prefill(texts, FORCED_STEPS + 1)
    steps = [tap.last_logits(len(texts))]
    for _ in range(FORCED_STEPS):
        tap.decode()
        steps.append(tap.last_logits(len(texts)))
    tap.engine.release()
    return torch.stack(steps)


def _largest_move(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest |difference|, over each row up to its first different token."""
    same = (one.argmax(-1) == other.argmax(-1)).cumprod(0).bool()
    counts = torch.cat([torch.ones_like(same[:1]), same[:-1]])
    return float((other - one).abs().amax(-1)[counts].max())
