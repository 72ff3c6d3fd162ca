"""Why equal prompts get different answers in half precision: a token changes where two are nearly tied.

A batch of another size sums in another order, so logits move a little; where the best two lie nearer than
that, greedy decoding takes the other one, and from there the answers go apart. Knows nothing of schedulers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..engines.engine import Engine
from ..engines.logit_tap import LogitTap, logit_tap

SLACK = 4.0
"""Up to so many times what batch sizes alone do to logits, a difference still counts as rounding."""

FORCED_STEPS = 8
"""Decode steps after a prefill in which the effect of a batch size is looked for."""


@dataclass(frozen=True)
class Divergence:
    """The first token in which two answers to one prompt differ, and the logits behind it in both runs."""

    request: int
    place: int
    margin: float
    """In the first run, how far its token lay above the next best."""
    difference: float
    """Largest |difference| of a logit between the runs, after the same tokens."""
    shift: float
    """By how much the gap between the two tokens changed from one run to the other."""

    @property
    def is_tie(self) -> bool:
        """The margin was no larger than what the gap between the two tokens changed by."""
        return self.margin <= self.shift

    def to_json(self) -> dict[str, Any]:
        """A flat row of plain values."""
        return {**asdict(self), "is_tie": self.is_tie}


def explain(request: int, place: int, one: torch.Tensor, other: torch.Tensor) -> Divergence | None:
    """The divergence behind two vectors of logits; None where both prefer the same token (not reproduced)."""
    a, b = int(one.argmax()), int(other.argmax())
    if a == b:
        return None
    best, second = one.topk(2).values.tolist()
    moved = other - one
    return Divergence(request, place, best - second, float(moved.abs().max()), float(moved[b] - moved[a]))


def batch_effect(engine: Engine, texts: Sequence[Sequence[int]], sizes: Sequence[int]) -> dict[int, float]:
    """Batch size -> the largest |difference| of a logit from what each text alone gives.

    texts: prompts with a part of an answer behind them, which are prefilled and decoded `FORCED_STEPS` tokens
    further, as long as the tokens are those of the text alone. Every size takes the first so many texts; 1 is
    the text run again. Without sizes, nothing.
    """
    if not sizes:
        return {}
    tap = logit_tap(engine, (), {})
    with tap.attached():
        alone = torch.cat([_logits(tap, [text]) for text in texts[: max(sizes)]], dim=1)
        return {size: _largest_move(alone[:, :size], _logits(tap, texts[:size])) for size in sizes}


def _logits(tap: LogitTap, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """Of the prefill and of every step after it, shape (steps + 1, rows, vocabulary)."""
    tap.prefill(texts, FORCED_STEPS + 1)
    steps = [tap.last_logits(len(texts))]
    for _ in range(FORCED_STEPS):
        tap.decode()
        steps.append(tap.last_logits(len(texts)))
    tap.engine.release()
    return torch.stack(steps)


def _largest_move(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest |difference|, each row as far as all tokens before were the same."""
    same = (one.argmax(-1) == other.argmax(-1)).cumprod(0).bool()
    counts = torch.cat([torch.ones_like(same[:1]), same[:-1]])
    return float((other - one).abs().amax(-1)[counts].max())
