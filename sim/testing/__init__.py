"""Checks for schedulers, predictors and routers of anybody's: what must hold of each, over random worlds.

    from sim.testing import check_scheduler
    check_scheduler("mypackage.policies:MyScheduler:key=value")

A check takes seconds and returns None; the first thing that does not hold is an AssertionError of one line,
which names the world in which it was found and how to run that one again. Neither pytest nor Hypothesis is
needed.
"""

from __future__ import annotations

from .predictors import check_predictor
from .routers import check_router
from .schedulers import check_scheduler

__all__ = ["check_predictor", "check_router", "check_scheduler"]
