"""Flags made from `sim.scenario.settings`: one for each field, with its sentence as help."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, get_type_hints

from cyclopts import Parameter

from ..hardware import overrides
from ..scenario.settings import Keywords, MachineSettings, Settings, kinds_of, sentences

T = TypeVar("T")

Several = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")]
"""A flag that takes several words."""
SetFlag = Annotated[Several, Parameter(help=overrides.HELP)]


def flags(kind: type[T], *, without: Collection[str] = (), help_texts: Mapping[str, str] = {}) -> type[T]:
    """A dataclass with a flag for each field of `kind`, of the types that a text can be read as.

    `without`: fields that are no flags here. `help_texts`: sentences in place of those of `kind`.
    """
    hints, texts = get_type_hints(kind), {**sentences(kind), **help_texts}
    flag_fields: list[tuple[str, Any, Any]] = []
    for each in fields(cast(Any, kind)):
        if each.name in without:
            continue
        hint, several = _flag_type(hints[each.name])
        about = Parameter(help=texts[each.name])
        default = () if several and each.default is None else each.default
        flag_fields.append((each.name, Annotated[hint, about], field(default=default)))
    flag_class = make_dataclass(kind.__name__, flag_fields, frozen=True, kw_only=True)
    flag_class.__module__ = __name__
    return cast(type[T], Parameter(name="*")(flag_class))


def _flag_type(hint: Any) -> tuple[Any, bool]:
    """What the texts of a flag are read as, and whether it takes several."""
    kinds = kinds_of(hint)
    if Mapping in kinds or Iterable in kinds:
        return Several, True
    if Path in kinds or str in kinds:
        text = Path if Path in kinds else str
        return (text | None if NoneType in kinds else text), False
    return hint, False


def keywords(given: MachineSettings) -> Keywords:
    """Keyword arguments for `simulate` and its like, the trace aside."""
    return cast(Keywords, {name: value for name, value in vars(given).items() if name != "trace"})


if TYPE_CHECKING:
    MachineFlags = MachineSettings
    Flags = Settings
else:
    MachineFlags = flags(MachineSettings)
    Flags = flags(Settings)

DEFAULT = Flags()
