"""Recorded sessions: who waits for whom, for how long, and what of a prompt was there before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traces import InputError, Trace, load
from traces.prompt_blocks import share_found_again
from traces.sessions import NOBODY

Put = Callable[..., Path]


def waits(trace: Trace) -> dict[str, tuple[list[str], float]]:
    """Request id -> (ids that it waits for, think time)."""
    assert trace.waits_for is not None
    ids = [str(each) for each in trace.request_id.tolist()]
    return {
        ids[row]: (sorted(ids[p] for p in parents if p != NOBODY), trace.thinks_s[row])
        for row, parents in enumerate(trace.waits_for.tolist())
    }


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def request(t: float, tokens: int, **more: Any) -> dict[str, Any]:
    """A request of a recorded agent whose prompt is the first blocks of 64 tokens."""
    return {
        "t": t,
        "type": "n",
        "model": "m",
        "in": tokens,
        "out": 9,
        "hash_ids": [*range(1, tokens // 64 + 1)],
    } | more


def session(*requests: dict[str, Any], name: str = "s", scope: str = "local") -> dict[str, Any]:
    return {"id": name, "block_size": 64, "hash_id_scope": scope, "requests": list(requests)}


def test_a_recorded_agent_waits_for_its_answers_its_tools_and_its_sub_agents(put: Put) -> None:
    """The first request ends at 10; two sub-agents run from 11 on, until 41 and 31; the next comes at 45."""
    agents = [
        {
            "t": 41.0,
            "type": "subagent",
            "agent_id": "a",
            "duration_ms": 30000,
            "requests": [request(0, 64, api_time=4.0), request(9, 128)],
        },
        {
            "t": 31.0,
            "type": "subagent",
            "agent_id": "b",
            "duration_ms": 20000,
            "requests": [request(0, 64, api_time=4.0)],
        },
    ]
    whole = session(
        request(0, 300, api_time=10.0, think_time=0.0),
        *agents,
        request(45, 400, api_time=5.0, think_time=35.0),
        request(53, 450, think_time=3.2),
        request(60, 500, think_time=10.0),
    )
    trace = load(put(json.dumps(whole), "s.json"))
    assert waits(trace) == {
        "s/0": ([], 0.0),
        "s/a/0": (["s/0"], 1.0),
        "s/b/0": (["s/0"], 1.0),
        "s/a/1": (["s/a/0"], 5.0),
        "s/3": (["s/a/1", "s/b/0"], 4.0),
        "s/4": (["s/3"], 3.2),
        "s/5": (["s/4"], 7.0),  # the end of s/4 was not recorded: at most since its start
    }
    assert trace.session_id is not None and set(trace.session_id.tolist()) == {"s"}
    assert any("1 think times follow a request whose end was not recorded" in note for note in trace.notes)
    assert trace.blocks is not None and [len(trace.blocks.of(row)[0]) for row in range(3)] == [4, 1, 1]


def test_an_agent_that_is_called_again_is_the_same_no_more(put: Put) -> None:
    again = [
        {"t": t, "type": "subagent", "agent_id": "a", "duration_ms": 1000, "requests": [request(0, 64)]}
        for t in (2.0, 4.0)
    ]
    trace = load(put(json.dumps(session(request(0, 64), *again, request(6, 64))), "s.json"))
    assert trace.request_id.tolist() == ["s/0", "s/a/0", "s/a#2/0", "s/3"]
    assert sorted(waits(trace)["s/3"][0]) == ["s/a#2/0", "s/a/0"]


@pytest.mark.parametrize(("scope", "shared"), [("local", False), ("global", True)])
def test_ids_that_belong_to_their_session_are_not_those_of_another(
    put: Put, scope: str, shared: bool
) -> None:
    two = [session(request(0, 640), name=name, scope=scope) for name in "ab"]
    trace = load(put(lines(two), "s.jsonl"))
    assert trace.blocks is not None
    assert (share_found_again(trace.blocks, trace.prompt_tokens) > 0) == shared
    assert any("all 2 sessions start at once: --request-rate" in note for note in trace.notes)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (session(), "session s: has no requests"),
        (session({"type": "n", "in": 5, "out": 1}), "session s: request 1 has no time t"),
        (session(request(0, 64)) | {"block_size": 0}, "session s: block_size 0 is no whole number"),
        (session(request(0, 64)) | {"block_size": True}, "block_size True is no whole number above 0"),
        (
            session(request(0, 64, hash_ids=[[1]])),
            r"request s/0: \[1\] in hash_ids is neither a whole number",
        ),
        (session(request(0, 64, hash_ids=[1.5])), "1.5 in hash_ids is neither a whole number nor a text"),
        (session(request(0, 640, hash_ids=[*range(99)])), "line 1, hash_tokens: 6336 tokens are more than"),
    ],
)
def test_a_session_that_is_none_is_named(put: Put, value: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load(put(json.dumps(value), "s.json"))


def test_all_recorded_sessions_are_read_whole(data: Path) -> None:
    files = sorted((data / "agent-sessions").glob("*.json"))
    if not files:
        pytest.skip("no agent-sessions beside the public traces")
    for file in files:
        totals = json.loads(file.read_text())["totals"]["combined_tokens"]
        trace = load(file)
        assert int(trace.prompt_tokens.sum()) == totals["input"]
        assert int(trace.output_tokens.sum()) == totals["output"]
        assert len(waits(trace)) == len(trace) and trace.is_waiting.sum() == len(trace) - 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    gaps=st.lists(st.integers(0, 500), min_size=1, max_size=8),
    times=st.lists(st.none() | st.integers(0, 200), min_size=8, max_size=8),
    stated=st.lists(st.none() | st.integers(0, 900), min_size=8, max_size=8),
)
def test_think_times_are_never_longer_than_what_lay_between(
    put: Put, gaps: list[int], times: list[int | None], stated: list[int | None]
) -> None:
    requests, at = [], 0.0
    for k, gap in enumerate([0, *gaps]):
        at += gap
        optional = {"api_time": times[k % 8], "think_time": stated[k % 8]}
        requests.append(request(at, 64 * (k + 1)) | {k: v for k, v in optional.items() if v is not None})
    trace = load(put(json.dumps(session(*requests)), "s.json"), time_unit="s")
    thinks = [waits(trace)[f"s/{k}"][1] for k in range(len(requests))]
    assert thinks[0] == 0
    assert all(0 <= think <= gap + 1 for think, gap in zip(thinks[1:], gaps, strict=True))


def test_agentic_mooncake_waits_for_what_it_names_and_for_its_tools(put: Put) -> None:
    rows = [
        {
            "request_id": "r",
            "session_id": "x",
            "input_length": 1024,
            "output_length": 9,
            "hash_ids": [0, 1],
            "timestamp": 500.0,
        },
        {
            "request_id": "a",
            "session_id": "x",
            "input_length": 1100,
            "output_length": 9,
            "hash_ids": [0, 1, 2],
            "wait_for": ["r"],
            "delay": 200.0,
            "tool_wait_ms": 1300.0,
        },
        {
            "request_id": "b",
            "session_id": "y",
            "input_length": 1100,
            "output_length": 9,
            "hash_ids": [0, 1, 3],
            "wait_for": ["r"],
        },
        {
            "request_id": "j",
            "session_id": "x",
            "input_length": 1200,
            "output_length": 9,
            "hash_ids": [0, 1, 2],
            "wait_for": ["a", "b"],
        },
    ]
    trace = load(put(lines(rows), "a.jsonl"))
    assert waits(trace) == {"r": ([], 0), "a": (["r"], 1.5), "b": (["r"], 0), "j": (["a", "b"], 0)}
    assert trace.session_id is None and trace.sessions is not None and set(trace.sessions.tolist()) == {"r"}
    assert trace.blocks is not None and share_found_again(trace.blocks, trace.prompt_tokens) > 0.5
    rows[2]["session_id"] = "x"
    assert load(put(lines(rows), "a.jsonl")).session_id is not None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [{"request_id": "h", "schema": "x"}, {"request_id": "a", "wait_for": []}],
            "row 1: has no input_length",
        ),
        ([{"request_id": "a", "input_length": 5, "wait_for": "b"}], "row 1, wait_for: 'b' is not a list"),
        (
            [{"schema": "dynamo.agentic_mooncake", "version": 2, "block_size": 64}, {"request_id": "a"}],
            "agentic Mooncake with a header, version 2: only rows without are read",
        ),
        (
            [{"request_id": "a", "input_length": 5, "output_length": 1, "wait_for": ["z"], "timestamp": 0}],
            "'z' is the id of no",
        ),
        ([{"request_id": {}, "wait_for": [], "input_length": 5, "output_length": 1}], "is not an id"),
        (
            [{"request_id": "a", "wait_for": [["a"]], "input_length": 5, "output_length": 1, "timestamp": 0}],
            r"waits_for: .* is no request id",
        ),
        (
            [
                {"session_id": "a", "input_length": 5, "output_length": 1, "timestamp": 0},
                {"session_id": "a", "delay": 5},
            ],
            "all of its prompt .Dynamo's mooncake., or what it adds .*no two turns have hash_ids",
        ),
        ([{"session_id": "a", "sub_requests": []}], "row 1, sub_requests: is not a list of requests"),
    ],
)
def test_what_is_not_known_of_these_forms_is_refused(put: Put, rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load(put(lines(rows), "a.jsonl"))


def test_sessions_of_llmservingsim_chain_by_their_tools_and_share_by_their_tokens(put: Put) -> None:
    """The second turn repeats the first's prompt and answer; another session shares 32 tokens with both."""
    first, answer = [*range(40)], [100, 101, 102]
    second = [*first, *answer, 7, 8, 9]
    rows = [
        {
            "session_id": "t",
            "arrival_time_ns": 0,
            "sub_requests": [
                {
                    "input_toks": 40,
                    "output_toks": 3,
                    "tool_duration_ns": 2_500_000_000,
                    "input_tok_ids": first,
                    "output_tok_ids": answer,
                },
                {
                    "input_toks": 46,
                    "output_toks": 2,
                    "tool_duration_ns": 0,
                    "input_tok_ids": second,
                    "output_tok_ids": [1, 2],
                },
            ],
        },
        {
            "input_toks": 33,
            "output_toks": 2,
            "arrival_time_ns": 1_000_000_000,
            "input_tok_ids": [*range(32), 77],
            "output_tok_ids": [4, 5],
        },
    ]
    trace = load(put(lines(rows), "w.jsonl"))
    assert trace.arrival_s is not None and trace.blocks is not None and trace.blocks.answers is not None
    assert waits(trace) == {"0/0": ([], 0), "0/1": (["0/0"], 2.5), "1/0": ([], 0)}
    by_id = {each: row for row, each in enumerate(trace.request_id.tolist())}
    one, two, other = (trace.blocks.of(by_id[each]) for each in ("0/0", "0/1", "1/0"))
    assert one[1] == [16, 32, 40] and two[1] == [16, 32, 40, 43, 46] and other[1] == [16, 32, 33]
    assert two[0][:3] == one[0] and two[0][3] == trace.blocks.answers[by_id["0/0"]]
    assert other[0][:2] == one[0][:2] and other[0][2] != one[0][2]


