"""What an overload gained by the order of its requests, beside what `pilot` says of the logs before, and how
sure both are.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from sim.studies.pilot import Pilot, Replayed, pilot
from tests.servers.overload import SHORTEST, Case, Rounds, e2el_s, log_of

MOST_ERROR = 0.10
"""What pilot may be off by, as a share of the gain."""
SURE = 0.90
"""Of intervals over rounds."""
FIGURES = ("mean_e2el_ms", "p99_e2el_ms")


class Noise(NamedTuple):
    """Standard deviations of one round of an arm, over all arms that ran more than once, in points: of what
    was measured, of what pilot said, and of its error. They have `freedom` degrees of freedom.
    """

    measured: float
    predicted: float
    error: float
    freedom: int

    @classmethod
    def of(cls, arms: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Noise:
        """By what was measured and what was said in the rounds of each arm."""
        freedom = sum(len(measured) - 1 for measured, _ in arms)

        def pooled(rounds: Iterable[Sequence[float]]) -> float:
            squares = sum((each - statistics.fmean(one)) ** 2 for one in rounds for each in one)
            return math.sqrt(squares / freedom) if freedom else 0.0

        errors = [[said - was for was, said in zip(*arm, strict=True)] for arm in arms]
        return cls(
            pooled(measured for measured, _ in arms),
            pooled(predicted for _, predicted in arms),
            pooled(errors),
            freedom,
        )

    def deviations(self) -> dict[str, float]:
        """By name."""
        return {"measured": self.measured, "predicted": self.predicted, "error": self.error}


class Gain(NamedTuple):
    """By how much a figure fell, in each round, as a share of that of the fcfs run before, and as pilot said
    of that run's log; `replay`: how far it was off with what ran. `between`: pilot's own range, for logs of
    other requests, in the mean of the rounds. `noise`: standard deviations over rounds.
    """

    measured: list[float]
    predicted: list[float]
    replay: list[float]
    between: tuple[float, float]
    noise: Noise

    @property
    def error(self) -> float:
        """Predicted less measured, in points, of the means."""
        return statistics.fmean(self.predicted) - statistics.fmean(self.measured)

    @property
    def tenth(self) -> float:
        """A tenth of what was measured, in points."""
        return MOST_ERROR * abs(statistics.fmean(self.measured))

    @property
    def is_within_a_tenth(self) -> bool:
        """Whether it is off by no more than that."""
        return abs(self.error) <= self.tenth

    @property
    def is_missed(self) -> bool:
        """Whether it is off by more than a tenth of the gain, and by more than chance explains: 0 is outside
        the interval of the error.
        """
        return abs(self.error) > max(self.tenth, self._half(self.noise.error))

    def _half(self, deviation: float) -> float:
        """Half an interval of the mean over rounds, in points, by Student's t; 0 where no arm ran twice."""
        if not self.noise.freedom:
            return 0.0
        t = float(student.ppf(0.5 + SURE / 2, self.noise.freedom))
        return t * deviation / math.sqrt(len(self.measured))

    def __str__(self) -> str:
        measured, predicted, noise = self.measured, self.predicted, self.noise
        low, high = (100 * each for each in self.between)
        return (
            f"{statistics.fmean(measured):.1%} ± {100 * self._half(noise.measured):.1f}; pilot "
            f"{statistics.fmean(predicted):.1%} ± {100 * self._half(noise.predicted):.1f}, other requests "
            f"{low:.0f} to {high:.0f} %; replay {statistics.fmean(self.replay):+.1%}"
        )

    @property
    def verdict(self) -> str:
        """How far pilot was off, and how far it may be."""
        half = self._half(self.noise.error)
        chance = "within chance" if abs(self.error) <= half else "missed"
        return (
            f"{100 * self.error:+.1f} ± {100 * half:.1f} points; a tenth is {100 * self.tenth:.1f}: "
            f"{'met' if self.is_within_a_tenth else chance}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        halves = {f"{name}_interval": self._half(each) for name, each in self.noise.deviations().items()}
        return {
            "measured": self.measured,
            "predicted": self.predicted,
            "replay": self.replay,
            "between": list(self.between),
            "error": self.error,
            "tenth": self.tenth,
            **halves,
            "verdict": self.verdict,
        }


def gains(case: Case, rounds: Rounds, clock: str, out: Path) -> dict[str, dict[str, Gain]]:
    """By arm and figure, by the seconds of the wall or of the server."""
    first = [log_of(case, "fcfs", k, clock, out) for k in range(rounds.all)]
    said = [pilot(log, policies=(SHORTEST,), ran_slots=case.ran_slots) for log in first]
    arms, found = {"learnt": "trace", "told": "perfect"}, dict[str, dict[str, Gain]]()
    for figure in FIGURES:
        measured = {
            arm: [_fell(first[k], log_of(case, arm, k, clock, out), figure) for k in range(rounds.of(arm))]
            for arm in arms
        }
        rows = {arm: [_row(each, whose) for each in said[: rounds.of(arm)]] for arm, whose in arms.items()}
        predicted = {arm: [row.gain[figure] for row in each] for arm, each in rows.items()}
        noise = Noise.of([(measured[arm], predicted[arm]) for arm in arms])
        for arm in arms:
            low, high = np.mean([row.between[figure] for row in rows[arm]], axis=0)
            found.setdefault(arm, {})[figure] = Gain(
                measured[arm],
                predicted[arm],
                [each.replayed[figure] / each.measured[figure] - 1 for each in said[: rounds.of(arm)]],
                (float(low), float(high)),
                noise,
            )
    return found


def _fell(before: Path, after: Path, figure: str) -> float:
    took = (e2el_s(log) for log in (before, after))
    first, then = (each.mean() if figure.startswith("mean") else np.percentile(each, 99) for each in took)
    return float(1 - then / first)


def _row(found: Pilot, whose: str) -> Replayed:
    return next(row for row in found.rows if row.point.predictor == whose)
