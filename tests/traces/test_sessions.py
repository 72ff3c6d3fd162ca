"""Requests that wait for others: read, written, cut and moved in time without a turn before its parent."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces import InputError, load, write
from traces.arrivals import assign, at_rate, busiest, stretched, window
from traces.sessions import (
    NOBODY,
    cycle_in,
    first_rows,
    in_causal_order,
    numbered,
    padded,
    session_of,
    session_sizes,
)
from traces.trace import Trace

Put = Callable[..., Path]
HEAD = "request_id,session_id,waits_for,think_s,arrival_s,prompt_tokens,output_tokens\n"
ALONE = 4
"""Of which session a request of none is drawn to be."""


@given(st.lists(st.sampled_from(["", None, "a", "b"]), min_size=1, max_size=12))
def test_a_blank_name_is_no_session_that_another_row_is_of(names: list[str | None]) -> None:
    ids = np.array(names, dtype=object)
    named = [name for name in names if name]
    sizes = session_sizes(ids)
    assert sizes.sum() == len(names)
    assert len(sizes) == len(names) - len(named) + len(set(named))
    assert numbered(ids).max() == len(sizes) - 1
    assert all(rows_of == row for row, rows_of in enumerate(first_rows(ids)) if not names[row])


@pytest.mark.parametrize(
    ("rows", "sessions", "note"),
    [
        (
            "0,s,,,0,5,5\n1,,,,1,5,5\n2,  ,,,2,5,5\n3,s,,,3,5,5\n",
            ["s", None, None, "s"],
            "of 2 of 4 requests",
        ),
        ("0,s,,,0,5,5\n1,NULL,,,1,5,5\n2,\\N,,,2,5,5\n3,None,,,3,5,5\n", ["s", *[None] * 3], "of 3 of 4"),
        ("0,nan,,,0,5,5\n1,NaN,,,1,5,5\n", None, ""),
        ("0,,,,0,5,5\n1,,,,1,5,5\n", None, ""),
        ("0,s,,,0,5,5\n1,s,0,1,,5,5\n", ["s", "s"], ""),
    ],
)
def test_rows_with_a_blank_session_are_requests_without_one(
    put: Put, rows: str, sessions: list[str | None] | None, note: str
) -> None:
    trace = load(put(HEAD + rows, "t.csv"))
    known = trace.sessions
    assert (None if known is None else known.tolist()) == sessions
    said = [each for each in trace.notes if "session_id" in each]
    assert (note in said[0]) if note else not said


def test_who_waits_for_another_is_of_a_session_where_others_are(put: Put) -> None:
    path = put(HEAD + "0,s,,,0,5,5\n1,,,,1,5,5\n2,,1,1,,5,5\n", "t.csv")
    with pytest.raises(InputError, match=r"row 3, session_id: is blank, and the request waits for another"):
        load(path)


@st.composite
def traces(draw: st.DrawFn, *, named: bool = True) -> Trace:
    """Up to four sessions side by side, whose requests wait for up to three of the earlier ones, and requests
    of no session.
    """
    n = draw(st.integers(1, 20))
    session = [0, *draw(st.lists(st.integers(0, ALONE), min_size=n - 1, max_size=n - 1))]
    parents = []
    for row in range(n):
        before = [other for other in range(row) if session[other] == session[row] != ALONE]
        chosen = st.lists(st.sampled_from(before), max_size=3, unique=True) if before else st.just([])
        parents.append(draw(chosen))
    gaps = draw(st.lists(st.sampled_from([0.0, 0.0, 0.5, 3.0]), min_size=n, max_size=n))
    think = draw(st.lists(st.sampled_from([0.0, 1.5, 20.0]), min_size=n, max_size=n))
    waits_for = padded(parents)
    arrival = np.cumsum(gaps) - gaps[0]
    return Trace(
        "made up",
        np.arange(100, 100 + n),
        np.arange(1, n + 1),
        np.arange(1, n + 1),
        arrival_s=arrival,
        deadline_s=arrival + 5,
        session_id=np.array(["" if k == ALONE else f"s{k}" for k in session], dtype=object)
        if named
        else None,
        waits_for=waits_for,
        think_s=np.where((waits_for >= 0).any(axis=1), think, 0.0),
    )


def pairs(trace: Trace) -> set[tuple[int, int, float]]:
    """(prompt tokens of who waits, of whom for, think time), which tell rows apart."""
    tokens, think = trace.prompt_tokens.tolist(), trace.thinks_s.tolist()
    return {
        (tokens[row], tokens[parent], think[row])
        for row, parents in enumerate(_lists(trace))
        for parent in parents
        if parent >= 0
    }


@given(trace=traces(), suffix=st.sampled_from(["csv", "jsonl", "parquet"]))
def test_what_is_written_reads_back(
    tmp_path_factory: pytest.TempPathFactory, trace: Trace, suffix: str
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path_factory.mktemp("sessions") / f"t.{suffix}"
    write(trace, path)
    back = load(path, time_unit="s")
    assert pairs(back) == pairs(trace)
    assert back.session_id is not None and trace.session_id is not None
    assert back.session_id.tolist() == trace.session_id.tolist()
    assert back.request_id.tolist() == trace.request_id.tolist()
    assert [frozenset(row) - {NOBODY} for row in _lists(back)] == [
        frozenset(row) - {NOBODY} for row in _lists(trace)
    ]


def _lists(trace: Trace) -> list[list[int]]:
    return [[]] * len(trace) if trace.waits_for is None else trace.waits_for.tolist()


def test_a_file_by_hand(put: Put) -> None:
    """Rows in any order, several parents, arrivals of turns left open, ids of text."""
    rows = [
        'join,a,"[""left"", ""right""]",2,,5,1',
        "root,a,,,1.5,5,1",
        "left,a,root,1,,5,1",
        "right,a,root,4,9,5,1",
        "other,b,,,3,5,1",
    ]
    trace = load(put(HEAD + "\n".join(rows), "t.csv"))
    assert trace.arrival_s is not None and trace.waits_for is not None
    assert trace.request_id.tolist() == ["root", "left", "other", "right", "join"]
    assert trace.arrival_s.tolist() == [0, 1, 1.5, 7.5, 9.5]
    assert trace.waits_for.tolist() == [[-1, -1], [0, -1], [-1, -1], [0, -1], [1, 3]]
    assert trace.thinks_s.tolist() == [0, 1, 0, 4, 2]
    assert trace.to_frame().waits_for.tolist() == ["", "root", "", "root", '["left", "right"]']


def test_json_lines_may_hold_lists_and_without_ids_rows_count_from_0(put: Put) -> None:
    rows: list[dict[str, object]] = [
        {"prompt_tokens": 5, "output_tokens": 1},
        {"prompt_tokens": 6, "output_tokens": 1, "waits_for": 0, "think_s": 2.5},
        {"prompt_tokens": 7, "output_tokens": 1, "waits_for": [0, 1]},
    ]
    trace = load(put("".join(json.dumps(row) + "\n" for row in rows), "t.jsonl"))
    assert trace.arrival_s is None and pairs(trace) == {(6, 5, 2.5), (7, 5, 0.0), (7, 6, 0.0)}


def test_who_waits_for_a_failed_request_waits_for_the_one_before(put: Put) -> None:
    rows = ["1,a,,,0,5,1", "2,a,1,3,4,5,0", "3,a,2,2,9,5,1"]
    trace = load(put(HEAD + "\n".join(rows), "t.csv"))
    assert trace.request_id.tolist() == [1, 3]
    assert pairs(replace(trace, prompt_tokens=np.array([1, 2]))) == {(2, 1, 5.0)}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["1,a,,,0,5,1", "2,a,7,0,1,5,1"], "row 2, waits_for: 7 is the id of no request"),
        (["1,a,2,0,0,5,1", "2,a,1,0,0,5,1"], "row 1, waits_for: 2 waits for this request in turn"),
        (["1,a,1,0,0,5,1"], "row 1, waits_for: 1 waits for this request in turn"),
        (["1,a,,,0,5,1", "2,b,1,0,1,5,1"], "row 2, waits_for: row 1 is of session 'a', this one of 'b'"),
        (["1,a,,,0,5,1", "2,a,1,-3,1,5,1"], "row 2, think_s: -3 is below 0"),
        (["1,a,,,0,5,1", "2,a,1,soon,1,5,1"], "row 2, think_s: 'soon' is not a number"),
        (["1,a,,,4,5,1", "2,a,1,0,1,5,1"], "row 2, arrival_s: 0 s is before row 1, which it waits for"),
        (["1,a,,,,5,1", "2,a,1,0,1,5,1"], "row 1, arrival_s: empty"),
        (["1,a,,,0,5,1", '2,a,"[1, 2.5]",0,1,5,1'], "row 2, waits_for: 2.5 is no request id"),
        (["1,a,,,0,5,1", '2,a,"[1",0,1,5,1'], r"row 2, waits_for: '\[1' is no JSON list"),
    ],
)
def test_what_cannot_be_is_named_with_its_row(put: Put, rows: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load(put(HEAD + "\n".join(rows), "t.csv"))


def test_a_think_time_before_nothing_is_said(put: Put) -> None:
    trace = load(put(HEAD + "1,a,,5,0,5,1\n2,a,1,5,1,5,1", "t.csv"))
    assert trace.thinks_s.tolist() == [0, 5]
    assert "think_s of 1 requests that wait for none is not used (the first in row 1)" in trace.notes


@given(trace=traces(), keep=st.lists(st.booleans(), min_size=20, max_size=20))
def test_what_is_left_waits_for_what_is_left_of_its_ancestors(trace: Trace, keep: list[bool]) -> None:
    rows = [row for row in range(len(trace)) if keep[row]]
    if not rows:
        return
    assert trace.waits_for is not None
    left = trace.select(rows)

    def ancestors(row: int) -> set[int]:
        found: set[int] = set()
        for parent in trace.waits_for[row].tolist():  # type: ignore[index]
            if parent >= 0:
                found |= {parent} if keep[parent] else ancestors(parent)
        return found

    wanted = {(row + 1, parent + 1) for row in rows for parent in ancestors(row)}
    assert {(one, other) for one, other, _ in pairs(left)} == wanted


@given(
    trace=traces(),
    rate=st.sampled_from([None, 0.2, 50.0, math.inf]),
    scale=st.sampled_from([0.01, 1.0, 7.0]),
)
def test_a_replay_moves_starts_and_nothing_within(trace: Trace, rate: float | None, scale: float) -> None:
    moved = assign(
        trace,
        request_rate=rate,
        time_scale=1.0 if rate is not None else scale,
        rng=np.random.default_rng(0),
    )
    assert pairs(moved) == pairs(trace)
    assert sorted(moved.request_id.tolist()) == trace.request_id.tolist()
    assert moved.arrival_s is not None and moved.deadline_s is not None and trace.arrival_s is not None
    assert moved.deadline_s - moved.arrival_s == pytest.approx(np.full(len(trace), 5.0))
    at = dict(zip(moved.request_id.tolist(), moved.arrival_s.tolist(), strict=True))
    if trace.is_waiting.any():
        assert trace.waits_for is not None
        first = session_of(trace.waits_for, trace.session_id)
        for row, lead in enumerate(first.tolist()):
            kept = trace.arrival_s[row] - trace.arrival_s[lead]
            assert at[100 + row] - at[100 + lead] == pytest.approx(kept, abs=1e-9)
        if rate is None:
            leads = np.unique(first)
            assert [at[100 + row] for row in leads] == pytest.approx(
                (trace.arrival_s[leads] * scale).tolist()
            )


def test_a_rate_is_of_requests_whatever_the_sessions_are() -> None:
    """A thousand sessions of four turns at 8 requests/s: two starts a second."""
    n = 4000
    parents = [[] if row % 4 == 0 else [row - 1] for row in range(n)]
    trace = Trace("t", np.arange(n), np.ones(n, int), np.ones(n, int), waits_for=padded(parents))
    drawn = assign(trace, request_rate=8.0, rng=np.random.default_rng(1))
    assert drawn.arrival_s is not None and drawn.arrival_s[-1] == pytest.approx(500, rel=0.1)
    assert len(np.unique(drawn.arrival_s)) == 1000


@given(trace=traces(), seed=st.integers(0, 30), number=st.integers(1, 50))
def test_windows_keep_sessions_whole(trace: Trace, seed: int, number: int) -> None:
    if not trace.is_waiting.any() or trace.arrival_s is None or trace.arrival_s[-1] == 0:
        return
    assert trace.session_id is not None
    sizes = dict(zip(*np.unique(trace.session_id.astype(str), return_counts=True), strict=True))
    for cut in (window(trace, seed, number), busiest(trace, number), stretched(trace, 3.0)):
        assert pairs(cut) <= pairs(trace) and cut.session_id is not None and cut.arrival_s is not None
        for session, count in zip(*np.unique(cut.session_id.astype(str), return_counts=True), strict=True):
            assert not session or count == sizes[session.partition("#")[0]]


def test_at_a_rate_sessions_start_closer_together() -> None:
    trace = Trace(
        *("t", np.arange(4), np.ones(4, int), np.ones(4, int)),
        arrival_s=np.array([0.0, 1.0, 10.0, 20.0]),
        waits_for=padded([[], [0], [], []]),
        think_s=np.array([0, 1.0, 0, 0]),
    )
    moved = at_rate(trace, 4.0)  # three sessions of four requests: three starts a second
    assert moved.arrival_s is not None and moved.arrival_s.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert moved.thinks_s.tolist() == [0, 0, 0, 1]


@given(trace=traces(), named=st.booleans(), data=st.data())
def test_a_beginning_says_how_many_go_on_from_its_sessions(
    trace: Trace, named: bool, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(trace)))
    names = trace.sessions if named else session_of(padded(_lists(trace)), None)
    assert names is not None
    begun = set(names[:count].tolist())
    cut = trace if named else replace(trace, session_id=None)
    assert cut.sample(count).num_cut == sum(
        name is not None and name in begun for name in names[count:].tolist()
    )


def test_requests_that_wait_are_not_permuted() -> None:
    trace = Trace("t", np.arange(2), np.ones(2, int), np.ones(2, int), waits_for=padded([[], [0]]))
    with pytest.raises(InputError, match="sample_seed: 3 permutes requests, and those of t wait for each"):
        trace.sample(2, 3)
    assert trace.sample(1).is_waiting.tolist() == [False]


@given(st.lists(st.lists(st.integers(0, 7), max_size=3, unique=True), min_size=8, max_size=8))
def test_cycles_are_found_and_orders_are_causal(parents: list[list[int]]) -> None:
    row = cycle_in(parents)
    if row is None:
        order = in_causal_order(parents)
        assert sorted(order) == list(range(8))
        assert all(order.index(p) < order.index(row) for row, rows in enumerate(parents) for p in rows)
    else:
        reached, todo = set[int](), [row]
        while todo:
            for parent in parents[todo.pop()]:
                if parent not in reached:
                    reached.add(parent)
                    todo.append(parent)
        assert row in reached


def test_without_ids_a_session_is_what_hangs_together() -> None:
    assert session_of(padded([[], [], [0], [1], [2, 3], []]), None).tolist() == [0, 0, 0, 0, 0, 5]


@given(seed=st.integers(0, 20), number=st.integers(1, 90))
def test_prompts_that_come_again_in_a_window_are_new(seed: int, number: int) -> None:
    """Within a round as much is shared as ever; a second round finds nothing of the first."""
    trace = load("sessions:users=4,turns=3", seed=1)
    for source in (trace, replace(trace, waits_for=None, think_s=None)):
        cut = window(source, seed, number)
        assert cut.blocks is not None and cut.blocks.answers is not None and cut.session_id is not None
        parts = [cut.blocks.of(row) for row in range(len(cut))]
        tokens = [cut.prompt_tokens[row] for row in range(len(cut))]
        assert all(ends[-1] == length for (_, ends), length in zip(parts, tokens, strict=True))
        for one in range(len(cut)):
            for other in range(one):
                is_again = one // 12 != other // 12 if source is not trace else "#" in cut.session_id[one]
                if cut.request_id[one] == cut.request_id[other] and is_again:
                    assert not set(parts[one][0]) & set(parts[other][0])
        check = cut.blocks.answers[cut.blocks.answers >= 0]
        assert len(np.unique(check)) == len(check)


def test_a_turn_that_failed_may_have_any_arrival(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(
        "request_id,waits_for,arrival_s,prompt_tokens,output_tokens,status\n"
        "a,,5,10,4,ok\nb,a,9,10,0,failed\nc,b,12,10,4,ok\n"
    )
    trace = load(path)
    assert trace.request_id.tolist() == ["a", "c"]
    assert trace.waits_for is not None and trace.waits_for.tolist() == [[-1], [0]]
