"""Small worlds for deciding alone: requests that arrive by iteration, and a memory that may be scarce."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple


class Asking(NamedTuple):
    """A request of a world; `arrival`: the iteration before which it arrives. A lower priority goes first.

    The prompt begins with that of request `after` and its answer, which has ended by then, or (-1) with
    nothing; then come texts that others may have too, as (name, tokens), and what is left is its own.
    """

    prompt_tokens: int
    output_tokens: int
    arrival: int = 0
    priority: int = 0
    after: int = -1
    texts: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class World:
    """Requests and the settings of an engine, named as vLLM names them.

    `num_gpu_blocks`: as vLLM counts them, one of which it keeps. `stops_by_eos`: answers end by a token that
    ends them, not by `max_tokens`; what is allowed is then `max_tokens` for all.
    """

    name: str
    requests: tuple[Asking, ...]
    num_gpu_blocks: int = 1001
    block_size: int = 16
    max_num_seqs: int = 16
    max_num_batched_tokens: int = 256
    chunked: bool = True
    priority: bool = False
    prefix_caching: bool = False
    async_scheduling: bool = False
    stops_by_eos: bool = False
    seed: int = 0

    def prompts(self, answer: Callable[[int], list[int]], highest: int) -> list[list[int]]:
        """The tokens of every prompt, up to `highest`; those of answers are given, by number of request."""
        prompts: list[list[int]] = []
        for number, request in enumerate(self.requests):
            tokens: list[int] = []
            if request.after >= 0:
                before = self.requests[request.after]
                tokens = prompts[request.after] + answer(request.after)[: before.output_tokens]
            for name, length in request.texts:
                rng = random.Random(f"text {name}")
                tokens += [rng.randrange(3, highest) for _ in range(length)]
            rng = random.Random(f"{self.seed} {number}")
            rest = request.prompt_tokens - len(tokens)
            prompts.append(tokens + [rng.randrange(3, highest) for _ in range(rest)])
        return prompts

    @property
    def policy(self) -> str:
        """The policy that decides by these settings."""
        switches = {
            "chunked": self.chunked,
            "prefix_caching": self.prefix_caching,
            "async_scheduling": self.async_scheduling,
        }
        options = [f"{name}={'on' if on else 'off'}" for name, on in switches.items()]
        options += [f"max_num_seqs={self.max_num_seqs}"]
        options += [f"max_num_batched_tokens={self.max_num_batched_tokens}"]
        options += [f"order={'priority' if self.priority else 'fcfs'}"]
        return f"continuous:{','.join(options)}"


class Shape(NamedTuple):
    """Bounds that requests are drawn within; `last_arrival` 0: all at once, `priorities` 1: all alike.

    `texts`: of so many the prompts are made up, some to the last token; `turns`: so many more requests go on
    from others when all these have ended.
    """

    num_requests: int
    most_prompt_tokens: int
    most_output_tokens: int
    last_arrival: int = 0
    priorities: int = 1
    texts: int = 0
    turns: int = 0


Settings = Mapping[str, int | bool]

SETTINGS: Mapping[str, tuple[Settings, Shape]] = {
    "plenty": ({}, Shape(20, 200, 60)),
    "plenty, arrivals": ({}, Shape(20, 200, 60, 80)),
    "scarce": ({"num_gpu_blocks": 25}, Shape(16, 120, 200)),
    "scarce, arrivals": ({"num_gpu_blocks": 25}, Shape(16, 120, 200, 150)),
    "long prompts": ({"max_num_batched_tokens": 64, "num_gpu_blocks": 81}, Shape(14, 400, 80, 60)),
    "long prompts, plenty": ({"max_num_batched_tokens": 64}, Shape(14, 400, 80, 60)),
    "few seats": ({"max_num_seqs": 3}, Shape(16, 100, 60, 60)),
    "no chunks": ({"chunked": False, "max_num_batched_tokens": 512}, Shape(16, 300, 60, 60)),
    "priority": ({"priority": True, "max_num_seqs": 4}, Shape(20, 150, 60, 100, 4)),
    "priority, scarce": ({"priority": True, "num_gpu_blocks": 25}, Shape(16, 120, 200, 150, 4)),
    "priority, long prompts": (
        {"priority": True, "num_gpu_blocks": 61, "max_num_batched_tokens": 64},
        Shape(16, 300, 100, 100, 4),
    ),
    "prefix caching, scarce": ({"prefix_caching": True, "num_gpu_blocks": 25}, Shape(16, 120, 200)),
    "prefix caching, arrivals": ({"prefix_caching": True, "num_gpu_blocks": 41}, Shape(24, 200, 200, 200)),
    "prefix caching, priority": (
        {"prefix_caching": True, "num_gpu_blocks": 25, "priority": True},
        Shape(16, 120, 200, 150, 4),
    ),
    "shared prefixes": ({"prefix_caching": True}, Shape(24, 260, 60, 80, texts=3)),
    "shared prefixes, scarce": (
        {"prefix_caching": True, "num_gpu_blocks": 33, "max_num_batched_tokens": 64},
        Shape(24, 260, 80, 80, texts=3),
    ),
    "shared prefixes, few blocks": (
        {"prefix_caching": True, "num_gpu_blocks": 17, "max_num_seqs": 6},
        Shape(20, 90, 40, 120, texts=2, turns=8),
    ),
    "shared prefixes, turns": (
        {"prefix_caching": True, "num_gpu_blocks": 49},
        Shape(16, 150, 60, 100, texts=2, turns=16),
    ),
    "shared prefixes, priority": (
        {"prefix_caching": True, "num_gpu_blocks": 29, "priority": True},
        Shape(20, 160, 100, 100, 4, texts=2, turns=6),
    ),
    "shared prefixes, no chunks": (
        {"prefix_caching": True, "num_gpu_blocks": 61, "chunked": False, "max_num_batched_tokens": 400},
        Shape(20, 280, 60, 100, texts=3),
    ),
}  # fmt: skip
"""Each synchronous and asynchronous: 40 kinds of world."""

TEXTS = (37, 64, 96)
"""How many tokens the texts have that prompts are made up of."""

LATER = 5_000
"""The iteration from which on further turns come: all that came before has ended."""


def random_world(setting: str, seed: int, *, async_scheduling: bool) -> World:
    """A world of that setting; the same requests whether decisions are taken ahead or not."""
    options, shape = SETTINGS[setting]
    rng = random.Random(f"{setting} {seed}")
    requests = [
        Asking(
            rng.randint(1, shape.most_prompt_tokens),
            rng.randint(1, shape.most_output_tokens),
            rng.randint(0, shape.last_arrival),
            rng.randrange(shape.priorities),
        )
        for _ in range(shape.num_requests)
    ]
    requests.sort(key=lambda request: request.arrival)
    if shape.texts:
        requests = [_with_texts(request, shape.texts, rng) for request in requests]
    later = sorted(rng.randint(0, 60) for _ in range(shape.turns))
    requests += [_turn(requests, LATER + arrival, shape, rng) for arrival in later]
    kind = f"{setting}{', ahead' if async_scheduling else ''}"
    made = World(f"{kind} {seed}", tuple(requests), async_scheduling=async_scheduling, seed=seed)
    return replace(made, **options)


def _with_texts(request: Asking, num_texts: int, rng: random.Random) -> Asking:
    """The request with texts of its prompt drawn: none, one or two, with or without an end of its own."""
    left, texts = request.prompt_tokens, list[tuple[int, int]]()
    for _ in range(rng.randrange(3)):
        name = rng.randrange(num_texts)
        if left >= TEXTS[name]:
            texts.append((name, TEXTS[name]))
            left -= TEXTS[name]
    if texts and rng.random() < 0.3:
        left = 0
    return request._replace(texts=tuple(texts), prompt_tokens=sum(n for _, n in texts) + left)


def _turn(requests: list[Asking], arrival: int, shape: Shape, rng: random.Random) -> Asking:
    """A further turn after one of those that came before all turns."""
    after = rng.randrange(shape.num_requests)
    before = requests[after]
    said = before.prompt_tokens + before.output_tokens
    return Asking(
        said + rng.choice((0, 0, rng.randint(1, 40))),
        rng.randint(1, shape.most_output_tokens),
        arrival,
        rng.randrange(shape.priorities),
        after,
    )


def smallest(world: World, differs: Callable[[World], bool]) -> World:
    """A world that still differs, with as few requests as leaving out one after the other gives."""
    kept = world
    number = 0
    while number < len(kept.requests):
        fewer = without(kept, number)
        if fewer.requests and differs(fewer):
            kept = fewer
        else:
            number += 1
    return kept


def without(world: World, number: int) -> World:
    """The world without that request, and those that go on from it."""
    left = [k for k, asking in enumerate(world.requests) if number not in (k, asking.after)]
    place = {k: position for position, k in enumerate(left)} | {-1: -1}
    chosen = (world.requests[k] for k in left)
    return replace(world, requests=tuple(asking._replace(after=place[asking.after]) for asking in chosen))
