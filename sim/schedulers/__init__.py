"""The scheduling policies by name: plain objects that decide, and do no I/O.

A scheduler imports no clock, no randomness, no SimPy and no torch; it never learns how long an answer will
be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..work import Limits, Scheduler
from .ahead import AheadScheduler
from .continuous import ContinuousScheduler
from .continuous_options import ContinuousOptions
from .microbatch import MicrobatchScheduler
from .sequence import SequenceScheduler


@dataclass(frozen=True)
class Family:
    """Schedulers of one name, of which `make` chooses by the options."""

    Options: type
    make: Callable[..., Scheduler]

    def __call__(self, limits: Limits, **options: Any) -> Scheduler:
        """One scheduler."""
        return self.make(limits, **options)


def _continuous(limits: Limits, **options: Any) -> Scheduler:
    said = ContinuousOptions(**options).async_scheduling
    is_ahead = limits.async_scheduling if said is None else said
    return (AheadScheduler if is_ahead else ContinuousScheduler)(limits, **options)


SCHEDULERS: dict[str, Callable[..., Scheduler]] = {
    "vanilla": MicrobatchScheduler,
    "sequence": SequenceScheduler,
    "continuous": Family(ContinuousOptions, _continuous),
}
"""Name on the command line -> what builds it as `make(limits, **options)`; its `Options` has the options."""

__all__ = ["SCHEDULERS", "AheadScheduler", "ContinuousScheduler", "MicrobatchScheduler", "SequenceScheduler"]
