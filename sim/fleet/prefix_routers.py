"""Routers that send a request to where it was before: by the beginning of its prompt, or by its session.

A router knows what it has sent where, and what has come back; of the caches behind it, it has a picture.
Knows nothing of SimPy, schedulers or costs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields
from math import inf, isfinite
from typing import Any, Literal

from ..request import KnownBlocks, Request
from .routing import BaseRouter, RouterContext


class CachePicture:
    """What a router takes to be in the memory of a replica: beginnings of prompts that it has sent there.

    Of at most `capacity` tokens, the least recently sent are forgotten first, the end of a prompt before its
    beginning.
    """

    def __init__(self, capacity: float) -> None:
        self.capacity, self.num_tokens = capacity, 0
        self.known: OrderedDict[int, tuple[float, int]] = OrderedDict()  # hash -> since when (s), its tokens

    def found(self, blocks: KnownBlocks, until_s: float) -> int:
        """Tokens of a prompt that are there, by what was known at `until_s`."""
        found, known = 0, self.known
        for value, end in zip(blocks.hashes, blocks.ends, strict=True):
            entry = known.get(value)
            if entry is None or entry[0] > until_s:
                break
            found = end
        return found

    def add(self, blocks: KnownBlocks, now: float) -> None:
        """A prompt was sent there."""
        known, hashes, ends = self.known, blocks.hashes, blocks.ends
        for k in range(len(hashes) - 1, -1, -1):
            value = hashes[k]
            if value in known:
                known.move_to_end(value)
            else:
                tokens = ends[k] - (ends[k - 1] if k else 0)
                known[value] = (now, tokens)
                self.num_tokens += tokens
        while self.num_tokens > self.capacity and known:
            self.num_tokens -= known.popitem(last=False)[1][1]

    def add_answer(self, answer: int, now: float) -> None:
        """An answer has ended there; its tokens are counted with the prompt that goes on from it."""
        if answer >= 0:
            self.known.setdefault(answer, (now, 0))


OF_RULE = {
    "overlap_weight": "dynamo",
    "cache_threshold": "sglang",
    "balance_abs": "sglang",
    "balance_rel": "sglang",
    "prefix_weight": "llm-d",
    "queue_weight": "llm-d",
    "memory_weight": "llm-d",
}
"""Option -> the only rule that looks at it."""


@dataclass(frozen=True)
class PrefixAwareOptions:
    """Options of `prefix-aware`; the defaults of each rule are those of the router that it is of."""

    rule: Literal["dynamo", "sglang", "llm-d"] = "dynamo"
    """Whose rule weighs what is found against load."""
    stale_s: float = 0.0
    """Seconds by which the router learns too late what replicas hold."""
    overlap_weight: float = 1.0
    """rule=dynamo: what a token counts that is not found, beside one of the prompts that are there."""
    cache_threshold: float = 0.3
    """rule=sglang: share of a prompt that has to be found."""
    balance_abs: int = 64
    """rule=sglang: requests by which the most loaded replica may be ahead of the least loaded one."""
    balance_rel: float = 1.5
    """rule=sglang: the factor by which it may be."""
    prefix_weight: float = 3.0
    """rule=llm-d: what the share of the prompt that is found counts."""
    queue_weight: float = 2.0
    """rule=llm-d: what few requests count, from 0 for the most to 1 for the fewest."""
    memory_weight: float = 2.0
    """rule=llm-d: what the share of memory counts that prompts leave free."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name != "rule" and not (isfinite(value) and value >= 0):
                raise ValueError(f"{f.name}: {value} must be at least 0 and finite")
        if self.cache_threshold > 1:
            raise ValueError(f"cache_threshold: {self.cache_threshold} must be at most 1")
        if self.balance_rel < 1:
            raise ValueError(f"balance_rel: {self.balance_rel} must be at least 1")
        for f in fields(self):
            rule = OF_RULE.get(f.name, self.rule)
            if rule != self.rule and getattr(self, f.name) != f.default:
                raise ValueError(f"{f.name}: an option of rule={rule}, not of rule={self.rule}")


