"""Random worlds: a trace, a machine that is made up, and settings; one seed, one world."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from traces.errors import InputError
from traces.trace import Trace

from ..hardware.kv_memory import KvMemory
from ..hardware.piecewise_linear import PiecewiseLinear
from ..hardware.profile import Profile, Provenance
from ..hardware.step_cost import StepCost
from ..scenario.machines import Accelerator
from ..scenario.policies import limits_of
from ..scenario.scenario import Scenario, scenario
from ..work import SchedulingError

MACHINE = Profile(
    name="made up",
    model=None,
    gpu=None,
    engine="made up",
    step_cost=StepCost(
        decode_base=PiecewiseLinear((1, 64, 256), (0.010, 0.014, 0.026)),
        decode_per_context_s=1e-7,
        mixed_base=PiecewiseLinear((1, 64, 4096), (0.011, 0.012, 0.400)),
        mixed_per_context_s=1e-7,
        mixed_per_attention_s=1e-9,
    ),
    memory=KvMemory(200_000, 1.0, 0, 0, 1),
    provenance=Provenance("roofline estimate", "2026-11-28", "made up for checks"),
)
FREE_PREDICTORS = ("oracle", "trace", "constant:tokens=70", "noisy:sigma=0.5,round_to=50,charge=off")
OWN_CAPS = 7
"""Number of the random stream that caps come from: a world is else the one that its seed always had."""
CHARGED_PREDICTORS = ("exact:charge=on", "tuned", "noisy:sigma=0.8,miss=0.2")


@dataclass(frozen=True)
class World:
    """One world: its seed, its trace, and what `scenario` takes beside them."""

    seed: int
    trace: Trace
    settings: dict[str, Any]

    def scenario(self, **changes: Any) -> Scenario:
        """Ready to run."""
        return scenario(self.trace, profile=MACHINE, **{"seed": self.seed, **self.settings, **changes})

    def fleet(self, rng: np.random.Generator, **changes: Any) -> Scenario:
        """The same requests before replicas that differ in memory."""
        shared = self.scenario(**{"kv_blocks": None, **changes})
        blocks = rng.choice([20, 30, 60, 5000], size=int(rng.integers(1, 5))).tolist()
        return replace(shared, fleet=tuple(Accelerator(MACHINE, limits_of(MACHINE, b)) for b in blocks))

    def __str__(self) -> str:
        given = [f"{name}={value}" for name, value in self.settings.items() if value is not None]
        caps = [] if self.trace.max_tokens is None else ["caps of their own"]
        return ", ".join([f"{len(self.trace)} requests", *caps, *given])


def random_trace(rng: np.random.Generator) -> Trace:
    """1 to 30 requests, all at once, spread over a minute, or in bursts; with priorities or without."""
    n, longest = int(rng.integers(1, 31)), int(rng.choice([30, 120, 600]))
    times = [np.zeros(n), rng.uniform(0, 60, n), rng.choice([0.0, 3.0, 3.1, 40.0], n)]
    arrival = np.sort(times[int(rng.integers(3))])
    is_varied = bool(rng.integers(2))
    return Trace(
        "made up",
        np.arange(n),
        rng.integers(1, 121, n),
        rng.integers(1, longest + 1, n),
        arrival_s=arrival - arrival[0],
        predicted_tokens=rng.integers(0, 701, n),
        priority=rng.choice([0, 0, 0, -1, 3], n) if is_varied else None,
        deadline_s=arrival + rng.choice([math.inf, math.inf, 1.0, 9.0], n) if is_varied else None,
    )


def random_world(seed: int) -> World:
    """The world of a seed."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    settings = {
        "predictor": str(rng.choice([*FREE_PREDICTORS, *CHARGED_PREDICTORS])),
        "kv_blocks": _choice(rng, [None, None, 12, 20, 60, 200]),
        "max_new_tokens": _choice(rng, [None, None, 40, 150]),
        "max_concurrency": _choice(rng, [None, None, 1, 7]),
        "request_rate": _choice(rng, [None, None, 0.5, 20.0]),
    }
    trace = random_trace(rng)
    return World(seed, _with_own_caps(trace, np.random.default_rng([seed, OWN_CAPS])), settings)


def _with_own_caps(trace: Trace, rng: np.random.Generator) -> Trace:
    """In every third world each request has a cap of its own: below its answer, at it, or above it."""
    if rng.integers(3):
        return trace
    factors = rng.choice([0.5, 1.0, 1.0, 1.3, 10.0], len(trace))
    return replace(trace, max_tokens=np.maximum((trace.output_tokens * factors).astype(np.int64), 1))


def _choice(rng: np.random.Generator, values: list[Any]) -> Any:
    return values[int(rng.integers(len(values)))]


@contextmanager
def reported(check: str, what: str, seed: int, world: object) -> Iterator[None]:
    """A context in which what does not hold, or cannot be run, becomes one line that names the world."""
    try:
        yield
    except (AssertionError, InputError, SchedulingError) as error:
        again = f"{check}(..., seed={seed}, num_worlds=1) runs it again"
        line = " ".join(str(error).split()) or type(error).__name__
        raise AssertionError(f"{what}: {line} [world {seed}: {world}; {again}]") from error


def require(holds: bool, what: str) -> None:
    """AssertionError with this sentence where it does not hold."""
    if not holds:
        raise AssertionError(what)
