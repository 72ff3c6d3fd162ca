"""Which input moves a capacity plan most: one input at a time, everything else as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from .answer import Sensitivity, Swing
from .rate_search import RateRange, highest_rate
from .runs import World, run_searches
from .search import Effort
from .slo import Observation, Slo
from .verdict import FleetPoint, Run, to_settle

TOLERANCE = 0.03
"""Relative width of a rate; what moves the answer by less is said to have no effect."""

SETTLED = 2
"""How many times as long as it takes to settle these runs are: a dozen searches are to be cheap."""

Runner = Callable[[Sequence[tuple[World, Run]]], Sequence[Observation]]


def changes(world: World) -> list[tuple[str, tuple[str, World], tuple[str, World]]]:
    """(input, (label, world with less of it), (label, world with more of it))."""
    machine = world.profile
    blocks = machine.kv_tokens(world.kv_blocks) // 16
    made = [
        (
            "Output length",
            ("÷ 1.25", replace(world, length_scale=world.length_scale / 1.25)),
            ("× 1.25", replace(world, length_scale=world.length_scale * 1.25)),
        ),
        (
            "Step time",
            ("−10 %", replace(world, profile=machine.with_scale(0.9))),
            ("+10 %", replace(world, profile=machine.with_scale(1.1))),
        ),
        (
            "KV capacity",
            ("−20 %", replace(world, kv_blocks=max(1, round(0.8 * blocks)))),
            ("+20 %", replace(world, kv_blocks=round(1.2 * blocks))),
        ),
        (
            "Length prediction",
            ("exact", replace(world, predictor="exact")),
            ("error, σ 0.4", replace(world, predictor="noisy:sigma=0.4,charge=off")),
        ),
    ]
    if world.burstiness is None:
        bursts = ("Poisson", 1.0), ("gamma, burstiness 0.5", 0.5)
    else:
        bursts = (
            (f"{2 * world.burstiness:g} (steadier)", 2 * world.burstiness),
            (
                f"{world.burstiness / 2:g} (burstier)",
                world.burstiness / 2,
            ),
        )
    (steady, b1), (bursty, b2) = bursts
    made.append(
        ("Burstiness", (steady, replace(world, burstiness=b1)), (bursty, replace(world, burstiness=b2)))
    )
    return made


def sensitivity(world: World, slo: Slo, answer: FleetPoint, effort: Effort, runs: Runner) -> Sensitivity:
    """The highest rate of the fleet of `answer` as each input is changed, with the same seeds throughout."""
    replicas, rate = answer.replicas, answer.rate
    need = SETTLED * to_settle(slo, rate, answer.mean_e2el_s, effort.num_seeds)
    length = min(max(need, effort.num_requests), effort.max_requests)
    brief = replace(effort.at_a_glance(), num_requests=length, max_requests=length)
    varied = changes(world)
    worlds = [world, *(w for _, less, more in varied for w in (less[1], more[1]))]
    ranges: list[RateRange] = run_searches(
        [
            (w, highest_rate(slo, replicas, brief, start=rate, tolerance=TOLERANCE, step=1.1, bracket=False))
            for w in worlds
        ],
        runs,
    )
    base, *others = (found.rate for found in ranges)
    swings = [
        Swing(name, less[0], more[0], low, high)
        for (name, less, more), low, high in zip(varied, others[::2], others[1::2], strict=True)
    ]
    least = (base or 0.0) * TOLERANCE
    moved = [s for s in swings if any(abs((end or 0.0) - (base or 0.0)) > least for end in (s.low, s.high))]
    return Sensitivity(
        policy=world.policy,
        profile=world.profile.name,
        replicas=replicas,
        rate=base or 0.0,
        swings=tuple(sorted(moved, key=lambda s: -s.width)),
        without_effect=tuple(s.what for s in swings if s not in moved),
    )
