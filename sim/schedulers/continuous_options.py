"""What can be chosen of continuous batching; decides nothing itself."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from .order import Order

RULE_OPTIONS = {
    "vllm": ("admission", "margin"),
    "sglang": ("chunked_prefill_size", "max_prefill_tokens", "schedule_conservativeness", "mixed_chunk"),
    "trtllm": ("capacity_scheduler_policy", "batch_wait_timeout_iters", "batch_wait_max_tokens_ratio"),
}
"""Options that belong to some rules only."""


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
    rules: Literal["vllm", "sglang", "trtllm"] = "vllm"
    """Whose rules put iterations together and let requests in; the options below belong to the other two."""
    chunked_prefill_size: int = 8192
    """rules=sglang: most tokens of a prefill batch; with chunked=off there is no such bound."""
    max_prefill_tokens: int = 16384
    """rules=sglang: tokens at which a prefill batch is full."""
    schedule_conservativeness: float = 1.0
    """rules=sglang: multiplies what running requests are expected to need yet."""
    mixed_chunk: bool = False
    """rules=sglang: decode beside a prefill batch, instead of pausing."""
    capacity_scheduler_policy: Literal["guaranteed_no_evict", "max_utilization"] = "guaranteed_no_evict"
    """rules=trtllm: memory that must be free to let a request in: for prompt and cap, or for the prompt."""
    batch_wait_timeout_iters: int = 0
    """rules=trtllm: most iterations for which prompts are held back until there are more of them; 0: none."""
    batch_wait_max_tokens_ratio: float = 0.0
    """rules=trtllm: they are not where an iteration has this share of max_num_batched_tokens; 0: never."""

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
        self._check_rules()

    @property
    def never_evicts(self) -> bool:
        """Whether who has entered stays until the answer is complete."""
        return self.rules == "trtllm" and self.capacity_scheduler_policy == "guaranteed_no_evict"

    def _check_rules(self) -> None:
        """ValueError for an option of other rules than those that are chosen, and for one out of bounds."""
        for f in fields(self):
            rules = next((r for r, names in RULE_OPTIONS.items() if f.name in names), self.rules)
            if rules != self.rules and getattr(self, f.name) != f.default:
                raise ValueError(f"{f.name}: an option of rules={rules}, not of rules={self.rules}")
        for name in ("chunked_prefill_size", "max_prefill_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least 1")
        if self.batch_wait_timeout_iters < 0:
            raise ValueError(f"batch_wait_timeout_iters: {self.batch_wait_timeout_iters} must be at least 0")
        if not 0.0 <= self.batch_wait_max_tokens_ratio <= 1.0:
            ratio = self.batch_wait_max_tokens_ratio
            raise ValueError(f"batch_wait_max_tokens_ratio: {ratio} must be between 0 and 1")
        if not 0.0 <= self.schedule_conservativeness < 1e3:
            conservativeness = self.schedule_conservativeness
            raise ValueError(
                f"schedule_conservativeness: {conservativeness} must be at least 0 and below 1000"
            )
