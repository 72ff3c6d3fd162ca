"""Which prompts begin alike: rows of blocks, an engine's blocks, reading and writing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces import InputError
from traces.formats import read
from traces.prompt_blocks import PromptBlocks, blocks_of_lists, share_found_again
from traces.scaling import scale_lengths
from traces.trace import Trace
from traces.writers import write

Put = Callable[..., Path]

TEXTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40), min_size=1, max_size=6)
"""Prompts as tokens: few values, so that many begin alike."""


def blocks_of_texts(texts: list[list[int]], size: int) -> PromptBlocks:
    """Blocks whose hashes are the tokens up to their ends."""
    rows = [[tuple(text[: min(at + size, len(text))]) for at in range(0, len(text), size)] for text in texts]
    return blocks_of_lists(rows, size, [len(text) for text in texts])


def trace_of(blocks: PromptBlocks, prompt_tokens: list[int]) -> Trace:
    n = len(prompt_tokens)
    ones = np.ones(n, dtype=np.int64)
    return Trace("t", np.arange(n), np.array(prompt_tokens), ones, blocks=blocks)


@given(texts=TEXTS, size=st.integers(1, 16), engine=st.integers(1, 20))
def test_engine_blocks_are_alike_only_where_all_tokens_before_their_end_are(
    texts: list[list[int]], size: int, engine: int
) -> None:
    blocks = blocks_of_texts(texts, size)
    found = [blocks.engine_blocks(i, engine) for i in range(len(texts))]
    for left, here in zip(texts, found, strict=True):
        assert len(here) == len(left) // engine
        for right, there in zip(texts, found, strict=True):
            for k in range(min(len(here), len(there))):
                end = (k + 1) * engine
                is_whole = min(-(-end // size) * size, len(left)) == min(-(-end // size) * size, len(right))
                known = min(-(-end // size) * size, len(left))
                assert (here[k] == there[k]) == (is_whole and left[:known] == right[:known])
                if here[k] == there[k]:
                    assert left[:end] == right[:end]


@given(texts=TEXTS, size=st.integers(1, 16), data=st.data())
def test_rows_are_chosen_in_any_order(texts: list[list[int]], size: int, data: st.DataObject) -> None:
    blocks = blocks_of_texts(texts, size)
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=8))
    chosen = blocks[np.array(rows, dtype=np.int64)]
    assert [chosen.of(k) for k in range(len(rows))] == [blocks.of(i) for i in rows]
    mask = np.array([i % 2 == 0 for i in range(len(texts))])
    assert len(blocks[mask]) == mask.sum() and blocks[mask].of(0) == blocks.of(0)
    assert chosen.last_ends.tolist() == [len(texts[i]) for i in rows]


@given(texts=TEXTS, size=st.integers(1, 16))
def test_the_share_found_again_is_that_of_a_walk_along_the_prompts(texts: list[list[int]], size: int) -> None:
    blocks, seen, again = blocks_of_texts(texts, size), set[tuple[int, ...]](), 0
    for text in texts:
        ends = [min(at + size, len(text)) for at in range(0, len(text), size)]
        again += max((end for end in ends if tuple(text[:end]) in seen), default=0)
        seen |= {tuple(text[:end]) for end in ends}
    lengths = np.array([len(text) for text in texts])
    assert share_found_again(blocks, lengths) == pytest.approx(again / lengths.sum())


def test_hashes_of_blocks_alone_count_with_those_before_them() -> None:
    blocks = blocks_of_lists([[1, 2], [2], [1, 2, 2]], 16, [32, 16, 48])
    assert [blocks.of(i) for i in range(3)] == [
        ([0, 1], [16, 32]),
        ([2], [16]),
        ([0, 1, 3], [16, 32, 48]),
    ]
    kept = blocks_of_lists([[5, 7], [5, 9], []], 16, [20, 32, 4])
    assert (
        kept.hashes.tolist() == [5, 7, 5, 9] and kept.of(0) == ([5, 7], [16, 20]) and kept.of(2) == ([], [])
    )


def test_what_prompts_share_grows_with_them() -> None:
    trace = trace_of(blocks_of_lists([["a", "b"], ["a"]], 10, [15, 10]), [15, 10])
    half, none = scale_lengths(trace, prompt_scale=0.5), scale_lengths(trace, output_scale=2)
    assert half.blocks is not None and none.blocks is trace.blocks
    assert [half.blocks.of(i)[1] for i in range(2)] == [[5, 8], [5]]
    assert half.prompt_tokens.tolist() == [8, 5]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("form", ["hashes", "prefix", "answers"])
def test_blocks_are_written_and_read_back(tmp_path: Path, suffix: str, form: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    rows = {"hashes": [[3, 4], [3], []], "prefix": [[7], [7], []], "answers": [[3, 4], [3, 4, 9], []]}[form]
    tokens = {"hashes": [[16, 4], [16], []], "prefix": [[16], [16], []], "answers": [[8, 5], [8, 5, 4], []]}
    blocks = blocks_of_lists(rows, tokens[form], [20, 20, 20])
    if form == "answers":
        blocks = PromptBlocks(blocks.hashes, blocks.ends, blocks.offsets, np.array([9, 10, -1]))
    path = tmp_path / f"t{suffix}"
    trace = trace_of(blocks, [20, 20, 20])
    write(trace, path)
    back = read(path).blocks
    assert back is not None and [back.of(i) for i in range(3)] == [blocks.of(i) for i in range(3)]
    assert (back.answers is None) == (blocks.answers is None)
    if back.answers is not None:
        assert back.answers.tolist() == [9, 10, -1]
    columns = {"prefix_id", "prefix_tokens"} if form == "prefix" else {"hash_ids", "hash_tokens"}
    assert columns <= set(trace.to_frame().columns)


def test_hashes_of_answers_are_numbered_with_those_of_blocks(tmp_path: Path) -> None:
    """Hash 2 stands for a block alone, here behind 1 and there at the beginning, and so does 7: the answer to
    the first request begins otherwise than the last prompt. Nobody goes on from the second one.
    """
    path = tmp_path / "own.jsonl"
    rows = [([1, 2], 7), ([1, 2, 7, 9], 1), ([2, 1, 7], 9)]
    path.write_text(
        "".join(
            json.dumps(
                {
                    "prompt_tokens": 16 * len(ids),
                    "output_tokens": 16,
                    "hash_ids": ids,
                    "hash_tokens": [16] * len(ids),
                    "answer_id": answer,
                }
            )
            + "\n"
            for ids, answer in rows
        )
    )
    blocks = read(path).blocks
    assert blocks is not None and blocks.answers is not None
    first, second, last = (blocks.of(i)[0] for i in range(3))
    assert second[:2] == first and not set(last) & set(second)
    assert blocks.answers.tolist() == [second[2], -1, -1]


def test_a_sample_keeps_its_blocks() -> None:
    trace = trace_of(blocks_of_lists([[i] for i in range(6)], 8, [8] * 6), [8] * 6)
    chosen = trace.sample(3, sample_seed=1)
    assert chosen.blocks is not None
    assert [chosen.blocks.of(k)[0] for k in range(3)] == [[i] for i in chosen.request_id.tolist()]
    assert trace.select([4]).blocks is not None and len(trace.select([4]).blocks or ()) == 1


MOONCAKE = {"timestamp": 0, "input_length": 1000, "output_length": 5, "hash_ids": [0, 1]}
OWN = {"prompt_tokens": 20, "output_tokens": 5}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (MOONCAKE | {"hash_ids": [0]}, "line 2, hash_ids: 1 hashes, where 1000 tokens have 2 blocks of 512"),
        (MOONCAKE | {"hash_ids": [0, 1, 2, 3, 4]}, "hash_ids: 5 hashes, where 1000 tokens have 2 blocks"),
        (MOONCAKE | {"hash_ids": [0, -1]}, "line 2, hash_ids: -1 is not a whole number from 0 to"),
        (MOONCAKE | {"hash_ids": [0, 1.5]}, "line 2, hash_ids: 1.5 is not a whole number from 0 to"),
        (MOONCAKE | {"hash_ids": [0, True]}, "line 2, hash_ids: True is not a whole number from 0 to"),
        (MOONCAKE | {"hash_ids": 7}, "line 2, hash_ids: 7 is not a list of whole numbers"),
        (MOONCAKE | {"hash_ids": None}, "line 2, hash_ids: a missing value is not a list of whole numbers"),
        (
            OWN | {"hash_ids": [1], "hash_tokens": [21]},
            "hash_tokens: 21 tokens are more than the prompt's 20",
        ),
        (OWN | {"hash_ids": [1], "hash_tokens": [2, 3]}, "line 2, hash_tokens: 2 numbers for 1 hash_ids"),
        (OWN | {"prefix_id": 1, "prefix_tokens": 21}, "prefix_tokens: 21 is above 20, the prompt's tokens"),
        (OWN | {"prefix_id": 1}, "prefix_tokens: empty"),
    ],
)
def test_bad_blocks_end_in_one_line_with_the_row(put: Put, row: dict[str, Any], said: str) -> None:
    good: dict[str, Any] = MOONCAKE if "timestamp" in row else OWN
    if "hash_ids" in row and good is OWN:
        good = OWN | {"hash_ids": [1], "hash_tokens": [20]}
    if "prefix_id" in row:
        good = OWN | {"prefix_id": 2, "prefix_tokens": 5}
    path = put("".join(json.dumps(each) + "\n" for each in (good, row)))
    with pytest.raises(InputError, match=r"^[^\n]*$") as caught:
        read(path)
    assert said in str(caught.value)


def test_a_prefix_has_one_length(put: Put) -> None:
    path = put("prompt_tokens,output_tokens,prefix_id,prefix_tokens\n20,1,a,5\n20,1,b,6\n20,1,a,6\n")
    with pytest.raises(
        InputError, match="row 3, prefix_tokens: 6, but 5 in a row above with the same prefix"
    ):
        read(path)


def test_prefixes_may_have_names(put: Put) -> None:
    blocks = read(
        put("prompt_tokens,output_tokens,prefix_id,prefix_tokens\n20,1,a,5\n20,1,,0\n20,1,a,5\n")
    ).blocks
    assert blocks is not None and [blocks.of(i) for i in range(3)] == [([0], [5]), ([], []), ([0], [5])]


@pytest.mark.parametrize(
    ("hashes", "ends", "offsets", "answers", "said"),
    [
        ([1, 2], [4], [0, 2], None, "1 ends of 2 hashes"),
        ([1, 2], [4, 8], [0, 1], None, "offsets do not go from 0 up to 2"),
        ([1, -2], [4, 8], [0, 2], None, "row 1, hash: -2 is below 0"),
        ([1, 2, 3], [4, 8, 7], [0, 1, 3], None, "row 2, end: 7 is below 8, where it begins"),
        ([1], [4], [0, 1], [3, 4], "2 answers of 1 prompts"),
        ([1, 2], [4, 4], [0, 1, 2], [3, 3], "two answers have the same hash"),
    ],
)
def test_blocks_that_contradict_themselves_are_refused(
    hashes: list[int], ends: list[int], offsets: list[int], answers: list[int] | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        PromptBlocks(
            np.array(hashes),
            np.array(ends),
            np.array(offsets),
            None if answers is None else np.array(answers),
        )


def test_blocks_are_those_of_the_prompts() -> None:
    blocks = blocks_of_lists([["a"]], 16, [16])
    with pytest.raises(InputError, match="row 1, blocks: 16 tokens are more than the prompt's 15"):
        trace_of(blocks, [15])
    with pytest.raises(InputError, match="blocks has 1 rows, request_id has 2"):
        trace_of(blocks, [16, 16])
