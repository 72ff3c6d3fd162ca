"""Prompts that begin alike, told by the tokens of their texts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces.prompt_blocks import PromptBlocks, share_found_again
from traces.token_blocks import BLOCK_TOKENS, with_text_blocks
from traces.trace import Trace


def of(texts: list[str], prompt_tokens: list[int] | None = None) -> Trace:
    """A trace of texts; a character is a token."""
    tokens = [max(1, len(text)) for text in texts] if prompt_tokens is None else prompt_tokens
    n = len(texts)
    return Trace("t", np.arange(n), np.array(tokens), np.ones(n, int), prompt=np.array(texts, dtype=object))


def blocks(trace: Trace) -> PromptBlocks:
    found = with_text_blocks(trace, lambda text: list(map(ord, text))).blocks
    assert found is not None
    return found


@given(st.lists(st.text(alphabet="ab", max_size=50), min_size=1, max_size=6))
def test_blocks_are_alike_where_all_tokens_up_to_their_end_are(texts: list[str]) -> None:
    found = blocks(of(texts))
    beginnings: dict[int, str] = {}
    for row, text in enumerate(texts):
        hashes, ends = found.of(row)
        assert ends == [min(end, len(text)) for end in range(16, len(text) + BLOCK_TOKENS, BLOCK_TOKENS)]
        for value, end in zip(hashes, ends, strict=True):
            assert beginnings.setdefault(value, text[:end]) == text[:end]
    assert len(set(beginnings.values())) == len(beginnings)


def test_what_is_beyond_the_text_is_like_nobody_elses_and_no_block_exceeds_the_prompt() -> None:
    text = "x" * 40
    longer, shorter = blocks(of([text, text], [60, 60])), blocks(of([text, text], [20, 20]))
    assert longer.last_ends.tolist() == [40, 40] and shorter.last_ends.tolist() == [20, 20]
    assert share_found_again(longer, np.array([60, 60])) == pytest.approx(40 / 120)


def test_a_trace_without_texts_or_with_blocks_stays_as_it_is() -> None:
    bare = Trace("t", np.arange(2), np.full(2, 9), np.ones(2, int))
    known = with_text_blocks(of(["ab", "ab"]), lambda text: list(map(ord, text)))
    assert with_text_blocks(bare, lambda text: []) is bare
    assert with_text_blocks(known, lambda text: []) is known
