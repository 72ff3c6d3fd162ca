"""Columns under other names, or within objects, are read as whoever reads them says; errors say how."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from traces import InputError, load
from traces.own_format import Seqsched
from traces.renaming import Renamed, paths
from traces.tables import open_table

Put = Callable[..., Path]
CSV = "When (ms),in,out,session,prompt_tokens\n0,100,5,a,x\n2500,200,6,b,y\n"
USAGE: list[dict[str, Any]] = [
    {"ts": "2026-11-01T10:00:00Z", "usage": {"prompt_tokens": 812, "completion_tokens": 120}, "who": "ann"},
    {"ts": "2026-11-01T10:00:03Z", "usage": {"prompt_tokens": 81, "completion_tokens": 20}, "who": "ben"},
]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_an_option_says_what_a_column_is_called(put: Put) -> None:
    path = put(CSV, "own.csv")
    trace = load(
        f"seqsched:file={path},prompt_tokens=in,output_tokens=out,arrival=When (ms),session_id=session"
    )
    assert (
        trace.name == "own"
        and trace.prompt_tokens.tolist() == [100, 200]
        and trace.output_tokens.tolist() == [5, 6]
    )
    assert trace.arrival_s is not None and trace.arrival_s.tolist() == [0, 2.5]
    assert trace.sessions is not None and trace.sessions.tolist() == ["a", "b"]
    assert not any("columns not used" in note for note in trace.notes)  # the hidden one is another's


def test_keys_within_objects_are_columns(put: Put) -> None:
    path = put(lines(USAGE), "gateway.jsonl")
    lengths = "prompt_tokens=usage.prompt_tokens,output_tokens=usage.completion_tokens"
    trace = load(f"seqsched:file={path},{lengths},user=who")
    assert trace.prompt_tokens.tolist() == [812, 81] and trace.output_tokens.tolist() == [120, 20]
    assert trace.arrival_s is not None and trace.arrival_s.tolist() == [0, 3]
    assert trace.user is not None and trace.user.tolist() == ["ann", "ben"]


@pytest.mark.parametrize("rows", [USAGE, [*USAGE, {**USAGE[0], "level": "info"}], USAGE[:1]])
def test_the_error_is_how_to_read_it(put: Put, rows: list[dict[str, Any]]) -> None:
    path = put(lines(rows), "gateway.jsonl")
    with pytest.raises(InputError, match=r"usage\.completion_tokens: is that output_tokens") as caught:
        load(path)
    name = str(caught.value).partition('give it as "')[2].partition('"')[0]
    assert sorted(load(name).prompt_tokens.tolist()) == sorted(
        [row["usage"]["prompt_tokens"] for row in rows]
    )


def test_what_cannot_be_guessed_is_left_to_fill_in(put: Put) -> None:
    path = put("time,in,out\n0,5,6\n1,7,8\n", "t.csv")
    said = 'prompt_tokens=COLUMN,output_tokens=COLUMN" \\(seqsched: prompt_tokens'
    with pytest.raises(InputError, match=said):
        load(path)


def test_a_path_with_an_equals_sign_is_a_name_like_any_other(put: Put) -> None:
    with pytest.raises(InputError, match="is that output_tokens") as caught:
        load(put("prompt_tokens,completion=tokens\n5,6\n", "day=1.csv"))
    name = str(caught.value).partition('give it as "')[2].partition('"')[0]
    assert load(name).output_tokens.tolist() == [6]


def test_a_path_that_no_name_can_hold_gets_no_advice(put: Put) -> None:
    with pytest.raises(InputError, match="is that output_tokens") as caught:
        load(put("prompt_tokens,completion_tokens\n5,6\n", "a,b.csv"))
    assert "give it as" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("prompt_tokens=usage.nothing", "column usage.nothing is missing: no row has it"),
        (
            "prompt_tokens=usage.promt_tokens",
            "usage.promt_tokens is missing: no row has it; did you mean usage.prompt_tokens",
        ),
        ("prompt_tokens=usage.prompt_tokens,session_id=who.id", "column who.id is missing: no row has it"),
        ("prompt_tokens=usage.prompt_tokens,arrival=usage.at", "column usage.at is missing"),
        ("prompt_tokens=use.prompt_tokens", "column use.prompt_tokens is missing among 'ts, usage, who'"),
        ("prompt_tokens=usage", "line 1, usage: .* is not a number"),
    ],
)
def test_what_the_file_lacks_is_named(put: Put, option: str, said: str) -> None:
    path = put(lines(USAGE), "gateway.jsonl")
    with pytest.raises(InputError, match=said):
        load(f"seqsched:file={path},{option},output_tokens=usage.completion_tokens")


@pytest.mark.parametrize("also", ["arrival_s", "arrival", "timestamp", "start_time_us"])
def test_the_named_arrival_times_win_over_any_other(put: Put, also: str) -> None:
    path = put(f"{also},prompt_tokens,output_tokens,sent_ms\n0,100,5,0\n700,200,6,2500\n", "t.csv")
    trace = load(f"seqsched:file={path},arrival=sent_ms")
    assert trace.arrival_s is not None and trace.arrival_s.tolist() == [0, 2.5]
    assert trace.read_as == "sent_ms read as milliseconds"
    assert trace.notes[-1] == f"columns not used: {also}"


def test_a_column_may_be_named_beside_its_own_use(put: Put) -> None:
    path = put("prompt_tokens,output_tokens,session_id\n100,5,a\n200,6,b\n", "t.csv")
    trace = load(f"seqsched:file={path},user=session_id")
    assert trace.user is not None and trace.user.tolist() == ["a", "b"]
    assert trace.session_id is not None and trace.session_id.tolist() == ["a", "b"]


def test_what_knows_of_lengths_is_held_against_them_where_it_is_named(put: Put) -> None:
    path = put("prompt_tokens,total_tokens\n100,105\n200,206\n", "t.csv")
    with pytest.raises(InputError, match="is total_tokens in every row, prompt and answer together"):
        load(f"seqsched:file={path},output_tokens=total_tokens")


def test_totals_in_the_object_of_a_length_are_held_against_it(put: Put) -> None:
    rows = [{"usage": {"in": n, "out": 5, "total_tokens": n + 5, "cached_tokens": n // 2}} for n in (10, 30)]
    path = put(lines(rows), "t.jsonl")
    with pytest.raises(InputError, match=r"output_tokens: is usage\.total_tokens in every row, prompt and"):
        load(f"seqsched:file={path},prompt_tokens=usage.in,output_tokens=usage.total_tokens")
    trace = load(f"seqsched:file={path},prompt_tokens=usage.in,output_tokens=usage.out")
    assert trace.output_tokens.tolist() == [5, 5]
    assert "cached_tokens are 50 % of the prompt tokens, which are all computed here" in trace.notes


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("prompt_tokens=n,output_tokens=n", "prompt_tokens and output_tokens are both n,"),
        ("prompt_tokens=output_tokens", "prompt_tokens and output_tokens are both output_tokens,"),
        ("arrival=prompt_tokens", "prompt_tokens and arrival are both prompt_tokens,"),
        ("arrival=sent_min", "column sent_min is in min; write it in seconds"),
        ("arrival=minutes", "column minutes is in minutes; write it in seconds"),
        ("arrival=gap_s", "column gap_s is of gaps; write their running sum"),
    ],
)
def test_names_that_contradict_are_refused(put: Put, names: str, said: str) -> None:
    path = put(
        "prompt_tokens,output_tokens,n,sent_min,minutes,gap_s\n100,5,7,0,0,1\n200,6,8,1,1,1\n", "t.csv"
    )
    with pytest.raises(InputError, match=said):
        load(f"seqsched:file={path},{names}")


def test_keys_lie_in_the_json_text_of_a_cell_too(put: Put) -> None:
    usage = '"{""in"": 100, ""out"": {""n"": 5}}"'
    path = put(f'id,usage\n1,{usage}\n2,"{{""in"": 200, ""out"": {{""n"": 6}}}}"\n', "t.csv")
    trace = load(f"seqsched:file={path},prompt_tokens=usage.in,output_tokens=usage.out.n")
    assert trace.prompt_tokens.tolist() == [100, 200] and trace.output_tokens.tolist() == [5, 6]
    for cell in ("{", "[1]", "5", "", "{" * 100_000):
        broken = put(f"id,usage\n1,{usage}\n2,{cell}\n", "broken.csv")
        with pytest.raises(InputError, match=r"row 2, usage\.out\.n: empty"):
            load(f"seqsched:file={broken},prompt_tokens=usage.in,output_tokens=usage.out.n")


@pytest.mark.parametrize("outer", ["attributes", "resource.attributes"])
def test_keys_may_have_points_of_their_own(put: Put, outer: str) -> None:
    rows = [{outer: {"gen_ai.usage.input_tokens": n, "gen_ai.usage": {"output_tokens": 5}}} for n in (7, 8)]
    path = put(lines(rows), "otel.jsonl")
    with pytest.raises(InputError, match="is that prompt_tokens") as caught:
        load(path)
    name = str(caught.value).partition('give it as "')[2].partition('"')[0]
    trace = load(name)
    assert trace.prompt_tokens.tolist() == [7, 8] and trace.output_tokens.tolist() == [5, 5]


def test_a_renamed_table_is_the_other_under_our_names(put: Put) -> None:
    path = put(lines([{"a": {"b": {"c": 1}}, "d": 2.5}, {"a": {"b": {"c": "x"}, "e": 4}, "d": 3}]), "t.jsonl")
    table = Renamed(open_table(path, lambda _: True), {"deep": "a.b.c", "flat": "d", "rare": "a.e"})
    assert table.columns == ("deep", "flat", "rare", "a", "d") and table.of_file == {"a", "d"}
    assert (
        table.called("deep") == "a.b.c" and table.called("a") == "a" and table.where(1) == f"{path}, line 2"
    )
    assert table.raw("deep") == [1, "x"] and table.numbers("deep") is None
    flat = table.numbers("flat")
    assert flat is not None and flat.tolist() == [2.5, 3] and table.raw("rare") == [None, 4]


def test_paths_of_a_record_are_the_keys_within_its_objects() -> None:
    deep: dict[str, Any] = {}
    deep["again"] = deep
    assert list(paths({"a": 1, "b": {"c": 2, "d": {"e": []}}})) == ["b.c", "b.d", "b.d.e"]
    assert len(list(paths(deep))) == 4  # however deep it goes on


def test_arrival_times_keep_the_unit_of_their_name() -> None:
    form = Seqsched("f", arrival="meta.sent_us", user="who")
    assert form.sources == {"arrival_us": "meta.sent_us", "user": "who"}
    assert Seqsched("f").sources == {}
