"""Flags made from `sim.scenario.settings`: one for each field, with its sentence as help."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, get_origin, get_type_hints

from cyclopts import CoercionError, Parameter, Token

from traces import quantities

from ..hardware import overrides
from ..scenario.settings import Keywords, MachineSettings, Settings, kinds_of, sentences

T = TypeVar("T")


class ByDefault:
    """A value that nobody gave, so that one given is told from it where both are equal."""


class _Text(ByDefault, str):
    pass


class _Number(ByDefault, int):
    pass


Several = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")]
"""A flag that takes several words."""
OF_A_SERVER = ("profile", "replicas")
"""Fields with a default of their own that `--server` may say in its place."""
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
        negative = "" if several or get_origin(hint) is tuple else None  # several values have no opposite
        about = Parameter(help=texts[each.name], converter=_converter(each.name, hint), negative=negative)
        default = () if several and each.default is None else each.default
        if each.name in OF_A_SERVER:
            default = _Text(default) if isinstance(default, str) else _Number(cast(Any, default))
        flag_fields.append((each.name, Annotated[hint, about], field(default=default)))
    flag_class = make_dataclass(kind.__name__, flag_fields, frozen=True, kw_only=True)
    flag_class.__module__ = __name__
    return cast(type[T], Parameter(name="*")(flag_class))


def with_unit(read: Callable[[str], float], units: str, more: Callable[[str], str] = lambda text: "") -> Any:
    """What reads the text of a flag as a number that may have a unit, as `Parameter.converter`; `more(text)`
    is what is said besides of a text that is none.
    """

    def convert(kind: Any, tokens: Sequence[Token]) -> Any:
        numbers = []
        for token in tokens:
            try:
                numbers.append(read(token.value))
            except ValueError:
                said = f'"{token.value}" is not a number, nor one with a unit ({units}){more(token.value)}'
                raise CoercionError(msg=said, token=token) from None
        return tuple(numbers) if get_origin(kind) is tuple else numbers[0]

    return convert


def _of_multiple(text: str) -> str:
    """How a trace comes N times as fast, where that is what a rate says."""
    try:
        times = float(text.strip().removesuffix("x")) if text.strip().endswith("x") else 0.0
    except ValueError:
        return ""
    return (
        f"; for {text.strip()} the rate of the trace itself give --time-scale {1 / times:.4g}"
        if times > 0
        else ""
    )


RATE = with_unit(quantities.per_second, quantities.RATE_UNITS, _of_multiple)
SPAN = with_unit(quantities.seconds, quantities.DURATION_UNITS)
Rate = Annotated[float, Parameter(converter=RATE)]
"""A flag of requests per second, or `60/min`."""


def _converter(name: str, hint: Any) -> Any:
    """How the text of a flag is read, where that is not up to its type alone."""
    if float not in kinds_of(hint):
        return None
    return RATE if name == "request_rate" else SPAN if name.endswith("_s") else None


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
