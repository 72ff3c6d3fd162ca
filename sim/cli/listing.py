"""`seqsched list`: what flags take by name, and the options of each."""

from __future__ import annotations

from dataclasses import MISSING
from typing import Any, Literal, get_args

from traces.known_formats import FORMATS
from traces.registry import Registry
from traces.synthetic import GENERATORS

from ..fleet.routers import ROUTERS
from ..perception.registry import PREDICTORS
from ..scenario.policies import POLICIES
from . import show

Kind = Literal["policies", "predictors", "routers", "formats", "generators"]

KINDS: dict[Kind, tuple[str, Registry]] = {
    "policies": ("--policy", POLICIES),
    "predictors": ("--predictor", PREDICTORS),
    "routers": ("--router", ROUTERS),
    "formats": ("--trace, where a file's format is not detected", FORMATS),
    "generators": ("--trace", GENERATORS),
}


def list_names(*kinds: Kind) -> None:
    """What flags take by name as NAME[:key=value,...], and the options of each.

    Parameters
    ----------
    kinds
        policies, predictors, routers, formats, generators; default: all.
    """
    from rich.markup import escape
    from rich.table import Table

    for kind in kinds or get_args(Kind):
        flag, registry = KINDS[kind]
        table = Table(title=f"{kind} ({flag}), or some.module:Class", title_justify="left")
        table.add_column("name", no_wrap=True)
        table.add_column("option", no_wrap=True)
        table.add_column("what it is", overflow="fold")
        for name in registry.names:
            table.add_section()
            table.add_row(name, "", escape(f"{registry.describe(name)}."))
            for option, (default, sentence) in registry.options_of(name).items():
                table.add_row("", f"{option}{_default(default)}", escape(sentence))
        show.console().print(table)


def _default(value: Any) -> str:
    """The default of an option, as it would be given; nothing where there is none."""
    if value is MISSING or value is None:
        return ""
    return f"={value}" if not isinstance(value, bool) else "=on" if value else "=off"
