"""Small worlds for deciding alone: requests that arrive by iteration, and a memory that may be scarce."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple


class Asking(NamedTuple):
    """A request of a world; `arrival`: the iteration before which it arrives. A lower priority goes first."""

    prompt_tokens: int
    output_tokens: int
    arrival: int = 0
    priority: int = 0


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
    """Bounds that requests are drawn within; `last_arrival` 0: all at once, `priorities` 1: all alike."""

    num_requests: int
    most_prompt_tokens: int
    most_output_tokens: int
    last_arrival: int = 0
    priorities: int = 1


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
}  # fmt: skip
"""Each synchronous and asynchronous: 28 kinds of world."""


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
    kind = f"{setting}{', ahead' if async_scheduling else ''}"
    made = World(f"{kind} {seed}", tuple(requests), async_scheduling=async_scheduling, seed=seed)
    return replace(made, **options)


def smallest(world: World, differs: Callable[[World], bool]) -> World:
    """A world that still differs, with as few requests as leaving out one after the other gives."""
    kept = world
    for request in world.requests:
        fewer = tuple(other for other in kept.requests if other is not request)
        if fewer and differs(replace(kept, requests=fewer)):
            kept = replace(kept, requests=fewer)
    return kept
