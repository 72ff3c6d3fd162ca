"""A router by predicted latency against a service level objective: llm-d's predicted-latency scheduling.

llm-d learns TTFT and TPOT from what its servers did; here an `Outlook` reckons them. Whom to choose by them
is llm-d's rule (llm-d/llm-d-router, `pkg/epp/framework/plugins/scheduling`: `scorer/latency`,
`filter/sloheadroomtier` of commit 45c3854, `filter/prefixcacheaffinity`, `picker/weightedrandom`), with its
defaults. Bounds that a request states itself are on `Request`; there they are its headers
`x-llm-d-slo-ttft-ms` and `x-llm-d-slo-tpot-ms` (`pkg/epp/metadata/consts.go`). What headroom is left of a
bound follows its `predictedlatency` producer (`validatePrediction`): a bound on TPOT is multiplied by a
buffer factor, and is that of the strictest request at the replica where this is stricter. The admitter is
left out, which turns requests of negative priority away. A bound on E2EL, which llm-d lacks, is one on the
first token, less what the rest is predicted to take.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from heapq import heappop, heappush
from math import isfinite
from typing import Any, Literal, NamedTuple

from ..request import Request
from .draws import uniform
from .outlook import Job, Outlook
from .prefix_routers import CachePicture
from .routing import BaseRouter, RouterContext


@dataclass(frozen=True)
class PredictedLatencyOptions:
    """Options of `predicted-latency`; the defaults are llm-d's."""

    ttft_ms: float | None = None
    """Bound on the time to the first token, of requests that state none; without any bound the lowest latency
    is looked for.
    """
    tpot_ms: float | None = None
    """Bound on the time per token after the first, of requests that state none."""
    e2el_ms: float | None = None
    """Bound on the end-to-end latency, of requests that state none."""
    slo_buffer_factor: float = 1.0
    """Multiplies bounds on the time per token: below 1 leaves a margin."""
    ttft_buffer_factor: float = 1.0
    """Multiplies bounds on the time to the first token, as llm-d does where prefill has its own machines."""
    strategy: Literal["least", "most"] = "least"
    """Of replicas within the bounds, that with the least headroom (pack) or with the most (spread)."""
    pick: Literal["weighted", "best"] = "weighted"
    """Draw with the scores as weights, or take the best score."""
    ttft_weight: float = 0.8
    """Weight of the headroom in the time to the first token."""
    tpot_weight: float = 0.2
    """Weight of the headroom in the time per token after it."""
    explore: float = 0.01
    """Share of requests sent beyond the bounds though a replica is within, so that none is forgotten."""
    affinity: float = 0.8
    """Share of the prompt in memory from which a replica is preferred; 0: memory plays no part."""
    affinity_penalty_ms: float = 5000.0
    """By how much later the first token may come there (ms); 0: by any time."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, (int, float)) and not (isfinite(value) and value >= 0):
                raise ValueError(f"{f.name}: {value} must be at least 0 and finite")
        for name in ("slo_buffer_factor", "ttft_buffer_factor"):
            if not getattr(self, name):
                raise ValueError(f"{name}: {getattr(self, name)} must be above 0")
        for name in ("explore", "affinity"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be at most 1")
        if not self.ttft_weight + self.tpot_weight:
            raise ValueError("ttft_weight: 0.0 and tpot_weight: 0.0; one of them must be above 0")


class Bounds(NamedTuple):
    """What a request is held to, in ms; None for no bound."""

    ttft_ms: float | None
    tpot_ms: float | None
    e2el_ms: float | None


LOWEST = Bounds(0.0, 0.0, None)
"""Where nothing is bounded: whatever is lowest comes nearest."""


class Strictest:
    """The least bound on TPOT of the requests at a replica, in ms."""

    def __init__(self) -> None:
        self.bounds: dict[int, float] = {}
        self.heap: list[tuple[float, int]] = []  # some of them have ended

    def add(self, id: int, bound_ms: float | None) -> None:
        """It is there; with None it has no bound."""
        if bound_ms is not None:
            self.bounds[id] = bound_ms
            heappush(self.heap, (bound_ms, id))

    def remove(self, id: int) -> None:
        """It is there no more."""
        self.bounds.pop(id, None)

    def least(self, bound_ms: float | None) -> float | None:
        """The same, of those that are there and of one more with this bound; None where none has any."""
        heap = self.heap
        while heap and self.bounds.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        if not heap:
            return bound_ms
        return heap[0][0] if bound_ms is None else min(heap[0][0], bound_ms)


class Candidate(NamedTuple):
    """A replica: how much of the prompt is found there, and the headroom to either bound, 0 without one."""

    replica: int
    found: float
    ttft_ms: float
    tpot_ms: float


class PredictedLatency(BaseRouter):
    """Among the replicas that are predicted to meet both bounds that with the least headroom, or the most;
    where none does, an idle one, else the one that misses by least.
    """

    Options = PredictedLatencyOptions
    needs = ("length",)

    def __init__(self, context: RouterContext, **options: Any) -> None:
        super().__init__(context)
        self.options = PredictedLatencyOptions(**options)
        if len(context.machines) != context.num_replicas:
            raise ValueError("predicted-latency: needs RouterContext.machines, what iterations cost on each")
        self.draws = uniform(context.rng)
        self.outlooks = [Outlook(machine) for machine in context.machines]
        self.strictest = [Strictest() for _ in context.machines]
        self.pictures = [CachePicture(machine.kv_tokens) for machine in context.machines]

    def choose(self, request: Request) -> int:
        """By headroom to the bounds that the request states, and to the router's where it states none."""
        o, now, bounds = self.options, self.context.now(), self._bounds(request)
        has_bound = any(bound is not None for bound in bounds)
        bounds = bounds if has_bound else LOWEST
        waited_s = max(0.0, now - request.arrival_s)
        job = self._job(request, self.members[0], now) if request.blocks is None else None
        each = [
            self._candidate(k, job or self._job(request, k, now), bounds, now, waited_s) for k in self.members
        ]
        candidates = self._near_the_prefix(each)
        within = [c for c in candidates if c.ttft_ms >= 0 and c.tpot_ms >= 0] if has_bound else []
        beyond = [c for c in candidates if c not in within] if len(within) < len(candidates) else []
        if within and not (beyond and next(self.draws) < o.explore):
            scores = self._blended(within)
            if o.strategy == "least":
                scores = [1 - score for score in scores]
            return self._pick(within, scores)
        nearest = self._least_missed(beyond)
        return self._pick(nearest, self._blended(nearest))

    def sent(self, request: Request, replica: int) -> None:
        """It is reckoned with there."""
        now = self.context.now()
        self.outlooks[replica].add(request.id, self._job(request, replica, now), now)
        self.strictest[replica].add(request.id, self._bounds(request).tpot_ms)
        if request.blocks is not None:
            self.pictures[replica].add(request.blocks, now)

    def ended(self, request: Request, replica: int) -> None:
        """It is no more; its answer is in memory there."""
        self.outlooks[replica].remove(request.id)
        self.strictest[replica].remove(request.id)
        if request.blocks is not None:
            self.pictures[replica].add_answer(request.blocks.answer, self.context.now())

    def down(self, replica: int) -> None:
        """It is gone with all that it held."""
        super().down(replica)
        machine = self.context.machines[replica]
        self.outlooks[replica], self.pictures[replica] = Outlook(machine), CachePicture(machine.kv_tokens)
        self.strictest[replica] = Strictest()

    def _bounds(self, request: Request) -> Bounds:
        """Those that it states, each in place of the router's."""
        o = self.options
        return Bounds(
            o.ttft_ms if request.ttft_slo_ms is None else request.ttft_slo_ms,
            o.tpot_ms if request.tpot_slo_ms is None else request.tpot_slo_ms,
            o.e2el_ms if request.e2el_slo_ms is None else request.e2el_slo_ms,
        )

    def _job(self, request: Request, replica: int, now: float) -> Job:
        """The same everywhere, but for what is found of a prompt with blocks."""
        prompt, found, answer = request.prompt_tokens, 0, request.predicted_tokens
        if request.blocks is not None and self.context.machines[replica].shares_prefixes:
            found = min(prompt - 1, self.pictures[replica].found(request.blocks, now))
        return Job(prompt, prompt - found, request.bound_tokens if answer is None else answer)

    def _candidate(self, replica: int, job: Job, bounds: Bounds, now: float, waited_s: float) -> Candidate:
        """Its headroom to the microsecond, so that replicas that are alike are so in spite of rounding."""
        o, latency = self.options, self.outlooks[replica].expected(job, now)
        first_ms = [bounds.ttft_ms * o.ttft_buffer_factor] if bounds.ttft_ms is not None else []
        if bounds.e2el_ms is not None:
            first_ms.append(bounds.e2el_ms - 1e3 * latency.tpot_s * (job.answer - 1))
        tpot_ms = bounds.tpot_ms if bounds is LOWEST else self.strictest[replica].least(bounds.tpot_ms)
        return Candidate(
            replica,
            1 - job.uncached / job.prompt,
            round(min(first_ms) - 1e3 * (waited_s + latency.ttft_s), 3) if first_ms else 0.0,
            0.0 if tpot_ms is None else round(tpot_ms * o.slo_buffer_factor - 1e3 * latency.tpot_s, 3),
        )

    def _near_the_prefix(self, candidates: list[Candidate]) -> list[Candidate]:
        """Those where the prompt is found, unless its first token would come too late there."""
        o = self.options
        near = [c for c in candidates if c.found >= o.affinity > 0]
        if not near or len(near) == len(candidates):
            return candidates
        if o.affinity_penalty_ms:
            others = max(c.ttft_ms for c in candidates if c.found < o.affinity)
            if others - max(c.ttft_ms for c in near) > o.affinity_penalty_ms:
                return candidates
        return near

    def _least_missed(self, beyond: list[Candidate]) -> list[Candidate]:
        """The idle ones; else those that miss the bound on TPOT alone, that on TTFT alone, or both: the first
        of these kinds that there is.
        """
        idle = [c for c in beyond if not self.outlooks[c.replica]]
        if idle:
            return idle
        kinds = [(c.ttft_ms < 0) + (c.ttft_ms < 0 and c.tpot_ms < 0) for c in beyond]
        return [c for c, kind in zip(beyond, kinds, strict=True) if kind == min(kinds)]

    def _blended(self, candidates: list[Candidate]) -> list[float]:
        """For each from 0, for the least headroom, to 1, each bound by its weight; where all have the same
        headroom to one, the other alone counts.
        """
        blended = [0.0] * len(candidates)
        shares = list[tuple[float, list[float]]]()
        of_ttft, of_tpot = [c.ttft_ms for c in candidates], [c.tpot_ms for c in candidates]
        for weight, rooms in ((self.options.ttft_weight, of_ttft), (self.options.tpot_weight, of_tpot)):
            least, span = min(rooms), max(rooms) - min(rooms)
            if span > 0:
                shares.append((weight, [(room - least) / span for room in rooms]))
        if len(shares) == 1:
            return shares[0][1]
        total = self.options.ttft_weight + self.options.tpot_weight
        for weight, rooms in shares:
            blended = [b + weight / total * room for b, room in zip(blended, rooms, strict=True)]
        return blended

    def _pick(self, candidates: list[Candidate], scores: list[float]) -> int:
        """One of them by its score; of equals that with the fewest requests, then the smallest number."""
        if len(candidates) == 1:
            return candidates[0].replica
        if self.options.pick == "best":
            ranked = zip(scores, candidates, strict=True)
            key = min((-round(s, 9), len(self.outlooks[c.replica]), c.replica) for s, c in ranked)
            return key[-1]
        if sum(scores) <= 0:
            scores = [1.0] * len(candidates)
        left = next(self.draws) * sum(scores)
        for candidate, score in zip(candidates, scores, strict=True):
            left -= score
            if left < 0:
                return candidate.replica
        return candidates[-1].replica
