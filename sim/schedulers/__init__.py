"""The scheduling policies: plain objects that decide, and do no I/O.

A scheduler imports no clock, no randomness, no SimPy and no torch; it never learns how long an answer will
be.
"""

from __future__ import annotations

from .ahead import AheadScheduler
from .continuous import ContinuousScheduler
from .microbatch import MicrobatchScheduler
from .open_sequence import OpenSequenceScheduler
from .registry import SCHEDULERS
from .sequence import SequenceScheduler
from .sglang import SglangScheduler
from .trtllm import TrtllmScheduler

__all__ = [
    "SCHEDULERS",
    "AheadScheduler",
    "ContinuousScheduler",
    "MicrobatchScheduler",
    "OpenSequenceScheduler",
    "SequenceScheduler",
    "SglangScheduler",
    "TrtllmScheduler",
]
