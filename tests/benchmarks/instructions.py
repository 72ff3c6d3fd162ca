"""Where do the bytecode instructions go that a request of continuous batching takes?

    python -m tests.benchmarks.instructions

Counts them by part, the attributes read or written, and the Python calls, in the worlds of `million` and
`overload` (always full, without a host): what 3,000 requests take after the first 1,500, under
`sys.settrace`. Other work on the machine changes times, but not these. The last line is JSON.
"""

from __future__ import annotations

import dis
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import CodeType, FrameType
from typing import Any, NamedTuple

from sim.execution.arrivals import Arrivals
from sim.execution.environment import Environment
from sim.execution.iterations import RunningRequests
from sim.execution.leap import Leap
from sim.execution.replica import Replica
from sim.fleet.sole import Sole
from sim.hardware.host import NO_HOST
from sim.kv_blocks import blocks_ahead
from sim.request import Request
from sim.scenario.scenario import scenario
from sim.schedulers.continuous import ContinuousScheduler
from sim.schedulers.kv_cache import KvCache
from sim.schedulers.waiting import InOrder
from sim.work import Chunk, Iterations

from .million import workload
from .overload import HALF, OVERLOAD, SYNC, chats, run

FIRST, LAST = 1_500, 4_500
REST = "cost of a step, and the rest"
ATTRIBUTES = {dis.opmap["LOAD_ATTR"], dis.opmap["STORE_ATTR"]}
PARTS: dict[str, tuple[Callable[..., Any], ...]] = {
    "make a request, hand it over": (
        Request.__init__, Sole.release, Arrivals.take, ContinuousScheduler.submit, InOrder.push,
    ),
    "decide": (
        ContinuousScheduler.next_work, ContinuousScheduler._admit, KvCache.admit, KvCache.iterations_that_fit,
        Chunk.__init__, Iterations.__init__,
    ),
    "carry out": (
        Replica.run, RunningRequests.begin, RunningRequests._prefill, RunningRequests._end_alike,
        Leap.ends_s, Leap.seconds, Leap.iterations_begun, Environment.skip_to,
    ),
    "write down what has ended, free its memory": (
        RunningRequests.advance, Arrivals.ended, ContinuousScheduler.record, ContinuousScheduler._leave,
        KvCache.advance, blocks_ahead,
    ),
}  # fmt: skip


class Counts(NamedTuple):
    """Of one call: instructions and calls by function, instructions by opcode."""

    instructions: Counter[CodeType]
    calls: Counter[CodeType]
    opcodes: Counter[int]


def counted(call: Callable[[], object]) -> Counts:
    """What a call takes."""
    counts = Counts(Counter(), Counter(), Counter())
    instructions, calls, opcodes = counts

    def within(frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode":
            code = frame.f_code
            instructions[code] += 1
            opcodes[code.co_code[frame.f_lasti]] += 1
        return within

    def enter(frame: FrameType, *_: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        calls[frame.f_code] += 1
        return within

    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(None)
    return counts


def of_a_request(world: Callable[[int], Callable[[], object]]) -> dict[str, float]:
    """Instructions of one request by part and in all, attributes read or written, calls, decisions."""
    world(FIRST)()  # what a process does but once is no part of it
    before, after = counted(world(FIRST)), counted(world(LAST))
    part_of = {function.__code__: part for part, functions in PARTS.items() for function in functions}
    found = dict.fromkeys((*PARTS, REST), 0.0)
    for code, number in after.instructions.items():
        found[part_of.get(code, REST)] += number - before.instructions[code]
    found["all"] = sum(found.values())
    found["attributes"] = sum(after.opcodes[code] - before.opcodes[code] for code in ATTRIBUTES)
    found["calls"] = after.calls.total() - before.calls.total()
    decide = ContinuousScheduler.next_work.__code__
    found["decisions"] = after.calls[decide] - before.calls[decide]
    return {name: round(number / (LAST - FIRST), 2) for name, number in found.items()}


def main() -> None:
    """Count in both worlds, and print."""
    profile = replace(scenario(chats(1, HALF), profile="h200-vicuna-7b").profile, host=NO_HOST)
    worlds: dict[str, Callable[[int], Callable[[], object]]] = {
        "million": lambda n: run(workload(n), "continuous"),
        "always full": lambda n: run(scenario(chats(n, OVERLOAD), profile=profile), SYNC),
    }
    said = {name: of_a_request(world) for name, world in worlds.items()}
    for part in said["million"]:
        print(f"{part:44s}", *(f"{figures[part]:12.2f}" for figures in said.values()))
    print(json.dumps(said))


if __name__ == "__main__":
    main()
