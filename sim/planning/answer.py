"""What a capacity plan says: typed, frozen, to a table or to JSON. Knows nothing of how it was found."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .rate_search import RateRange
from .search import SearchOutcome
from .verdict import (
    FleetPoint,
    Measured,
    failures_of,
    interval_text,
    json_value,
    open_text,
    point_standing,
    value_text,
)

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["measured", "composed", "published", "what-if", "estimated", "given", "drawn"]


@dataclass(frozen=True)
class Question:
    """What was asked, in plain values; `request_rate` is None where the highest rate was asked for."""

    trace: str
    request_rate: float | None
    slo: tuple[str, ...]
    goodput: tuple[str, ...]
    policies: tuple[str, ...]
    profiles: tuple[str, ...]
    predictor: str
    router: str
    arrivals: str
    replicas: int
    spare: int
    seed: int
    num_seeds: int
    num_requests: int
    max_seeds: int
    max_requests: int
    max_replicas: int
    confidence: float
    tolerance: float
    version: str
    command: str

    @property
    def bounds(self) -> str:
        """The SLO for people."""
        return ", ".join(self.slo)


@dataclass(frozen=True)
class Assumption:
    """Something that the answer rests on, and where it comes from."""

    what: str
    value: str
    kind: Kind


@dataclass(frozen=True)
class Answer:
    """The answer for one policy on one machine, or on one mix of them: a replica is then one copy of it.

    `num_gpus`: the GPUs of one replica; `price_per_hour`: USD, of all of them. `replicas`, spares included,
    is None where no fleet is shown to meet the SLO; `reason` then says why, and `outcome` whether that is out
    of reach or undecided; `likely` is the smallest fleet, spares included, that nothing speaks against where
    it is undecided. `point` is the fleet without its spares at the rate asked for, `replay` the same on the
    trace itself, where that was replayed, `normal` the whole fleet; `one_less` and `one_more` are the next
    sizes down and up. `rates` is the range of the highest rate of the fleet without its spares. Where no
    fleet is found, `point` may be one that shows why. Where the rate was the question, `replicas` is what was
    asked about and `rate` the answer. `undecided`: smaller fleets, spares included, that may do. `binding`:
    the bound that gives way first; `throughput` where one replica less cannot keep up at all.
    """

    policy: str
    profile: str
    gpu: str
    num_gpus: int
    provenance: str
    replicas: int | None
    spare: int
    rate: float | None
    outcome: SearchOutcome
    likely: int | None
    reason: str
    binding: str
    undecided: tuple[int, ...]
    point: FleetPoint | None
    normal: FleetPoint | None
    one_less: FleetPoint | None
    one_more: FleetPoint | None
    alone: FleetPoint | None
    rates: RateRange | None
    price_per_hour: float | None
    points: tuple[FleetPoint, ...]
    curve: tuple[FleetPoint, ...] = ()
    replay: FleetPoint | None = None

    @property
    def measured(self) -> Measured | None:
        """Where the fleet stands to the bound that gives way first."""
        if self.point is None:
            return None
        named = [m for m in self.point.measured if m.name == self.binding]
        return named[0] if named else self.point.binding

    @property
    def undecided_text(self) -> str:
        """`44, 45 or 46`: the smaller fleets that may do."""
        *others, last = map(str, self.undecided)
        return f"{', '.join(others)} or {last}" if others else last

    @property
    def doubt(self) -> str:
        """Which smaller fleets may do, and why it was not decided of the largest of them."""
        without_spares = self.undecided[-1] - self.spare
        point = next(p for p in self.points if (p.replicas, p.verdict) == (without_spares, "undecided"))
        place = f"with the other {without_spares} " if self.spare else ""
        return f"undecided whether {self.undecided_text} would do: {place}{open_text(point)}"

    @property
    def headroom(self) -> float | None:
        """The share of the tightest bound that is left."""
        if self.point is None or math.isinf(self.point.binding.pressure):
            return None
        return 1 - self.point.binding.pressure

    @property
    def headroom_rate(self) -> float | None:
        """By what share the rate could grow before the fleet breaks the SLO."""
        rates = self.rates
        if rates is None or rates.rate is None or rates.outcome == "undecided" or not self.rate:
            return None
        return max(rates.rate / self.rate - 1, 0.0)

    @property
    def utilisation(self) -> float | None:
        """Share of the time that the accelerators are busy, all of them up."""
        at = self.normal or self.point
        return None if at is None else at.utilisation

    @property
    def gpus(self) -> int | None:
        """GPUs of the whole fleet."""
        return None if self.replicas is None else self.replicas * self.num_gpus

    @property
    def cost_per_hour(self) -> float | None:
        """USD per hour of the whole fleet; None where no price is known."""
        if self.price_per_hour is None or self.replicas is None:
            return None
        return self.price_per_hour * self.replicas

    @property
    def cost_per_million_output_tokens(self) -> float | None:
        """USD per million output tokens at the rate; None where no price is known."""
        if self.cost_per_hour is None or self.point is None or not self.rate or not self.point.output_tokens:
            return None
        return self.cost_per_hour / (self.rate * self.point.output_tokens * 3600) * 1e6

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values, the derived ones included."""
        derived = (
            "utilisation",
            "headroom",
            "headroom_rate",
            "gpus",
            "cost_per_hour",
            "cost_per_million_output_tokens",
        )
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}

    def row(self) -> dict[str, Any]:
        """The answer as one flat row."""
        at, rates = self.measured, self.rates
        return {
            "policy": self.policy,
            "profile": self.profile,
            "provenance": self.provenance,
            "replicas": self.replicas,
            "spare": self.spare,
            "gpus": self.gpus,
            "rate": self.rate,
            "outcome": self.outcome,
            "likely": self.likely,
            "rate_low": rates.low if rates else None,
            "rate_high": rates.high if rates else None,
            "utilisation": self.utilisation,
            "binding": self.binding,
            "bound": at.limit if at else None,
            "value": at.mean if at else None,
            "value_low": at.low if at else None,
            "value_high": at.high if at else None,
            "headroom": self.headroom,
            "headroom_rate": self.headroom_rate,
            "cost_per_hour": self.cost_per_hour,
            "cost_per_million_output_tokens": self.cost_per_million_output_tokens,
            "one_less": self.one_less.verdict if self.one_less else None,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Swing:
    """What one changed input does to the highest rate of the fleet, in requests/s (None: no rate at all)."""

    what: str
    low_label: str
    high_label: str
    low: float | None
    high: float | None

    @property
    def width(self) -> float:
        """How far the answer moves between the two."""
        return abs((self.high or 0.0) - (self.low or 0.0))


@dataclass(frozen=True)
class Sensitivity:
    """Which input moves the answer most, widest first: the highest rate of one fleet, one input at a time."""

    policy: str
    profile: str
    replicas: int
    rate: float
    swings: tuple[Swing, ...]
    without_effect: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A capacity plan: the question, an answer per policy and profile, and what they rest on.

    `notes`: what a reader has to know of the traffic to read the answers rightly.
    """

    question: Question
    answers: tuple[Answer, ...]
    assumptions: tuple[Assumption, ...]
    notes: tuple[str, ...] = ()
    sensitivity: Sensitivity | None = None

    @property
    def best(self) -> Answer | None:
        """The answer that costs least, where every price is known; else the one with the fewest replicas, or,
        where the rate was asked for, with the highest.
        """
        reached = [a for a in self.answers if a.replicas is not None and a.rate is not None]
        if not reached:
            return None
        asked_rate = self.question.request_rate is None
        if any(a.price_per_hour is None for a in reached):
            return min(reached, key=lambda a: -(a.rate or 0.0) if asked_rate else (a.replicas or 0))
        if asked_rate:
            return min(reached, key=lambda a: (a.cost_per_hour or 0.0) / (a.rate or 1.0))
        return min(reached, key=lambda a: (a.cost_per_hour or 0.0, a.replicas or 0))

    @property
    def reached(self) -> bool:
        """Whether any of the fleets meets the SLO."""
        return self.best is not None

    @property
    def headline_answer(self) -> Answer:
        """The answer that the headline tells of: the best, else the first undecided, else the first."""
        undecided = (a for a in self.answers if a.outcome == "undecided")
        return self.best or next(undecided, self.answers[0])

    @property
    def headline(self) -> str:
        """The answer in one line."""
        q, best = self.question, self.best
        if best is None:
            worst = self.headline_answer
            place = f"{worst.policy} on {worst.profile}" if len(self.answers) > 1 else worst.profile
            if worst.outcome == "undecided":
                return f"Undecided: whether a fleet meets {q.bounds} stayed open. {place}: {worst.reason}."
            return f"Unreachable: no fleet meets {q.bounds}. {place}: {worst.reason}."
        assert best.point is not None and best.measured is not None
        profile = f"({best.profile})" if ";" in best.profile else best.profile
        machines = f"{best.replicas} × {profile} ({best.provenance})"
        level = f"{q.confidence * 100:g} % interval"
        at = best.measured
        where = f"{at.name} is {value_text(at, at.mean)} ({level} {interval_text(at)})"
        if best.point.is_replay:
            where = f"{at.name} is {value_text(at, at.mean)} on the trace itself, replayed"
        elif best.replay is not None:
            where += f", and {value_text(at, best.replay.value(at.name))} on the trace itself, replayed"
        fleet = f"{machines}, of which {best.spare} spare," if best.spare else machines
        rest = f" with the other {best.point.replicas}" if best.spare else ""
        if q.request_rate is None:
            lost = f"; {failures_of(best.point)}" if best.point.failed else ""
            low = rate_text(best.rates.low if best.rates else None, "no rate was shown to meet it")
            high = rate_text(best.rates.high if best.rates else None, "none was shown to break it")
            return (
                f"{fleet} under {best.policy} can carry {best.rate:.3g} requests/s{rest} within {q.bounds} "
                f"(shown to meet it: {low}; to break it: {high}); there {where}{lost}."
            )
        doubt = f" There {failures_of(best.point)}." if best.point.failed else ""
        if best.undecided:
            doubt += f" It is {best.doubt}."
        carry = "carries" if best.replicas == 1 else "carry"
        return (
            f"{fleet} under {best.policy} {carry} {q.request_rate:.4g} requests/s{rest} within {q.bounds}: "
            f"{where}.{doubt}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per policy and profile."""
        import pandas as pd

        return pd.DataFrame([answer.row() for answer in self.answers])

    def to_json(self, path: str | Path | None = None) -> str:
        """All of it as one JSON object, also written to `path` where one is given; infinity is null."""
        data: Mapping[str, Any] = {
            "answer": self.headline,
            "reached": self.reached,
            "question": asdict(self.question),
            "best": None if self.best is None else self.answers.index(self.best),
            "answers": [answer.to_json() for answer in self.answers],
            "notes": list(self.notes),
            "assumptions": [asdict(assumption) for assumption in self.assumptions],
            "sensitivity": asdict(self.sensitivity) if self.sensitivity else None,
        }
        text = json.dumps(json_value(data), indent=2, allow_nan=False, ensure_ascii=False)
        if path is not None:
            from traces.files import atomic_write

            with atomic_write(path) as file:
                file.write(text + "\n")
        return text


def rate_text(rate: float | None, otherwise: str) -> str:
    """A rate for people."""
    return otherwise if rate is None else f"{rate:.3g}/s"


def point_text(point: FleetPoint | None) -> str:
    """A point for people: its verdict and where it stands to the bound with the least room."""
    if point is None:
        return "–"
    if point.verdict == "unstable":
        return f"unstable: backlog +{point.drift.mean:.2f} per arrival"
    is_across = point.across is not None
    if point.verdict == "undecided" and point.may_grow and not is_across and point.outlasted_s is None:
        return f"undecided: backlog +{point.drift.mean:.2f} per arrival, within the noise"
    return f"{point.verdict}: {point_standing(point)}"


def headroom_text(share: float | None) -> str:
    """Room for more traffic for people; beyond ten times the rate how much no longer matters."""
    if share is None:
        return "–"
    return "> 10 ×" if share > 9 else f"{share:+.0%}"
