"""seqsched's simulator: `from sim import simulate, compare, plan, sweep`.

The names are resolved on first use, so that importing a part of the package loads no other part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .planning.answer import Plan
    from .planning.plan import plan
    from .results.result import Result
    from .servers.server import Server, server
    from .simulation import Comparison, compare, simulate
    from .sweeps.sweep import SweepResult, sweep

__all__ = [
    "Comparison",
    "Plan",
    "Result",
    "Server",
    "SweepResult",
    "__version__",
    "compare",
    "plan",
    "server",
    "simulate",
    "sweep",
]

_HOMES = {
    "simulate": "simulation",
    "compare": "simulation",
    "Comparison": "simulation",
    "Result": "results.result",
    "Server": "servers.server",
    "server": "servers.server",
    "plan": "planning.plan",
    "Plan": "planning.answer",
    "sweep": "sweeps.sweep",
    "SweepResult": "sweeps.sweep",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