class PrefixAware(BaseRouter):
    """Where most of the prompt is thought to be in memory, weighed against load by `rule`.

    dynamo (https://docs.nvidia.com/dynamo, routing concepts; its temperature is 0, so that nothing is drawn):
    the least cost in tokens, those of the prompt that are not there, weighted, and the prompts of unfinished
    requests. sglang (sgl-project/sglang, sgl-model-gateway: `cache_aware.rs`, defaults of `router_args.py`):
    the longest match, if it is long enough and loads do not differ too much, else the fewest requests. llm-d
    (kubernetes-sigs/gateway-api-inference-extension, `default-plugins.yaml` of the chart inferencepool): the
    highest sum of weighted shares.
    """

    Options = PrefixAwareOptions

    def __init__(self, context: RouterContext, **options: Any) -> None:
        super().__init__(context)
        self.options = o = PrefixAwareOptions(**options)
        choices: dict[str, Callable[[Request], int]] = {
            "dynamo": self._least_cost,
            "sglang": self._by_thresholds,
            "llm-d": self._highest_score,
        }
        self.choose = choices[o.rule]
        n = context.num_replicas
        self.capacity = context.kv_tokens or (inf,) * n
        self.pictures = [CachePicture(capacity) for capacity in self.capacity]
        self.requests, self.tokens = [0] * n, [0] * n
        self.now = 0.0

    def _found(self, request: Request, replica: int) -> int:
        """Tokens of the prompt that are thought to be there; the last one is always computed."""
        if request.blocks is None:
            return 0
        until_s = max(self.now, request.arrival_s) - self.options.stale_s
        return min(self.pictures[replica].found(request.blocks, until_s), request.prompt_tokens - 1)

    def _least_cost(self, request: Request) -> int:
        """By Dynamo's rule."""
        weight, prompt = self.options.overlap_weight, request.prompt_tokens
        return min(
            self.members,
            key=lambda k: (
                weight * (prompt - self._found(request, k)) + self.tokens[k],
                self.requests[k],
                k,
            ),
        )

    def _by_thresholds(self, request: Request) -> int:
        """By SGLang's rule."""
        loads = [self.requests[k] for k in self.members]
        least, most = min(loads), max(loads)
        o = self.options
        if most - least > o.balance_abs and most > o.balance_rel * least:
            return min(self.members, key=lambda k: (self.requests[k], k))
        best = min(self.members, key=lambda k: (-self._found(request, k), self.requests[k], k))
        if self._found(request, best) > o.cache_threshold * request.prompt_tokens:
            return best
        return min(self.members, key=lambda k: (self.requests[k], k))

    def _highest_score(self, request: Request) -> int:
        """By llm-d's rule."""
        loads = [self.requests[k] for k in self.members]
        least, span, o = min(loads), max(loads) - min(loads), self.options

        def score(k: int) -> float:
            few = 1.0 if not span else 1 - (self.requests[k] - least) / span
            room = max(0.0, 1 - self.tokens[k] / self.capacity[k])
            share = self._found(request, k) / request.prompt_tokens
            return o.prefix_weight * share + o.queue_weight * few + o.memory_weight * room

        return min(self.members, key=lambda k: (-score(k), self.requests[k], k))

    def sent(self, request: Request, replica: int) -> None:
        """It will be in memory there."""
        self.requests[replica] += 1
        self.tokens[replica] += request.prompt_tokens
        if request.arrival_s > self.now:
            self.now = request.arrival_s
        if request.blocks is not None:
            self.pictures[replica].add(request.blocks, self.now)

    def ended(self, request: Request, replica: int) -> None:
        """Its answer is in memory there, too."""
        self.requests[replica] -= 1
        self.tokens[replica] -= request.prompt_tokens
        if request.blocks is not None:
            self.pictures[replica].add_answer(request.blocks.answer, self.now)

    def down(self, replica: int) -> None:
        """It is gone with all that it held."""
        super().down(replica)
        self.requests[replica] = self.tokens[replica] = 0
        self.pictures[replica] = CachePicture(self.capacity[replica])


class Sticky(BaseRouter):
    """All requests of a session, or else of a user, to one replica: that with the fewest requests when the
    first of them came, or came again after a failure. Others go where the fewest requests are.
    """

    def __init__(self, context: RouterContext) -> None:
        super().__init__(context)
        self.requests = [0] * context.num_replicas
        self.home: dict[Hashable, int] = {}

    def choose(self, request: Request) -> int:
        """Where it has been, or the least loaded."""
        home = self.home.get(self._whose(request))
        if home is not None and home in self.place:
            return home
        return min(self.members, key=lambda k: (self.requests[k], k))

    def _whose(self, request: Request) -> Hashable:
        return request.user if request.session_id is None else (request.session_id,)

    def sent(self, request: Request, replica: int) -> None:
        """It is at home there."""
        self.requests[replica] += 1
        if (whose := self._whose(request)) is not None:
            self.home[whose] = replica

    def ended(self, request: Request, replica: int) -> None:
        """One fewer."""
        self.requests[replica] -= 1

    def down(self, replica: int) -> None:
        """It is gone with its requests."""
        super().down(replica)
        self.requests[replica] = 0
