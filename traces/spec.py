"""Specs of the form NAME[:key=value,...] and the frozen dataclasses of options that they fill."""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from itertools import pairwise
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import InputError

T = TypeVar("T")
LEAST_BEGINNING = 3
"""Letters from which on names that begin with them are what somebody may have meant."""
ON, OFF = ("on", "true", "yes", "1"), ("off", "false", "no", "0")


def parse(spec: str, what: str) -> tuple[str, dict[str, str]]:
    """Split `NAME:key=value,...` into the name and its options, still texts.

    `what` is what errors call the thing (`policy`, `predictor`). Raises InputError on an empty name, on a
    part that is not `key=value`, and on a key given twice.
    """
    name, _, rest = spec.strip().partition(":")
    if not name:
        raise InputError(f"{what} {spec!r}: the name is empty; expected NAME[:key=value,...]")
    options: dict[str, str] = {}
    for part in rest.split(",") if rest else []:
        key, equals, value = (text.strip() for text in part.partition("="))
        if not (key and equals and value):
            raise InputError(f"{what} {spec!r}: {part!r} is not key=value")
        if key in options:
            raise InputError(f"{what} {spec!r}: {key} is given twice")
        options[key] = value
    return name, options


def sentences(kind: type) -> dict[str, str]:
    """Field name -> the sentence under it, of a dataclass and of those that it inherits from."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not is_dataclass(base):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in pairwise(definition.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                assert isinstance(field.target, ast.Name) and isinstance(text.value, ast.Constant)
                texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: `; did you mean NAME?`, or nothing.

    NAME is one that is so but for its capitals and what is before a slash; else up to three that begin so;
    else the one that is spelt most alike.
    """
    from difflib import get_close_matches

    names, wanted = list(dict.fromkeys(known)), name.lower()
    folded = {each.lower(): each for each in reversed(names)}
    similar = [each for each in names if each.lower().rpartition("/")[2] == wanted][:1]
    if not similar and len(wanted) >= LEAST_BEGINNING:
        similar = [each for each in names if each.lower().startswith(wanted)][:3]
    if not similar:
        similar = [folded[each] for each in get_close_matches(wanted, folded, n=1)]
    return f"; did you mean {' or '.join(similar)}?" if similar else ""


def names_of(texts: str | Sequence[str], what: str, among: Collection[str] = ()) -> list[str]:
    """The names in a text with semicolons between them, or in a list; nothing between two of them is none.

    `what` is what errors call the list (`policies`), `among` the names that there are, if that is known.
    Raises InputError where there is no name, where one is given twice, and where one is not among them.
    """
    names = [text.strip() for text in (texts.split(";") if isinstance(texts, str) else texts)]
    names = [name for name in names if name]
    if not names:
        raise InputError(f"{what}: at least one is needed (0 given)")
    for k, name in enumerate(names):
        if name in names[:k]:
            raise InputError(f"{what}: {name!r} is given twice, 1 is allowed")
    for name in names:
        if among and name not in among:
            raise InputError(f"{what}: {name!r} is not one of {', '.join(among)}")
    return names


def build(options: type[T], texts: Mapping[str, str], what: str) -> T:
    """The dataclass `options` with its fields read from texts by their annotated types.

    Understands int, float, bool (on/off), str, Literal, and unions of these with None. Raises InputError for
    unknown keys, missing ones, values of the wrong type, a field of another type, and what the dataclass
    itself refuses (its ValueError).
    """
    return _construct(options, coerce(options, texts, what), what)


def coerce(options: type[Any], texts: Mapping[str, str], what: str) -> dict[str, Any]:
    """Keyword arguments for the dataclass `options` from texts; see `build`."""
    assert is_dataclass(options)
    known = {f.name: f for f in fields(options) if f.init}
    try:
        hints = _hints(options)
    except Exception as error:  # an annotation is any expression
        raise InputError(f"{what}: the type of an option cannot be told: {error}") from error
    for key in texts:
        if key not in known:
            has = ", ".join(known) or "no options"
            raise InputError(f"{what}: unknown option {key!r}; it has {has}{nearest(key, known)}")
    for key, option in known.items():
        if key not in texts and option.default is MISSING and option.default_factory is MISSING:
            raise InputError(f"{what}: option {key} is required, as in {what}:{key}=VALUE")
    return {key: _value(text, hints[key], f"{what}: {key}") for key, text in texts.items()}


@cache
def _hints(options: type[Any]) -> dict[str, Any]:
    return get_type_hints(options)


def _construct(options: type[T], values: Mapping[str, Any], what: str) -> T:
    try:
        return options(**values)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{what}: {error}") from None


def _value(text: str, hint: Any, what: str) -> Any:
    if get_origin(hint) is Literal:
        choices = {str(choice): choice for choice in get_args(hint)}
        if text not in choices:
            raise InputError(f"{what}: {text!r} must be one of {', '.join(choices)}{nearest(text, choices)}")
        return choices[text]
    is_union = get_origin(hint) in (Union, UnionType)
    kinds = [k for k in (get_args(hint) if is_union else (hint,)) if k is not type(None)]
    if not {bool, int, float, str} & {k for k in kinds if isinstance(k, type)}:
        name = getattr(hint, "__name__", str(hint))
        raise InputError(f"{what}: {text!r}: an option of type {name} cannot be read from text")
    if bool in kinds:
        if text.lower() not in ON + OFF:
            raise InputError(f"{what}: {text!r} must be on or off")
        return text.lower() in ON
    for kind in (k for k in (int, float) if k in kinds):
        try:
            number = kind(text)
        except ValueError:
            continue
        if isinstance(number, float) and math.isnan(number):
            break
        return number
    if str in kinds:
        return text
    raise InputError(f"{what}: {text!r} is not {'a whole number' if kinds == [int] else 'a number'}")
