"""Reads checked values out of a parsed JSON object; knows nothing of what they mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from traces.errors import InputError

MOST = 1e30
"""More than any field of a machine can be, and small enough that what is computed from several is finite."""

MOST_COUNT = 10**15


class Fields:
    """One JSON object whose keys are read one by one, each checked as it is read.

    `where` names the object in errors, for example `machine.json: memory`. Every method raises `InputError`
    with one line that names the place, the key, the value and the bound. `end` refuses unread keys.
    """

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, Mapping):
            raise InputError(f"{where}: {_text(data)} is not a JSON object")
        self._data = data
        self._taken: set[str] = set()
        self.where = where

    def _take(self, key: str) -> Any:
        if key not in self._data:
            raise InputError(f"{self.where}: the key {key!r} is missing")
        self._taken.add(key)
        return self._data[key]

    def number(self, key: str, minimum: float = 0.0, default: float | None = None) -> float:
        """A finite number of at least `minimum`; `default` where the key is absent."""
        if default is not None and key not in self._data:
            return default
        value = self._take(key)
        return checked_number(value, f"{self.where}, {key}", minimum)

    def numbers(self, key: str, minimum: float = 0.0) -> tuple[float, ...]:
        """A list of finite numbers of at least `minimum`."""
        values = self._take(key)
        if not isinstance(values, list):
            raise InputError(f"{self.where}, {key}: {_text(values)} is not a list of numbers")
        return tuple(checked_number(v, f"{self.where}, {key}[{i}]", minimum) for i, v in enumerate(values))

    def integer(self, key: str, minimum: int = 0) -> int:
        """A whole number of at least `minimum`."""
        value = checked_number(self._take(key), f"{self.where}, {key}", minimum, MOST_COUNT)
        if value != int(value):
            raise InputError(f"{self.where}, {key}: {value!r} is not a whole number")
        return int(value)

    def number_or_none(self, key: str, minimum: float = 0.0) -> float | None:
        """A finite number of at least `minimum`, or None where the key is absent or null."""
        if self._data.get(key) is None:
            self._taken.add(key)
            return None
        return self.number(key, minimum)

    def integer_or_none(self, key: str, minimum: int = 0) -> int | None:
        """A whole number of at least `minimum`, or None where the key is absent or null."""
        if self._data.get(key) is None:
            self._taken.add(key)
            return None
        return self.integer(key, minimum)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty where the key is absent."""
        if key not in self._data:
            return ()
        values = self._take(key)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise InputError(f"{self.where}, {key}: {_text(values)} is not a list of strings")
        return tuple(values)

    def text(self, key: str, default: str | None = None) -> str:
        """A string; `default` where the key is absent."""
        if default is not None and key not in self._data:
            return default
        value = self._take(key)
        if not isinstance(value, str):
            raise InputError(f"{self.where}, {key}: {_text(value)} is not a string")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false; `default` where the key is absent."""
        if key not in self._data:
            return default
        value = self._take(key)
        if not isinstance(value, bool):
            raise InputError(f"{self.where}, {key}: {_text(value)} is not true or false")
        return value

    def section(self, key: str) -> Fields:
        """The JSON object under `key`."""
        return Fields(self._take(key), f"{self.where}, {key}")

    def section_or_none(self, key: str) -> Fields | None:
        """The JSON object under `key`, or None where the key is absent or null."""
        if self._data.get(key) is None:
            self._taken.add(key)
            return None
        return self.section(key)

    def plain(self, key: str) -> dict[str, Any]:
        """The JSON object under `key` as a dict, unchecked inside; empty where the key is absent."""
        if key not in self._data:
            return {}
        value = self._take(key)
        if not isinstance(value, dict):
            raise InputError(f"{self.where}, {key}: {_text(value)} is not a JSON object")
        return dict(value)

    def end(self) -> None:
        """Refuse keys that were not read."""
        unknown = sorted(set(map(str, self._data)) - self._taken)
        if unknown:
            known = ", ".join(sorted(self._taken))
            raise InputError(f"{self.where}: unknown key {unknown[0]!r}; the known keys are {known}")


def checked_number(value: object, where: str, minimum: float = 0.0, maximum: float = MOST) -> float:
    """`value` as a float from `minimum` to `maximum`; `InputError` naming `where`, value and bound."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where}: {_text(value)} is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{where}: {_text(value)} is not finite")
    if number < minimum:
        raise InputError(f"{where}: {_text(value)} is below {minimum:g}")
    if number > maximum:
        raise InputError(f"{where}: {_text(value)} is above {maximum:g}")
    return number


def _text(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
