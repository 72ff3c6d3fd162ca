"""When replicas are down: at random, or by a schedule; knows nothing of what that means for requests."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np

from traces.errors import InputError

Schedules: TypeAlias = dict[int, Iterator[tuple[float, float]]]
"""By replica, its outages in order as (from, until it serves again)."""

COLUMNS = ("replica", "down_s", "up_s")

AT_A_TIME, MANY_AT_A_TIME = 64, 1 << 20
"""How many outages of a replica are drawn at once, in general and while nothing is there to fail."""

MOST_OUTAGES = 200_000_000
"""A replica that fails more often than this in one run is refused: drawing them would take minutes."""


@dataclass(frozen=True)
class Outages:
    """Failures and repairs of a fleet.

    Exponential with means `mtbf_s` (up time) and `mttr_s` (repair), each replica on its own; or read from the
    file `failures`, a table with the columns replica (from 0), down_s, up_s. A replica that was repaired
    takes `startup_s` seconds to load its weights before it serves. A schedule names replicas of the fleet
    alone, unless `is_partial`: then the rows of others are left out. InputError for both kinds at once, for
    one mean without the other, and for times that cannot be.
    """

    mtbf_s: float | None = None
    mttr_s: float | None = None
    failures: str | Path | None = None
    startup_s: float = 0.0
    is_partial: bool = False

    def __post_init__(self) -> None:
        if self.failures is not None and (self.mtbf_s is not None or self.mttr_s is not None):
            raise InputError("failures: give either a schedule or mtbf_s and mttr_s, not both")
        if (self.mtbf_s is None) != (self.mttr_s is None):
            given, missing = ("mttr_s", "mtbf_s") if self.mtbf_s is None else ("mtbf_s", "mttr_s")
            raise InputError(f"{given}: {getattr(self, given):g} needs {missing} as well")
        for name in ("mtbf_s", "mttr_s"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name}: {value:g} must be a number of seconds above 0")
        if not (math.isfinite(self.startup_s) and self.startup_s >= 0):
            raise InputError(f"startup_s: {self.startup_s:g} must be at least 0 seconds")

    @property
    def any(self) -> bool:
        """Whether anything can fail at all."""
        return self.mtbf_s is not None or self.failures is not None

    def schedules(self, num_replicas: int, rng: np.random.Generator) -> Schedules:
        """Every replica's outages; without end where they are random."""
        if self.failures is not None:
            return self._read(Path(self.failures), num_replicas)
        if self.mtbf_s is None:
            return {}
        assert self.mttr_s is not None
        means = (self.mtbf_s, self.mttr_s, self.startup_s)
        return {k: DrawnOutages(stream, *means) for k, stream in enumerate(rng.spawn(num_replicas))}

    def _read(self, path: Path, num_replicas: int) -> Schedules:
        from traces import checks
        from traces.tables import log_unused, open_table

        table = open_table(path, COLUMNS.__contains__)
        for column in COLUMNS:
            if column not in table.columns:
                raise InputError(f"{path}: column {column} is missing; a schedule has {', '.join(COLUMNS)}")
        log_unused(table, "a schedule of outages", COLUMNS)
        replica, down, up = (
            checks.tokens(table, "replica", 0),
            *(checks.times(table, c) for c in ("down_s", "up_s")),
        )
        absent = replica >= num_replicas
        if not self.is_partial:
            checks.refuse(table, "replica", absent, lambda k: f"{replica[k]} is not below {num_replicas}")
        checks.refuse(table, "up_s", up <= down, lambda k: f"{up[k]:g} is not after down_s ({down[k]:g})")
        found: Schedules = {}
        for k in np.unique(replica[~absent]).tolist():
            order = np.flatnonzero(replica == k)
            order = order[np.argsort(down[order], kind="stable")]
            spans = [(float(down[i]), float(up[i]) + self.startup_s) for i in order]
            for i, (before, after) in zip(order[1:], pairwise(spans), strict=True):
                if after[0] < before[1]:
                    what = (
                        f"replica {k} is down until {before[1]:g} (start-up included), and fails again before"
                    )
                    raise checks.fault(table, int(i), "down_s", what)
            found[k] = iter(spans)
        return found


class DrawnOutages:
    """Outages without end, (from, until) one after the other: exponential up times and repairs."""

    def __init__(self, rng: np.random.Generator, mtbf_s: float, mttr_s: float, startup_s: float) -> None:
        self.rng, self.means = rng, np.array([mtbf_s, mttr_s])
        self.startup_s = startup_s
        self.times = np.zeros((0, 2))  # spans drawn ahead, shape (n, 2)
        self.next, self.end_s, self.num_drawn = 0, 0.0, 0

    def __iter__(self) -> DrawnOutages:
        return self

    def __next__(self) -> tuple[float, float]:
        if self.next == len(self.times):
            self._draw(AT_A_TIME)
        down_s, up_s = self.times[self.next].tolist()
        self.next += 1
        return down_s, up_s

    def skip(self, until_s: float) -> tuple[int, float]:
        """Leave out all that begins before `until_s` but the last of these: (how many, their seconds).

        Raises InputError where these are more than anyone can mean.
        """
        skipped, seconds = 0, 0.0
        while True:
            begins_s = self.times[self.next :, 0]
            early = int(np.searchsorted(begins_s, until_s))
            if early < len(begins_s):
                leave_out = max(early - 1, 0)
                return skipped + leave_out, seconds + self._pass_over(leave_out)
            if early > 1:  # the last one drawn may be the last before that time
                skipped, seconds = skipped + early - 1, seconds + self._pass_over(early - 1)
            self._draw(AT_A_TIME if not self.num_drawn else MANY_AT_A_TIME)
            if self.num_drawn > MOST_OUTAGES:
                raise InputError(
                    f"mtbf_s: {self.means[0]:g} with mttr_s {self.means[1]:g} gives a replica more than "
                    f"{MOST_OUTAGES:,} failures by {self.end_s:.3g} s, while no request is there"
                )

    def _pass_over(self, number: int) -> float:
        passed = self.times[self.next : self.next + number]
        self.next += number
        return float((passed[:, 1] - passed[:, 0]).sum())

    def _draw(self, number: int) -> None:
        """So many more; the numbers do not depend on how many are drawn at a time."""
        steps = np.empty((number, 3))
        steps[:, :2] = self.rng.standard_exponential((number, 2)) * self.means
        steps[:, 2] = self.startup_s
        steps[0, 0] += self.end_s
        ends = np.cumsum(steps).reshape(number, 3)
        self.times = np.concatenate([self.times[self.next :], ends[:, ::2]])
        self.next, self.end_s = 0, float(ends[-1, 2])
        self.num_drawn += number


NONE = Outages()
