"""The curve of what a cache finds again by its size, against a cache that is kept block by block."""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces import load
from traces.prompt_blocks import blocks_of_lists, share_found_again
from traces.reuse import reuse_facts, reuse_of, share_over_time
from traces.trace import Trace

BLOCK = 16


def trace_of(paths: list[list[int]], tails: list[int], outputs: list[int]) -> Trace:
    """Prompts as paths through a tree, blocks of 16 tokens, with tokens behind them that nobody shares."""
    rows = [[hash_of(path[: k + 1]) for k in range(len(path))] for path in paths]
    prompt = np.array([BLOCK * len(row) + tail for row, tail in zip(rows, tails, strict=True)])
    sizes = [[BLOCK] * len(row) for row in rows]
    n = len(paths)
    return Trace("t", np.arange(n), prompt, np.array(outputs), blocks=blocks_of_lists(rows, sizes, prompt))


def hash_of(path: list[int]) -> int:
    return sum((step + 1) * 4**k for k, step in enumerate(path))


def naive(trace: Trace, capacity: int) -> int:
    """Tokens that a cache of so many finds, least recently used given up first, token by token."""
    assert trace.blocks is not None
    cache: OrderedDict[object, int] = OrderedDict()  # what is used last comes last
    found = 0
    for row in range(len(trace)):
        hashes, ends = trace.blocks.of(row)
        for value, start, end in zip(hashes, [0, *ends], ends, strict=False):
            found += end - start if value in cache else 0
        beside = int(trace.prompt_tokens[row]) - (ends[-1] if ends else 0) + int(trace.output_tokens[row])
        # The end of a request is given up before its beginning.
        for name, size in [((row, "beside"), beside), *[(value, BLOCK) for value in reversed(hashes)]]:
            cache.pop(name, None)
            cache[name] = size
        while sum(cache.values()) > capacity:
            cache.popitem(last=False)
    return found


PATHS = st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=1, max_size=14)


@settings(max_examples=300, deadline=None)
@given(PATHS, st.lists(st.integers(1, 40), min_size=14, max_size=14), st.integers(0, 400))
def test_every_size_finds_what_a_cache_of_that_size_finds(
    paths: list[list[int]], sizes: list[int], capacity: int
) -> None:
    n = len(paths)
    trace = trace_of(paths, sizes[:n], [1] * n)
    reuse = reuse_of(trace)
    assert reuse is not None and trace.blocks is not None
    total = int(trace.prompt_tokens.sum())
    assert reuse.share(capacity) * total == pytest.approx(naive(trace, capacity))
    assert reuse.most == pytest.approx(share_found_again(trace.blocks, trace.prompt_tokens))
    at, shares = reuse.curve()
    assert (np.diff(at) > 0).all() and (np.diff(shares) > 0).all()
    for size, share in zip(at.tolist(), shares.tolist(), strict=True):
        assert reuse.share(size) == pytest.approx(share) and reuse.share(size - 0.5) < share
    if len(at):
        assert reuse.size_for(1.0) == at[-1] and shares[-1] == pytest.approx(reuse.most)


def test_answers_are_found_by_the_turns_that_go_on_from_them() -> None:
    """One user: all of a prompt but the new question was there, and a cache of the conversation has it."""
    trace = load(
        "sessions:users=1,turns=3,system_tokens=100,prompt_tokens=50,output_tokens=20,prompt_sigma=0,output_sigma=0"
    )
    reuse = reuse_of(trace)
    assert reuse is not None
    assert trace.prompt_tokens.tolist() == [150, 220, 290]
    assert reuse.most == pytest.approx((170 + 240) / 660)
    assert reuse.size_for(1.0) == 240 and reuse.share(239) < reuse.most
    facts = reuse_facts(reuse)
    assert facts["cache_tokens_for_90_percent"] == 220 and reuse_facts(None) == {}


def test_reuse_over_time_is_that_of_the_requests_then() -> None:
    trace = load(
        "sessions:users=2,turns=2,think_s=100,think_law=fixed,rate=1000,prompt_sigma=0,output_sigma=0"
    )
    reuse = reuse_of(trace)
    assert reuse is not None
    edges, shares = share_over_time(trace, reuse, bins=4)
    assert edges[-1] == pytest.approx(100, rel=0.1)
    assert shares[0] == pytest.approx(512 / 640 / 2) and shares[-1] == pytest.approx((640 + 128) / 896)
    assert math.isnan(shares[1]) and math.isnan(shares[2])


def test_what_shares_nothing_has_a_curve_of_nothing() -> None:
    trace = trace_of([[0], [1]], [3, 3], [1, 1])
    reuse = reuse_of(trace)
    assert reuse is not None and reuse.most == 0 and reuse.size_for(0.5) is None
    assert reuse_of(load("fixed", num_prompts=2)) is None


def test_mooncake_has_37_percent_again(data: Path) -> None:
    trace = load(data / "mooncake-conversation_trace.jsonl")
    reuse = reuse_of(trace)
    assert reuse is not None and reuse.most == pytest.approx(0.3736, abs=1e-4)
    assert 0.05 < reuse.share(1e6) < reuse.share(1e7) < reuse.share(1e8)
