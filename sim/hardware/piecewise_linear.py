"""A function of a size, linear between measured points; knows nothing of what takes the seconds."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from typing import Any

from sim.hardware.json_fields import MOST, Fields, checked_number
from traces.errors import InputError

MOST_SECONDS = 1e6
"""The longest that a part of an iteration may take, in seconds (in all, or per token)."""


@dataclass(frozen=True, slots=True)
class PiecewiseLinear:
    """A function of a size, linear between measured points.

    Below the first size it is constant. Beyond the last it follows the chord over the last octave (from the
    largest measured size at or below half of the last one), since the last two points may lie on either side
    of a step; it never falls there.

    sizes: strictly increasing, at least one. seconds: one per size, finite, not negative, and never falling
    unless `may_fall`. Raises `InputError` otherwise.
    """

    sizes: tuple[float, ...]
    seconds: tuple[float, ...]
    may_fall: bool = False
    """The points are known one by one, and a larger size may be faster: kernels change with the size."""
    _slopes: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sizes, seconds = self.sizes, self.seconds
        if not sizes:
            raise InputError("sizes: [] is below 1 point")
        if len(sizes) != len(seconds):
            raise InputError(f"seconds: {len(seconds)} values for {len(sizes)} sizes")
        for name, values in (("sizes", sizes), ("seconds", seconds)):
            for i, value in enumerate(values):
                checked_number(value, f"{name}[{i}]", maximum=MOST_SECONDS if name == "seconds" else MOST)
        for i in range(1, len(sizes)):
            if sizes[i] <= sizes[i - 1]:
                raise InputError(
                    f"sizes[{i}]: {sizes[i]!r} is not above the size before it, {sizes[i - 1]!r}"
                )
            if seconds[i] < seconds[i - 1] and not self.may_fall:
                raise InputError(
                    f"seconds[{i}]: {seconds[i]!r} is below the value before it, {seconds[i - 1]!r}"
                )
        inner = [(seconds[i + 1] - seconds[i]) / (sizes[i + 1] - sizes[i]) for i in range(len(sizes) - 1)]
        start = tail_start(sizes)
        run = sizes[-1] - sizes[start]
        tail = max(0.0, (seconds[-1] - seconds[start]) / run) if run > 0 else 0.0
        object.__setattr__(self, "_slopes", (0.0, *inner, tail))

    def __call__(self, size: float) -> float:
        """Seconds at `size`."""
        i = bisect_right(self.sizes, size)
        if i == 0:
            return self.seconds[0]
        return self.seconds[i - 1] + self._slopes[i] * (size - self.sizes[i - 1])

    def scaled(self, factor: float) -> PiecewiseLinear:
        """The same shape with every value times `factor`."""
        return replace(self, seconds=tuple(factor * s for s in self.seconds))

    def to_json(self) -> dict[str, Any]:
        """A dict of two lists, and of `may_fall` where it is so."""
        falls = {"may_fall": True} if self.may_fall else {}
        return {"sizes": list(self.sizes), "seconds": list(self.seconds), **falls}

    @classmethod
    def from_json(cls, fields: Fields) -> PiecewiseLinear:
        """The function that `to_json` wrote; `InputError` naming the place for anything else."""
        sizes, seconds = fields.numbers("sizes"), fields.numbers("seconds")
        may_fall = fields.flag("may_fall")
        fields.end()
        try:
            return cls(sizes, seconds, may_fall)
        except InputError as error:
            raise InputError(f"{fields.where}, {error}") from None


def tail_start(sizes: tuple[float, ...]) -> int:
    """Where the chord beyond the last size starts: the index of the largest size at or below half of it."""
    return max(0, bisect_right(sizes, sizes[-1] / 2) - 1)
