"""The scheduling policies by name: plain objects that decide, and do no I/O.

A scheduler imports no clock, no randomness, no SimPy and no torch; it never learns how long an answer will
be.
"""

from __future__ import annotations

from .continuous import ContinuousScheduler
from .microbatch import MicrobatchScheduler
from .sequence import SequenceScheduler

SCHEDULERS: dict[str, type] = {
    "vanilla": MicrobatchScheduler,
    "sequence": SequenceScheduler,
    "continuous": ContinuousScheduler,
}
"""Name on the command line -> class, built as `Class(limits, **options)`; `Class.Options` has its options."""

__all__ = ["SCHEDULERS", "ContinuousScheduler", "MicrobatchScheduler", "SequenceScheduler"]
