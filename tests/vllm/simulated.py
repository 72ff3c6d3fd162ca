"""What our scheduler decides in a small world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from real.engines.decision import Decision
from real.validation.decisions import recorded
from sim.scenario.machines import Accelerator
from sim.scenario.policies import limits_of
from sim.scenario.scenario import scenario
from tests.sim.flat_machine import flat_machine
from tests.vllm.worlds import World
from traces.trace import Trace


def decide(world: World) -> list[Decision]:
    """Its decisions, one for every iteration of a second."""
    prompt, output, arrival, priority = zip(*world.requests, strict=True)
    # By its cap a request fits in memory or not, as in vLLM.
    trace = Trace(
        world.name,
        np.arange(len(prompt)),
        np.array(prompt),
        np.array(output),
        arrival_s=np.array(arrival, dtype=float),
        priority=np.array(priority),
        max_tokens=np.array([max(output) + 1] * len(output) if world.stops_by_eos else output),
    )
    machine = flat_machine(1.0)
    limits = limits_of(machine, world.num_gpu_blocks, block_size=world.block_size)
    shared = replace(scenario(trace, profile=machine, cap="column"), fleet=(Accelerator(machine, limits),))
    decisions: list[Decision] = []
    result = shared.run(recorded(world.policy, decisions), leap=False)
    assert result.summary["completed"] == len(prompt), f"{world.name}: not all ran"
    return decisions
