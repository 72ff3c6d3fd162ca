"""Environment variables that look like settings and are none: a misspelt one would change nothing, unsaid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from cyclopts import App

from traces.datasets import CACHE_VARIABLE
from traces.spec import nearest

PREFIX = "SEQSCHED_"
OTHERS = (CACHE_VARIABLE, "SEQSCHED_UPSTREAM_KEY")
"""Variables that are no flags: where data lie, and a key, which shall not stand in a command line."""


def unused_variables(apps: Callable[[], Iterable[App]], environment: Iterable[str]) -> list[str]:
    """A line for each variable with our prefix that is no flag of any command of the apps.

    Every command is imported to know its flags, so that this costs time only where there is such a variable.
    """
    ours = sorted(name.removeprefix(PREFIX) for name in environment if name.startswith(PREFIX))
    known = {name.removeprefix(PREFIX) for name in OTHERS}
    if known.issuperset(ours):
        return []
    known.update(flag for app in apps() for flag in _flags(app))
    return [
        f"{PREFIX}{name} in the environment is no setting"
        + nearest(name, known).replace("mean ", f"mean {PREFIX}")
        for name in ours
        if name not in known
    ]


def _flags(app: App) -> Iterator[str]:
    """Every flag of a command and of those below it, as the rest of a variable's name."""
    for name in app:
        if name.startswith("-"):
            continue
        command = app[name]
        if command.default_command is None:
            yield from _flags(command)
            continue
        for argument in command.assemble_argument_collection():
            for flag in argument.names:
                if flag.startswith("--"):
                    yield flag.strip("-").replace("-", "_").upper()
