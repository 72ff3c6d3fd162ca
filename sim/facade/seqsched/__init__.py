"""`import seqsched`: the public calls of `sim` and `traces.load` under the name of the distribution.

A facade: it holds no code of its own, and resolves the names on first use as `sim` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sim
from sim.version import __version__

if TYPE_CHECKING:
    from sim import Comparison, Plan, Result, Server, SweepResult, compare, plan, server, simulate, sweep
    from traces import load

__all__ = [
    "Comparison",
    "Plan",
    "Result",
    "Server",
    "SweepResult",
    "__version__",
    "compare",
    "load",
    "plan",
    "server",
    "simulate",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name == "load":
        from traces import load

        return load
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(sim, name)


def __dir__() -> list[str]:
    return __all__
