"""The router of a fleet, told what it may know of the machines: what they cost and hold, and the time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..fleet.routers import RouterSpec, router_maker
from ..fleet.routing import Machine, Router, RouterContext
from ..hardware.profile import Profile
from ..perception.predictions import ability
from ..perception.predictors import Predictor
from ..request import Request
from ..schedulers import AheadScheduler
from ..schedulers.base import CompleteScheduler
from .machines import Accelerator
from .policies import kv_capacity


def router_of(
    router: RouterSpec,
    machines: Sequence[Accelerator],
    schedulers: Sequence[CompleteScheduler],
    predictor: Predictor,
    rng: np.random.Generator,
    now: Callable[[], float],
) -> Router | None:
    """The rule that sends requests to these machines; None where they take from a queue."""
    per_token = {id(m.profile): _seconds_per_token(m.profile) for m in machines}
    seconds = [per_token[id(m.profile)] for m in machines]

    def work_s(request: Request, replica: int, answer_tokens: int | None = None) -> float:
        ability(predictor, ("length",))  # an order says nothing of seconds
        prompt_s, answer_s = seconds[replica]
        predicted = request.predicted_tokens if answer_tokens is None else answer_tokens
        answer = request.bound_tokens if predicted is None else predicted
        return request.prompt_tokens * prompt_s + answer * answer_s

    capacities = tuple(m.limits.kv_tokens for m in machines)
    known = tuple(map(_known, machines, schedulers))
    return router_maker(router)(RouterContext(len(machines), rng, work_s, capacities, known, now))


def _known(machine: Accelerator, scheduler: CompleteScheduler) -> Machine:
    """How a machine serves under a scheduler, which may have no bounds of this kind."""
    return Machine(
        machine.profile.iteration_cost,
        kv_capacity(scheduler, machine.limits),
        getattr(scheduler, "max_num_seqs", math.inf),
        getattr(scheduler, "max_num_batched_tokens", math.inf),
        shares_prefixes=scheduler.prefix_cache is not None,
        decides_ahead=isinstance(scheduler, AheadScheduler),
    )


def _seconds_per_token(profile: Profile) -> tuple[float, float]:
    """What a prompt token and an output token cost on a machine that is busy up to its knee."""
    cost, context = profile.iteration_cost, 512
    rows = cost.knee(context)
    return cost.padded_prefill_s(1, context) / context, cost.decode_s(rows, rows * context) / rows
