"""Counting blocks in closed form equals counting them one iteration after the other; batches cut to fit."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.kv_blocks import blocks_ahead, blocks_for, iterations_within, split_to_fit
from sim.request import Request

BLOCKS = st.sampled_from([1, 2, 3, 7, 16])
BIRTHS = st.lists(st.integers(-300, 300), min_size=1, max_size=25)


def takers_of(births: list[int], block_size: int) -> list[int]:
    """How many take a block, by iteration modulo the block size."""
    return [sum((birth + i) % block_size == 0 for birth in births) for i in range(block_size)]


def needed(births: list[int], block_size: int, iteration: int, num_iterations: int) -> int:
    """Blocks taken, sequence by sequence and iteration by iteration."""
    iterations = range(iteration, iteration + num_iterations)
    return sum((birth + i) % block_size == 0 for birth in births for i in iterations)


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (15, 1), (16, 1), (17, 2), (32, 2), (33, 3)])
def test_blocks_for(tokens: int, blocks: int) -> None:
    assert blocks_for(tokens, 16) == blocks


@pytest.mark.parametrize(
    ("prompts", "batches"),
    [
        ([10, 10, 10, 10, 10], [[0, 1, 2, 3], [4]]),  # four rows of 20 are just what fits
        ([10, 10, 30, 10, 10], [[0, 1], [2, 3], [4]]),  # a third row would be 40 long, as the others then
        ([100, 10, 10], [[0], [1, 2]]),  # too large alone, first and last
        ([10, 10, 100], [[0, 1], [2]]),
        ([], []),
    ],
)
def test_a_batch_is_cut_where_the_next_row_would_be_one_too_many(
    prompts: list[int], batches: list[list[int]]
) -> None:
    requests = [Request(i, 0.0, tokens, 99) for i, tokens in enumerate(prompts)]
    cut = list(split_to_fit(requests, 10, 80))
    assert [[request.id for request in batch] for batch in cut] == batches


@settings(max_examples=200)
@given(BIRTHS, BLOCKS, st.integers(0, 200), st.integers(0, 80))
def test_need_is_the_sum_over_iterations(
    births: list[int], block_size: int, iteration: int, num_iterations: int
) -> None:
    blocks = blocks_ahead(takers_of(births, block_size), iteration, num_iterations)
    assert blocks == needed(births, block_size, iteration, num_iterations)


@settings(max_examples=200)
@given(st.integers(0, 99), BLOCKS, st.integers(1, 60))
def test_need_of_one_sequence_is_what_its_tokens_take(start: int, block_size: int, tokens: int) -> None:
    """Context c at iteration 0: the blocks of c + k tokens less those of c."""
    taken = blocks_for(start + tokens, block_size) - blocks_for(start, block_size)
    assert blocks_ahead(takers_of([start], block_size), 0, tokens) == taken


@settings(max_examples=200)
@given(BIRTHS, BLOCKS, st.integers(0, 200), st.integers(0, 120))
def test_iterations_within_is_the_most_that_fit(
    births: list[int], block_size: int, iteration: int, free_blocks: int
) -> None:
    k = iterations_within(takers_of(births, block_size), iteration, free_blocks)
    assert needed(births, block_size, iteration, k) <= free_blocks
    assert needed(births, block_size, iteration, k + 1) > free_blocks
