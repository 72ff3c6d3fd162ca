"""What a scheduler may know of how prompts begin: the blocks of the trace, and no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sim.perception.predictions import Perception
from sim.request import KnownBlocks
from sim.scenario.inputs import digest_of_trace
from sim.scenario.scenario import scenario
from traces.prompt_blocks import PromptBlocks, blocks_of_lists
from traces.trace import Trace


@pytest.fixture
def trace() -> Trace:
    blocks = blocks_of_lists([[0, 1], [0, 2], []], 16, [20, 30, 5])
    return Trace(
        "t",
        np.arange(3),
        np.array([20, 30, 5]),
        np.array([4, 5, 6]),
        arrival_s=np.array([0.0, 1.0, 2.0]),
        blocks=PromptBlocks(blocks.hashes, blocks.ends, blocks.offsets, np.array([7, -1, 8])),
    )


def known(trace: Trace) -> list[KnownBlocks | None]:
    lengths = np.ones(3)
    requests = scenario(trace).requests(Perception(lengths, None, False, (0.0, 0.0)))
    return [request.blocks for request in requests]


def test_requests_have_the_blocks_of_their_rows(trace: Trace) -> None:
    assert known(trace) == [
        KnownBlocks([0, 1], [16, 20], 7),
        KnownBlocks([0, 2], [16, 30], -1),
        KnownBlocks([], [], 8),
    ]
    assert known(replace(trace, blocks=None)) == [None] * 3


def test_blocks_count_as_an_input(trace: Trace) -> None:
    other = replace(trace, blocks=blocks_of_lists([[0, 1], [3, 2], []], 16, [20, 30, 5]))
    assert len({digest_of_trace(each) for each in (trace, other, replace(trace, blocks=None))}) == 3
