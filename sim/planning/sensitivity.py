"""Which input moves a capacity plan most: one input at a time, everything else as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..hardware.what_if import BLOCK_SIZE, with_kv_blocks
from ..kv_blocks import blocks_for
from .answer import Sensitivity, Swing
from .rate_search import RateRange, highest_rate
from .replay import Replay
from .runs import run_searches
from .search import Effort, Search
from .slo import Observation, Slo
from .verdict import FleetPoint, Run, to_settle
from .world import World

TOLERANCE = 0.03
"""Relative width of a rate; an input that moves the answer by less counts as without effect."""

SETTLED = 2
"""How many times as long as it takes to settle these runs are: a dozen searches are to be cheap."""

Runner = Callable[[Sequence[tuple[World, Run]]], Sequence[Observation]]


class Change(NamedTuple):
    """One input with less of it and with more, each named."""

    what: str
    less_label: str
    less: World
    more_label: str
    more: World


def changes(world: World) -> list[Change]:
    """Every input that is changed, one at a time."""
    length = world.length_scale
    shorter, longer = (replace(world, length_scale=scale) for scale in (length / 1.25, length * 1.25))
    faster, slower = (_with_times(world, factor) for factor in (0.9, 1.1))
    smaller, larger = (_with_capacity(world, factor) for factor in (0.8, 1.2))
    exact, noisy = (_with(world, predictor=text) for text in ("exact", "noisy:sigma=0.4,charge=off"))
    steady_label, steady, bursty_label, bursty = "Poisson", 1.0, "gamma, burstiness 0.5", 0.5
    if world.burstiness is not None:
        steady, bursty = 2 * world.burstiness, world.burstiness / 2
        steady_label, bursty_label = f"{steady:g} (steadier)", f"{bursty:g} (burstier)"
    return [
        Change("Output length", "÷ 1.25", shorter, "× 1.25", longer),
        Change("Step time", "−10 %", faster, "+10 %", slower),
        Change("KV capacity", "−20 %", smaller, "+20 %", larger),
        Change("Length prediction", "exact", exact, "error, σ 0.4", noisy),
        Change(
            "Burstiness",
            steady_label,
            replace(world, burstiness=steady),
            bursty_label,
            replace(world, burstiness=bursty),
        ),
    ]


def _with(world: World, **settings: Any) -> World:
    return replace(world, settings=replace(world.settings, **settings))


def _with_times(world: World, factor: float) -> World:
    return replace(world, machines=tuple(machine.with_scale(factor) for machine in world.machines))


def _with_capacity(world: World, factor: float) -> World:
    """The world with so many times the KV cache, of every machine its own."""
    settings, size = world.settings, world.settings.block_size or BLOCK_SIZE
    tokens = [m.kv_tokens(settings.kv_blocks, size) for m in world.machines]
    blocks = [max(1, round(factor * (each // size))) for each in tokens]
    if len(dict.fromkeys(blocks)) == 1:
        return _with(world, kv_blocks=blocks[0])
    machines = tuple(
        with_kv_blocks(m, blocks_for(b * size, BLOCK_SIZE))
        for m, b in zip(world.machines, blocks, strict=True)
    )
    return _with(replace(world, machines=machines), kv_blocks=None)


def sensitivity(
    world: World, slo: Slo, answer: FleetPoint, effort: Effort, runs: Runner, replay: Replay | None = None
) -> Sensitivity:
    """The highest rate of the fleet of `answer` as each input is changed, with the same seeds throughout.

    `replay`: where the answer was found by replays of the trace alone, since its rate varies, so are these.
    """
    replicas, rate = answer.replicas, answer.rate
    need = SETTLED * to_settle(slo, rate, answer.lasting_s, effort.num_seeds)
    length = min(max(need, effort.num_requests), effort.max_requests)
    brief = replace(effort.at_a_glance(), num_requests=length, max_requests=length)

    def search() -> Search[RateRange]:
        if replay is not None:
            return replay.highest_rate(slo, replicas, rate, TOLERANCE)
        return highest_rate(slo, replicas, brief, start=rate, tolerance=TOLERANCE, step=1.1, bracket=False)

    varied = changes(world)
    worlds = [world, *(w for change in varied for w in (change.less, change.more))]
    ranges: list[RateRange] = run_searches([(w, search()) for w in worlds], runs)
    base, *others = (found.rate for found in ranges)
    swings = [
        Swing(change.what, change.less_label, change.more_label, low, high)
        for change, low, high in zip(varied, others[::2], others[1::2], strict=True)
    ]
    least = (base or 0.0) * TOLERANCE
    moved = [s for s in swings if any(abs((end or 0.0) - (base or 0.0)) > least for end in (s.low, s.high))]
    return Sensitivity(
        policy=world.policy,
        profile=world.name,
        replicas=replicas,
        rate=base or 0.0,
        swings=tuple(sorted(moved, key=lambda s: -s.width)),
        without_effect=tuple(s.what for s in swings if s not in moved),
    )
