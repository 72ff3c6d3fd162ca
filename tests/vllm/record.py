"""Write down what vLLM decides in the examples, and digests of what it decides in random worlds: tests then
need no vLLM.

.venv-vllm/bin/python -m tests.vllm.record
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from real.engines.decision import Decision
from real.engines.vllm.engine import prepare_environment
from tests.vllm.examples import EXAMPLES
from tests.vllm.worlds import SETTINGS, World, random_world

RECORDED = Path(__file__).with_name("recorded.json")
NUM_SEEDS = 3


def read() -> dict[str, list[Decision]]:
    """The decisions on record, by the name of the example."""
    entries = json.loads(RECORDED.read_text())["examples"]
    return {name: [_decision(*line) for line in lines] for name, lines in entries.items()}


def read_digests() -> dict[str, str]:
    """The digests on record, by the name of the world."""
    digests: dict[str, str] = json.loads(RECORDED.read_text())["digests"]
    return digests


def random_worlds() -> Iterator[World]:
    """Some of every setting, with seeds that the check does not begin with."""
    for is_ahead, setting, seed in product((False, True), SETTINGS, range(NUM_SEEDS)):
        yield random_world(setting, seed, async_scheduling=is_ahead)


def digest(world: World, decisions: Sequence[Decision]) -> str:
    """One text for all decisions; of what is decided ahead, without the blocks."""
    lines = [
        [
            decision.iteration,
            sorted(decision.tokens.items()),
            sorted(decision.reused.items()),
            decision.preempted,
            0 if world.async_scheduling else decision.blocks,
        ]
        for decision in decisions
    ]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:16]


def _decision(
    iteration: int, tokens: dict[str, int], reused: dict[str, int], preempted: list[int], blocks: int
) -> Decision:
    by_id = [{int(id): count for id, count in counts.items()} for counts in (tokens, reused)]
    return Decision(iteration, *by_id, tuple(preempted), blocks)


def main() -> None:
    """Decide every example and every random world anew."""
    prepare_environment(cpu_kv_gib=1)
    import vllm

    from tests.vllm import judged

    judge = judged.Dry()
    decided = {name: judged.decide(world, judge) for name, world in EXAMPLES.items()}
    # A decision a line.
    texts = [
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(decision) for decision in decisions) + "\n]"
        for name, decisions in decided.items()
    ]
    digests = {world.name: digest(world, judged.decide(world, judge)) for world in random_worlds()}
    RECORDED.write_text(
        f'{{"vllm": {json.dumps(vllm.__version__)}, "examples": {{\n'
        + ",\n".join(texts)
        + f'\n}}, "digests": {json.dumps(digests, indent=1)}}}\n'
    )


if __name__ == "__main__":
    main()
