"""The scheduling policies by the names that the command line knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..work import Limits, Scheduler
from .ahead import AheadScheduler
from .by_memory import AheadByMemoryScheduler, ByMemoryScheduler
from .continuous import ContinuousScheduler
from .continuous_options import ContinuousOptions
from .microbatch import MicrobatchScheduler
from .open_sequence import OpenSequenceScheduler
from .order import BY_MEMORY
from .ranked import AheadRankedScheduler, RankedScheduler
from .sequence import SequenceScheduler
from .sequence_options import SequenceOptions
from .sglang import SglangScheduler
from .tiered import AheadTieredScheduler, TieredScheduler
from .trtllm import TrtllmScheduler


@dataclass(frozen=True)
class Family:
    """Schedulers that share a name and its options; `make(limits, **options)` builds the one they ask for."""

    Options: type
    make: Callable[..., Scheduler]

    def __call__(self, limits: Limits, **options: Any) -> Scheduler:
        """One scheduler; ValueError for an option out of bounds, TypeError for an unknown one."""
        return self.make(limits, **options)


def _sequence(limits: Limits, **options: Any) -> Scheduler:
    """Batches of similar predicted lengths; what is cut off is recomputed later (arXiv 2305.13144)."""
    is_open = SequenceOptions(**options).max_wait_s > 0
    return (OpenSequenceScheduler if is_open else SequenceScheduler)(limits, **options)


def _continuous(limits: Limits, **options: Any) -> Scheduler:
    """Continuous batching over paged KV memory, by the rules of vLLM v1, of SGLang or of TensorRT-LLM."""
    chosen = ContinuousOptions(**options)
    if limits.tiers:
        chosen.check_tiered()
    if chosen.rules != "vllm":
        return (SglangScheduler if chosen.rules == "sglang" else TrtllmScheduler)(limits, **options)
    is_ahead = limits.async_scheduling if chosen.async_scheduling is None else chosen.async_scheduling
    if limits.tiers:
        return (AheadTieredScheduler if is_ahead else TieredScheduler)(limits, **options)
    if chosen.is_ranked:
        return (AheadRankedScheduler if is_ahead else RankedScheduler)(limits, **options)
    if chosen.order in BY_MEMORY:
        return (AheadByMemoryScheduler if is_ahead else ByMemoryScheduler)(limits, **options)
    return (AheadScheduler if is_ahead else ContinuousScheduler)(limits, **options)


SCHEDULERS: dict[str, Callable[..., Scheduler]] = {
    "vanilla": MicrobatchScheduler,
    "sequence": Family(SequenceOptions, _sequence),
    "continuous": Family(ContinuousOptions, _continuous),
}
"""Policy name -> what builds a scheduler as `make(limits, **options)`; its `Options` is a dataclass."""
