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
from .late import AheadLateLastScheduler, LateLastScheduler
from .microbatch import MicrobatchScheduler
from .open_sequence import OpenSequenceScheduler
from .order import BY_MEMORY
from .preserving import (
    AheadPreservingRankedScheduler,
    AheadPreservingScheduler,
    AheadPreservingTieredScheduler,
    PreservingRankedScheduler,
    PreservingScheduler,
    PreservingTieredScheduler,
)
from .ranked import AheadRankedScheduler, RankedScheduler
from .sequence import SequenceScheduler
from .sequence_options import SequenceOptions
from .sglang import SglangScheduler
from .tiered import AheadTieredScheduler, TieredScheduler
from .trtllm import TrtllmScheduler
from .vtc import AheadVtcScheduler, VtcScheduler


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
    elif chosen.waits == "swap":
        raise ValueError("waits: swap needs kv_tier, memory to swap to, such as cpu:64GiB@50GB/s")
    if chosen.waits == "swap" and limits.tiers_eviction == "arc":
        raise ValueError("waits: swap goes with memory that is given up by LRU, not by kv_tier's arc")
    if chosen.rules != "vllm":
        return (SglangScheduler if chosen.rules == "sglang" else TrtllmScheduler)(limits, **options)
    is_ahead = limits.async_scheduling if chosen.async_scheduling is None else chosen.async_scheduling
    if chosen.waits != "discard":
        return _preserving(limits, options, is_ranked=chosen.is_ranked, is_ahead=is_ahead)
    if limits.tiers:
        return (AheadTieredScheduler if is_ahead else TieredScheduler)(limits, **options)
    if chosen.is_ranked:
        return (AheadRankedScheduler if is_ahead else RankedScheduler)(limits, **options)
    if chosen.order in BY_MEMORY:
        return (AheadByMemoryScheduler if is_ahead else ByMemoryScheduler)(limits, **options)
    if chosen.late == "last":
        return (AheadLateLastScheduler if is_ahead else LateLastScheduler)(limits, **options)
    if chosen.order == "vtc":
        return (AheadVtcScheduler if is_ahead else VtcScheduler)(limits, **options)
    return (AheadScheduler if is_ahead else ContinuousScheduler)(limits, **options)


def _preserving(limits: Limits, options: dict[str, Any], *, is_ranked: bool, is_ahead: bool) -> Scheduler:
    """Those that may hold on to the memory of a turn while its session waits."""
    made: type[PreservingScheduler]
    if limits.tiers:
        made = AheadPreservingTieredScheduler if is_ahead else PreservingTieredScheduler
    elif is_ranked:
        made = AheadPreservingRankedScheduler if is_ahead else PreservingRankedScheduler
    else:
        made = AheadPreservingScheduler if is_ahead else PreservingScheduler
    return made(limits, **options)


SCHEDULERS: dict[str, Callable[..., Scheduler]] = {
    "vanilla": MicrobatchScheduler,
    "sequence": Family(SequenceOptions, _sequence),
    "continuous": Family(ContinuousOptions, _continuous),
}
"""Policy name -> what builds a scheduler as `make(limits, **options)`; its `Options` is a dataclass."""
