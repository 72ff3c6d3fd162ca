"""Turns of sessions in Mooncake's columns: whole prompts, or what each adds to the one before."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces import load
from traces.errors import InputError
from traces.mooncake_sessions import read
from traces.prompt_blocks import share_found_again
from traces.trace import Trace

SIZE = 512


def turn(session: str, ids: Sequence[int], tokens: int, **more: Any) -> dict[str, Any]:
    return {"session_id": session, "input_length": tokens, "output_length": 9, "hash_ids": list(ids), **more}


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Trace]:
    def put(rows: list[dict[str, Any]]) -> Trace:
        path = tmp_path / "turns.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return load(path)

    return put


def test_what_turns_add_becomes_whole_prompts_with_the_answers_between(
    loaded: Callable[[list[dict[str, Any]]], Trace],
) -> None:
    trace = loaded(
        [
            turn("a", [1, 2], 600, timestamp=1000),
            turn("b", [1, 5], 700, timestamp=2000),
            turn("a", [7], 40, delay=1500),
            turn("a", [8, 9], 520, delay_ms=250),
        ]
    )
    by_id = dict(zip(trace.request_id.tolist(), range(4), strict=True))
    assert [int(trace.prompt_tokens[by_id[f"a/{k}"]]) for k in range(3)] == [600, 649, 1178]
    assert trace.think_s is not None
    assert [float(trace.think_s[by_id[f"a/{k}"]]) for k in range(3)] == [0.0, 1.5, 0.25]
    assert trace.arrival_s is not None and trace.arrival_s[by_id["b/0"]] == 1.0
    # The first two turns' prompts, answers included, and 512 tokens of the other session are found again.
    assert trace.blocks is not None
    found = share_found_again(trace.blocks, trace.prompt_tokens) * trace.prompt_tokens.sum()
    assert found == pytest.approx(512 + 600 + 649)
    assert any("what prompts add, in blocks of 512 tokens" in note for note in trace.notes)


def test_whole_prompts_stay_as_they_are(loaded: Callable[[list[dict[str, Any]]], Trace]) -> None:
    trace = loaded(
        [
            turn("a", [1, 2], 600, timestamp=0),
            turn("a", [1, 3, 4], 1100, timestamp=9000),
            turn("a", [1, 3, 5, 6], 2000, delay=10),
        ]
    )
    assert trace.prompt_tokens.tolist() == [600, 1100, 2000]
    assert trace.think_s is not None and trace.think_s.tolist() == [0.0, 9.0, 0.01]
    assert any("whole prompts" in note for note in trace.notes)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [turn("a", [1], 5, timestamp=0), turn("a", [1, 2], 600, delay=1), turn("a", [3], 9, delay=1)],
            "some begin",
        ),
        ([turn("a", [1], 5, timestamp=0), turn("a", [2, 3], 9, delay=1)], "do not fit input_length"),
        ([turn("a", [1], 5, timestamp=0), {"input_length": 5, "delay": 1}], "row 2: has no session_id"),
        ([turn("a", [1], 5, timestamp=0), turn("a", ["x"], 9, delay=1)], "'x' is no whole number"),
        ([turn("a", [1], 5), turn("a", [2], 9, delay=1), turn("a", [3], 9)], "row 3: has neither delay nor"),
    ],
)
def test_what_is_not_clear_is_refused_in_one_line(
    rows: list[dict[str, Any]], said: str, loaded: Callable[[list[dict[str, Any]]], Trace]
) -> None:
    with pytest.raises(InputError, match=said) as raised:
        loaded(rows)
    assert "\n" not in str(raised.value)


@given(st.lists(st.lists(st.integers(1, 1300), min_size=2, max_size=5), min_size=1, max_size=4))
def test_deltas_and_whole_prompts_of_the_same_talks_are_told_apart(talks: list[list[int]]) -> None:
    """Prompts grow by the tokens given; an answer has 9. The two forms agree in every length."""
    deltas, wholes, fresh = [], [], iter(range(10**9))
    for number, adds in enumerate(talks):
        tokens, ids = 0, list[int]()
        for k, added in enumerate(adds):
            own = {"timestamp": 0} if not k else {"delay": 5}
            deltas.append(turn(str(number), [next(fresh) for _ in range(-(-added // SIZE))], added, **own))
            tokens += added + (9 if k else 0)
            ids = ids[: max(1, (tokens - added) // SIZE)] if k else ids
            ids += [next(fresh) for _ in range(-(-tokens // SIZE) - len(ids))]
            wholes.append(turn(str(number), ids, tokens, **own))
    lengths = [[row["prompt_tokens"] for row in read("t", rows).rows] for rows in (deltas, wholes)]
    assert lengths[0] == lengths[1]
    assert ("what prompts add" in read("t", deltas).notes[0]) and "whole prompts" in read("t", wholes).notes[
        0
    ]
    assert np.all(np.array(lengths[0]) > 0)
