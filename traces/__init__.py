"""Request traces: read, generated, fetched, written. Knows nothing of schedulers, simulators or hardware.

    from traces import load
    trace = load("trace.csv")

Names are resolved on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import InputError
    from .loading import load
    from .trace import Trace
    from .writers import write

__all__ = ["InputError", "Trace", "load", "write"]

_HOMES = {"InputError": "errors", "Trace": "trace", "load": "loading", "write": "writers"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
