"""`--block-size`: KV memory is counted, cached and given out in blocks of any size."""

from __future__ import annotations

from itertools import takewhile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import simulate
from sim.scenario.scenario import scenario
from tests.sim.any_world import CONTINUOUS, Kept, check_any, traces
from tests.sim.flat_machine import flat_machine
from traces.errors import InputError
from traces.prompt_blocks import blocks_of_lists
from traces.trace import Trace

SIZES = (1, 7, 16, 128)
AT_ONCE = "continuous:prefix_caching=on,max_num_seqs=1,max_num_batched_tokens=1000000"


def of_prompts(prompts: list[list[int]], hashed: int) -> Trace:
    """Prompts of these tokens, of which the hashes of blocks of `hashed` tokens are known; one a time."""
    rows = [[tuple(p[k : k + hashed]) for k in range(0, len(p), hashed)] for p in prompts]
    lengths, n = np.array(list(map(len, prompts))), len(prompts)
    blocks = blocks_of_lists(rows, hashed, lengths)
    return Trace("t", np.arange(n), lengths, np.ones(n, dtype=np.int64), blocks=blocks)


def found_by_hand(prompts: list[list[int]], hashed: int, size: int) -> int:
    """Tokens that an endless cache finds: whole blocks of `size`, as far as hashes tell that they agree."""
    found = 0
    for number, prompt in enumerate(prompts):
        known = 0
        for other in prompts[:number]:
            alike = sum(
                1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, other, strict=False))
            )
            is_all = alike == len(prompt) == len(other)
            known = max(known, alike if is_all else alike // hashed * hashed)
        found += min(known, len(prompt) - 1) // size * size
    return found


@settings(max_examples=80, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=40), min_size=1, max_size=8),
    hashed=st.sampled_from([1, 4, 6]),
    size=st.sampled_from([1, 2, 3, 4, 8, 16]),
    stretch=st.integers(1, 5),
)
def test_hashes_of_blocks_of_one_size_are_found_again_in_blocks_of_another(
    prompts: list[list[int]], hashed: int, size: int, stretch: int
) -> None:
    prompts = [[token for token in prompt for _ in range(stretch)] for prompt in prompts]
    result = simulate(
        of_prompts(prompts, hashed), policy=AT_ONCE, profile=flat_machine(1.0), kv_blocks=10_000,
        block_size=size, max_new_tokens=1,
    )  # fmt: skip
    found = result.summary["prefix_hit_fraction"] * sum(map(len, prompts))
    assert found == pytest.approx(found_by_hand(prompts, hashed, size))


@settings(max_examples=60, deadline=None)
@given(
    trace=traces(),
    policy=st.sampled_from([p for p in CONTINUOUS if "sglang" not in p]),
    size=st.sampled_from(SIZES),
    tokens=st.sampled_from([400, 2_000, 20_000]),
)
def test_what_always_holds_in_blocks_of_any_size(trace: Trace, policy: str, size: int, tokens: int) -> None:
    kept, blocks = Kept(policy), tokens // size
    world = scenario(trace, profile=flat_machine(0.07), kv_blocks=blocks, block_size=size, predictor="exact")
    try:
        result = world.run(kept, log=True)
    except InputError as error:  # fewer tokens an iteration than a block
        assert "block" in str(error)
        return
    check_any(result, blocks * size)
    kv = kept.scheduler.kv
    assert (kv.block_size, kv.free) == (size, kv.num_blocks)
    stepped = world.run(policy, leap=False)
    np.testing.assert_allclose(
        result.columns["finish_s"], stepped.columns["finish_s"], rtol=1e-9, equal_nan=True
    )


@pytest.mark.parametrize("policy", ["continuous", "continuous:rules=sglang", "continuous:rules=trtllm"])
def test_large_blocks_hold_fewer_requests_in_the_same_memory(policy: str) -> None:
    """Of prompts of 10 tokens with answers of 5, 64 tokens hold two in blocks of 32, four in blocks of 1."""
    peaks = {}
    for size in (1, 32):
        result = simulate(
            "fixed:prompt_tokens=10,output_tokens=5", policy=policy, num_prompts=12, max_new_tokens=5,
            profile=flat_machine(1.0), kv_blocks=(64 + size) // size, block_size=size,
        )  # fmt: skip
        assert result.summary["completed"] == 12
        peaks[size] = result.summary["duration"]
    assert peaks[1] < peaks[32]


@pytest.mark.parametrize("size", [0, -16, 65_537])
def test_a_size_that_is_none_is_refused(size: int) -> None:
    with pytest.raises(InputError, match=f"block_size: {size} is not between 1 and 65,536"):
        simulate("fixed", policy="continuous", block_size=size)


def test_prompts_are_split_into_whole_pages_alone() -> None:
    with pytest.raises(InputError, match="chunked_prefill_size: 8192 must be a multiple of the block size"):
        simulate("fixed", policy="continuous:rules=sglang", block_size=48)