def test_bailians_turns_wait_for_the_chat_that_they_go_on_from(put: Put) -> None:
    rows = [
        {
            "chat_id": chat,
            "parent_chat_id": parent,
            "timestamp": at,
            "input_length": 40,
            "output_length": 5,
            "turn": 1,
            "hash_ids": [1, 2, chat + 9],
        }
        for chat, parent, at in [(4, -1, 0.0), (5, -1, 3.0), (6, 4, 61.5), (7, 99, 70.0), (8, 6, 80.0)]
    ]
    trace = load(put(lines(rows), "chats.jsonl"))
    assert trace.session_id is not None and trace.session_id.tolist() == ["4", "5", "4", "7", "4"]
    assert list(waits(trace).values()) == [([], 0), ([], 0), (["0"], 61.5), ([], 0), (["2"], 18.5)]
    assert "1 turns whose parent is not in the file start a session" in trace.notes
    rows[0]["parent_chat_id"] = 8
    with pytest.raises(InputError, match="line 1, parent_chat_id: 8 waits for this chat in turn"):
        load(put(lines(rows), "chats.jsonl"))


def test_sub_agents_without_requests_are_counted(put: Put) -> None:
    calls = [
        {"t": 0, "type": "n", "in": 130, "out": 5, "hash_ids": [1, 2]},
        {"t": 4, "type": "subagent", "agent_id": "x", "duration_ms": 1000, "requests": []},
        {"t": 5, "type": "subagent", "agent_id": "y"},
        {"t": 9, "type": "n", "in": 260, "out": 5, "hash_ids": [1, 2, 3, 4]},
    ]
    session = {"id": "s", "hash_id_scope": "local", "block_size": 64, "requests": calls}
    trace = load(put(lines([session]), "s.json"))
    assert len(trace) == 2 and "sub-agents without requests left out: 2" in trace.notes


def test_agentic_rows_are_of_whole_prompts_whether_or_not_a_prefix_is_reset(put: Put) -> None:
    """As in NVIDIA Dynamo's trace formats: prefix_reset is metadata."""
    rows = [
        {"request_id": "a", "input_length": 600, "output_length": 9, "hash_ids": [1, 2], "timestamp": 0},
        {
            "request_id": "b",
            "input_length": 1100,
            "output_length": 9,
            "hash_ids": [1, 2, 3],
            "wait_for": ["a"],
        },
    ]
    rows[1] |= {"prefix_reset": True, "branches": ["c"]}
    assert load(put(lines(rows), "a.jsonl")).prompt_tokens.tolist() == [600, 1100]
