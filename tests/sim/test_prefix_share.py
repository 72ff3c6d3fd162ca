"""What a simulated cache finds is what an exact LRU cache of its size does, where requests run one by one."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import simulate
from tests.sim.flat_machine import flat_machine
from traces import load
from traces.prompt_blocks import blocks_of_lists
from traces.reuse import reuse_of
from traces.trace import Trace

SIZE = 16
CACHES = (8_000, 90_000, 120_000, 150_000, 200_000, 10**6)
needs_data = pytest.mark.skipif(
    not os.environ.get("SEQSCHED_DATA"), reason="SEQSCHED_DATA names no folder with the public traces"
)


def in_engine_blocks(rows: list[list[object]]) -> Trace:
    """One request after the other, whose prompts are these blocks of 16 tokens and a token of their own;
    answers of a token, so that they leave nothing in memory.
    """
    prompts = np.array([SIZE * len(row) + 1 for row in rows])
    blocks = blocks_of_lists(rows, [[SIZE] * len(row) for row in rows], prompts)
    n = len(rows)
    return Trace("t", np.arange(n), prompts, np.ones(n, dtype=np.int64), blocks=blocks)


def lru_share(rows: list[list[object]], num_blocks: int) -> float:
    """The share of the prompt tokens that a list of the most recently used blocks finds, of one prompt its
    last one being the least recent.
    """
    recent: OrderedDict[tuple[object, ...], None] = OrderedDict()
    hits = 0
    for row in rows:
        blocks = [hash_of(row, k) for k in range(len(row))]
        there = next((k for k, block in enumerate(blocks) if block not in recent), len(blocks))
        hits += there
        for block in blocks[:there]:
            recent.move_to_end(block)
        for block in blocks[there:]:
            if len(recent) == num_blocks:
                recent.popitem(last=False)
            recent[block] = None
        for block in reversed(blocks):
            recent.move_to_end(block)
    return SIZE * hits / sum(SIZE * len(row) + 1 for row in rows)


def hash_of(row: list[object], k: int) -> tuple[object, ...]:
    """Block k with all before it; those of a trace have a hash that stands for these."""
    return (row[k],) if isinstance(row[k], tuple) else tuple(row[: k + 1])


def found(trace: Trace, num_blocks: int) -> float:
    """The share of the prompt tokens found with so many blocks for full ones: one is kept, and one has the
    token that is of no full block.
    """
    policy = "continuous:prefix_caching=on,max_num_seqs=1,max_num_batched_tokens=1000000"
    result = simulate(
        trace, policy=policy, profile=flat_machine(1.0), kv_blocks=num_blocks + 2, max_new_tokens=1
    )
    assert result.summary["completed"] == len(trace)
    return float(result.summary["prefix_hit_fraction"])


@settings(max_examples=60)
@given(
    rows=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=40),
    more=st.integers(0, 60),
)
def test_a_cache_of_any_size_finds_what_lru_finds(rows: list[list[int]], more: int) -> None:
    asked: list[list[object]] = [list(row) for row in rows]
    trace = in_engine_blocks(asked)
    reuse = reuse_of(trace)
    assert reuse is not None
    size = max(map(len, rows)) + more
    assert found(trace, size) == pytest.approx(lru_share(asked, size), abs=1e-12)
    assert found(trace, 10_000) == pytest.approx(reuse.most, abs=1e-12)


@settings(max_examples=60)
@given(
    rows=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=40),
    more=st.integers(0, 20),
)
def test_a_small_cache_before_an_endless_tier_finds_all_there_is(rows: list[list[int]], more: int) -> None:
    """What the curve of `trace inspect` has for a cache without end: some in memory, the rest behind it."""
    trace = in_engine_blocks([list(row) for row in rows])
    reuse = reuse_of(trace)
    assert reuse is not None
    result = simulate(
        trace,
        policy="continuous:prefix_caching=on,max_num_seqs=1,max_num_batched_tokens=1000000",
        profile=flat_machine(1.0),
        kv_blocks=max(map(len, rows)) + more + 2,
        kv_tier="cpu:1TiB@1GB/s",
        max_new_tokens=1,
    )
    s = result.summary
    assert s["prefix_hit_fraction"] + s["cpu_hit_fraction"] == pytest.approx(reuse.most, abs=1e-12)
    assert s["cpu_evicted_tokens"] == 0


@needs_data
def test_mooncakes_first_hundreds_follow_the_exact_curve() -> None:
    whole = load("mooncake-conversation")
    assert whole.blocks is not None
    rows: list[list[object]] = [list(whole.blocks.engine_blocks(i, SIZE)) for i in range(300)]
    trace = in_engine_blocks(rows)
    shares = [found(trace, num_blocks) for num_blocks in CACHES]
    assert shares == pytest.approx([lru_share(rows, num_blocks) for num_blocks in CACHES], abs=1e-12)
    assert len({round(share, 6) for share in shares}) > 3


@needs_data
@pytest.mark.parametrize("faster", [1, 5, 20])
def test_an_endless_cache_finds_all_that_mooncake_has_at_any_speed(faster: int) -> None:
    """But for what is asked again before it is computed, and each prompt's last token."""
    trace = load("mooncake-conversation")
    reuse = reuse_of(trace)
    assert reuse is not None
    result = simulate(
        replace(trace, max_new_tokens=None),
        policy="continuous:prefix_caching=on",
        profile="h200-vicuna-7b",
        time_scale=1 / faster,
        kv_blocks=12_000_000,
        replicas=1,
    )
    s = result.summary
    assert (s["completed"], s["failed"], s["prefix_evicted_tokens"]) == (12_031, 0, 0)
    assert s["total_output_tokens"] == trace.output_tokens.sum()
    assert reuse.most - 0.001 < s["prefix_hit_fraction"] <= reuse.most
