"""Checks the arguments of a public call against its annotations, so that a wrong one is named in one line.

Knows nothing of what the calls do. What a value means, and whether it is in bounds, is the call's own matter.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, wraps
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, Unpack, get_args, get_origin, get_type_hints

from .errors import InputError
from .spec import nearest

P = ParamSpec("P")
R = TypeVar("R")

WORDS: Mapping[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    os.PathLike: "a path",
    Mapping: "a mapping",
    Callable: "a function or class",
}
"""What errors call the types that are not called by their own name."""

MANY = (Sequence, Iterable, Collection, list, tuple)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """The function, its arguments checked before it is called.

    Raises InputError for a name that it does not have, with the nearest it has; for one that is missing; and
    for a value of another type than its annotation says. `**settings: Unpack[SomeTypedDict]` has the names
    and types of that. Annotations that exist for type checkers alone are not looked at.
    """
    signature = inspect.signature(function)
    own = [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        hints, settings = _hints_of(function)
        check_names(kwargs, [*own, *settings])
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise InputError(f"{function.__name__}: {error}") from None
        for name, value in given.items():
            if name in hints:
                check_value(name, value, hints[name])
        for name, value in kwargs.items():
            if name in settings:
                check_value(name, value, settings[name])
        return function(*args, **kwargs)

    return call


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """InputError for the first of the given names that is unknown, with the nearest known one."""
    names = list(known)
    for name in given:
        if name not in names:
            hint = nearest(str(name), names) or f"; the settings are {', '.join(names)}"
            raise InputError(f"unknown setting {name}{hint}")


def check_value(name: str, value: Any, hint: Any) -> None:
    """InputError where a value, or one of those in a list or tuple, is not what the type hint allows."""
    _check(name, value, members_of(hint))


def _check(name: str, value: Any, members: Sequence[Any]) -> None:
    if not any(_fits(value, member) for member in members):
        expected = " or ".join(dict.fromkeys(_word(m) for m in members if m is not NoneType))
        raise InputError(f"{name}: {value!r} is not {expected}")
    if isinstance(value, list | tuple):
        kinds = [kind for m in members if _is_many(m) for arg in get_args(m)[:1] for kind in members_of(arg)]
        for item in value if kinds else ():
            _check(name, item, kinds)


def members_of(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows; of a union each."""
    if get_origin(hint) in (Union, UnionType):
        return tuple(each for member in get_args(hint) for each in members_of(member))
    return (NoneType if hint is None else hint,)


@cache
def _hints_of(function: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The types of a function's parameters, and those of what it takes as `**settings`."""
    names = vars(sys.modules[function.__module__])
    hints, settings = {}, {}
    for parameter in inspect.signature(function).parameters.values():
        try:
            hint = parameter.annotation
            hint = eval(hint, dict(names)) if isinstance(hint, str) else hint
        except NameError:  # imported for type checkers alone
            continue
        if parameter.kind != parameter.VAR_KEYWORD:
            hints[parameter.name] = hint
        elif get_origin(hint) is Unpack:
            settings = get_type_hints(get_args(hint)[0])
    return hints, settings


def _is_many(member: Any) -> bool:
    return get_origin(member) in MANY


def _fits(value: Any, member: Any) -> bool:
    kind = get_origin(member) or member
    if kind is Any:
        return True
    if kind is Literal:
        return isinstance(value, str)  # whoever takes it says which
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind is Callable:
        return callable(value)
    if kind in MANY:
        items = get_args(member)
        is_text = isinstance(value, str | bytes)
        return isinstance(value, Iterable) and (not is_text or not items or str in members_of(items[0]))
    if getattr(kind, "_is_protocol", False):
        return all(callable(getattr(value, name, None)) for name in _methods(kind))
    if not isinstance(kind, type):
        return True
    return isinstance(value, kind)


def _methods(protocol: Any) -> list[str]:
    return [name for name, member in vars(protocol).items() if callable(member) and not name.startswith("_")]


def _word(member: Any) -> str:
    kind = get_origin(member) or member
    if kind is Literal:
        return "a text"
    if kind in MANY:
        items = get_args(member)
        return f"a list of {_plural(items[0])}" if items else "a list"
    if kind in WORDS:
        return WORDS[kind]
    if isinstance(kind, type) and issubclass(kind, os.PathLike):
        return WORDS[os.PathLike]
    name = getattr(kind, "__name__", str(kind))
    methods = f" (methods {', '.join(_methods(kind))})" if getattr(kind, "_is_protocol", False) else ""
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}{methods}"


def _plural(hint: Any) -> str:
    words = [_word(member).partition(" ")[2] or _word(member) for member in members_of(hint)]
    return " or ".join(f"{word}s" for word in words)
