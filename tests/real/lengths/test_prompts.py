"""Prompts as ids: of the lengths that the trace says, and alike where it says so."""

from __future__ import annotations

import numpy as np
import pytest

from traces.prompt_blocks import PromptBlocks

pytest.importorskip("torch", reason="the real extra is not installed")

from real.lengths.prompts import random_prompts

ORDINARY = np.arange(3, 30_000)


def test_prompts_that_begin_alike_share_these_tokens_and_no_others() -> None:
    # Prompt 0 and 1 agree in 100 tokens, 0 and 3 in 40; prompt 2 has no blocks, 3 ends within a shared block.
    blocks = PromptBlocks(
        hashes=np.array([7, 8, 7, 8, 9, 7]),
        ends=np.array([64, 100, 64, 100, 110, 40]),
        offsets=np.array([0, 2, 5, 5, 6]),
    )
    prompts = random_prompts([120, 115, 120, 60], ORDINARY, np.random.default_rng(0), blocks)
    assert [len(prompt) for prompt in prompts] == [120, 115, 120, 60]
    first, second, third, fourth = prompts
    assert first[:100] == second[:100] and first[100:115] != second[100:]
    assert first[:40] == fourth[:40] and first[40:60] != fourth[40:]
    assert first[:20] != third[:20]


def test_without_blocks_no_two_begin_alike() -> None:
    prompts = random_prompts([20] * 5, ORDINARY, np.random.default_rng(0))
    assert len({tuple(prompt[:4]) for prompt in prompts}) == 5
