"""What can be chosen of continuous batching; decides nothing itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .order import Order


@dataclass(frozen=True)
class ContinuousOptions:
    """Options of the `continuous` policy; the defaults are vLLM's."""

    max_num_seqs: int = 256
    """Most requests that run at a time."""
    max_num_batched_tokens: int = 2048
    """Most tokens that an iteration computes."""
    chunked: bool = True
    """Split prompts that exceed what is left of the token budget over several iterations."""
    order: Order = "fcfs"
    """Queue discipline: fcfs, shortest-predicted, shortest-remaining, priority, fair."""
    aging_s: float = 0.0
    """Under order=priority: seconds of waiting that are worth one level; 0: no ageing."""
    admission: Literal["chunk", "prompt", "predicted"] = "prompt"
    """Memory that must be free to let a request in: for its first chunk, for its prompt, or at the predicted
    peak of what runs and the request.
    """
    prefix_caching: bool = True
    """Use again what memory still holds of an evicted request (shared prompts are not modelled)."""
    async_scheduling: bool | None = None
    """Decide an iteration while the one before it runs, as vLLM's servers do; default: what the profile says.
    """
    margin: float = 0.0
    """Safety margin on predictions: whole tokens or, between 0 and 1, a quantile of the true length."""
    perceive_batch: int = 128
    """Requests asked for their length in one batch."""
    perceive_wait_s: float = 1.0
    """Longest wait for questions to fill a batch while others run, since asking makes those pause."""

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "perceive_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least 1")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens: {self.max_num_batched_tokens} must be at least max_num_seqs "
                f"({self.max_num_seqs}), or running requests could not all get their next token"
            )
        if not 0.0 <= self.aging_s < 1e9:
            raise ValueError(f"aging_s: {self.aging_s} must be at least 0 and below 1000000000")
        if not 0.0 <= self.margin < 1e6:
            raise ValueError(f"margin: {self.margin} must be at least 0 and below 1000000")
        if not 0.0 <= self.perceive_wait_s < 1e9:
            raise ValueError(
                f"perceive_wait_s: {self.perceive_wait_s} must be at least 0 and below 1000000000"
            )
