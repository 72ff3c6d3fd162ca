"""What our scheduler decides in a small world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from real.engines.decision import Decision
from real.validation.decisions import recorded
from sim.results.result import Result
from sim.scenario.machines import Accelerator
from sim.scenario.policies import Policy, limits_of
from sim.scenario.scenario import scenario
from tests.sim.flat_machine import flat_machine
from tests.vllm.worlds import World
from traces.prompt_blocks import PromptBlocks, blocks_of_lists
from traces.trace import Trace


def blocks_of(world: World) -> PromptBlocks:
    """Which prompts begin alike: a block for each text, and for a prompt with its answer."""
    numbers: dict[tuple[object, ...], int] = {}
    names: list[tuple[object, ...]] = []
    lengths: list[list[int]] = []
    for asking in world.requests:
        name, tokens = (), list[int]()
        if asking.after >= 0:
            before = world.requests[asking.after]
            name, tokens = (*names[asking.after], asking.after), [*lengths[asking.after]]
            tokens.append(before.prompt_tokens + before.output_tokens - sum(tokens))
        names.append((*name, *(f"text {text}" for text, _ in asking.texts)))
        lengths.append(tokens + [length for _, length in asking.texts])

    def number(name: tuple[object, ...]) -> int:
        return numbers.setdefault(name, len(numbers))

    rows = [[number(name[: k + 1]) for k in range(len(name))] for name in names]
    blocks = blocks_of_lists(rows, lengths, [asking.prompt_tokens for asking in world.requests])
    answers = np.array([number((*name, k)) for k, name in enumerate(names)])
    return replace(blocks, answers=answers)


def decide(world: World) -> list[Decision]:
    """Its decisions, one for every iteration of a second."""
    decisions: list[Decision] = []
    run(world, recorded(world.policy, decisions))
    return decisions


def run(world: World, policy: Policy, *, leap: bool = False, kv_tier: str | None = None) -> Result:
    """The world under a policy, on a machine whose iterations take a second and whose tokens take a byte."""
    prompt, output, arrival, priority, *_ = zip(*world.requests, strict=True)
    # By its cap a request fits in memory or not, as in vLLM.
    trace = Trace(
        world.name,
        np.arange(len(prompt)),
        np.array(prompt),
        np.array(output),
        arrival_s=np.array(arrival, dtype=float),
        priority=np.array(priority),
        max_tokens=np.array([max(output) + 1] * len(output) if world.stops_by_eos else output),
        blocks=blocks_of(world),
    )
    machine = flat_machine(1.0)
    limits = limits_of(machine, world.num_gpu_blocks, block_size=world.block_size, kv_tier=kv_tier)
    shared = replace(scenario(trace, profile=machine, cap="column"), fleet=(Accelerator(machine, limits),))
    result = shared.run(policy, leap=leap)
    assert result.summary["completed"] == len(prompt), f"{world.name}: not all ran"
    return result
