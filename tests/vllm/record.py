"""Write down what vLLM decides in the examples, so that tests need no vLLM.

.venv-vllm/bin/python -m tests.vllm.record
"""

from __future__ import annotations

import json
from pathlib import Path

from real.validation.decisions import Decision
from tests.vllm.examples import EXAMPLES

RECORDED = Path(__file__).with_name("recorded.json")


def read() -> dict[str, list[Decision]]:
    """The decisions on record, by the name of the example."""
    entries = json.loads(RECORDED.read_text())["examples"]
    return {name: [_decision(*line) for line in lines] for name, lines in entries.items()}


def _decision(
    iteration: int, tokens: dict[str, int], reused: dict[str, int], preempted: list[int], blocks: int
) -> Decision:
    by_id = [{int(id): count for id, count in counts.items()} for counts in (tokens, reused)]
    return Decision(iteration, *by_id, tuple(preempted), blocks)


def main() -> None:
    """Decide every example anew."""
    import vllm

    from tests.vllm import judged

    judge = judged.Dry(next(iter(EXAMPLES.values())))
    decided = {name: judged.decide(world, judge) for name, world in EXAMPLES.items()}
    # A decision a line.
    texts = [
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(decision) for decision in decisions) + "\n]"
        for name, decisions in decided.items()
    ]
    RECORDED.write_text(
        f'{{"vllm": {json.dumps(vllm.__version__)}, "examples": {{\n' + ",\n".join(texts) + "\n}}\n"
    )


if __name__ == "__main__":
    main()
