"""Classes of SLOs: drawn by share, alike for the same seed, one for each session, and refused in one line."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sim.cli import main
from traces import InputError, Trace
from traces.formats import read
from traces.inspection import describe
from traces.slo_classes import parse_classes, with_slo_classes

NAN = math.nan
TEXT = "chat:share=70%,ttft=300,tpot=40ms;batch:share=0.3,e2el=30s"


def plain(n: int) -> Trace:
    rows = np.arange(n)
    return Trace("plain", rows, rows + 5, np.full(n, 20), arrival_s=rows * 0.5)


def bounds(trace: Trace, row: int) -> tuple[float | None, ...]:
    columns = (trace.ttft_slo_ms, trace.tpot_slo_ms, trace.e2el_slo_ms)
    return tuple(None if c is None or math.isnan(c[row]) else float(c[row]) for c in columns)


def test_each_request_states_the_bounds_of_its_class() -> None:
    trace = with_slo_classes(plain(2000), TEXT, 3)
    assert trace.slo_class is not None
    of_class = {"chat": (300.0, 40.0, None), "batch": (None, None, 30_000.0)}
    assert [bounds(trace, k) for k in range(2000)] == [of_class[name] for name in trace.slo_class]
    num_chat = int((trace.slo_class == "chat").sum())
    assert stats.binomtest(num_chat, 2000, 0.7).pvalue > 1e-3
    assert f"classes of SLOs are drawn, seed 3: chat {num_chat / 2000:.1%}, batch" in trace.notes[-1]


def test_a_share_that_is_left_out_is_the_rest_and_what_is_left_states_nothing() -> None:
    rest = parse_classes("a:share=0.25,ttft=5;b:e2el=9")
    assert [(each.share, dict(each.bounds_ms)) for each in rest] == [(0.25, {"ttft": 5}), (0.75, {"e2el": 9})]
    trace = with_slo_classes(plain(4000), "a:share=0.25,ttft=5;free:share=0.25", 0)
    assert trace.slo_class is not None and trace.ttft_slo_ms is not None and trace.e2el_slo_ms is None
    shares = {name: float((trace.slo_class == name).mean()) for name in ("a", "free", "")}
    assert shares == pytest.approx({"a": 0.25, "free": 0.25, "": 0.5}, abs=0.03)
    assert (np.isnan(trace.ttft_slo_ms) == (trace.slo_class != "a")).all()


def test_they_take_the_place_of_what_the_trace_states() -> None:
    stated = replace(plain(50), tpot_slo_ms=np.full(50, 7.0), slo_class=np.array(["old"] * 50, dtype=object))
    trace = with_slo_classes(stated, "a:ttft=5", 0)
    assert trace.tpot_slo_ms is None and trace.slo_class is not None and set(trace.slo_class) == {"a"}


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60))
def test_the_same_seed_draws_the_same_and_a_shorter_trace_is_the_beginning(seed: int, n: int) -> None:
    whole, part = with_slo_classes(plain(60), TEXT, seed), with_slo_classes(plain(n), TEXT, seed)
    assert whole.slo_class is not None and part.slo_class is not None
    assert whole.slo_class[:n].tolist() == part.slo_class.tolist()


def test_all_turns_of_a_session_are_of_one_class() -> None:
    ids = np.array([k % 40 for k in range(400)])
    trace = with_slo_classes(replace(plain(400), session_id=ids), TEXT, 1)
    assert trace.slo_class is not None
    assert all(len(set(trace.slo_class[ids == k])) == 1 for k in range(40)) and len(set(trace.slo_class)) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "slo_classes: at least one is needed (0 given)"),
        ("a:share=1.5,ttft=5", "slo_classes: a: share 1.5 must be above 0 and at most 1"),
        ("a:share=0,ttft=5", "slo_classes: a: share 0 must be above 0 and at most 1"),
        ("a:share=nan,ttft=5", "slo_classes: a: share nan must be above 0 and at most 1"),
        ("a:share=half,ttft=5", "slo_classes: a: share 'half' is not a number, such as 0.7 or 70%"),
        ("a:share=0.7,ttft=5;b:share=0.5,ttft=6", "the shares sum to 1.2, which must be at most 1"),
        ("a:share=1,ttft=5;b:ttft=6", "the shares sum to 1, which must be below 1, for b has none"),
        ("a:ttft=5;b:ttft=6", "slo_classes: a and b have no share, 1 class may leave it out"),
        ("a:share=0.2,ttft=5;a:share=0.1,ttft=6", "slo_classes: a is given twice, 1 is allowed"),
        ("a:share=0.2", "bounds none of ttft, tpot, e2el, as in chat:share=0.7,ttft=300,tpot=40"),
        ("a:share=0.2,ttfr=5", "a: 'ttfr' is not one of share, ttft, tpot, e2el; did you mean ttft?"),
        ("a:share=0.2,ttft=soon", "a: ttft 'soon' is not a number of milliseconds, nor one with a"),
        ("a:share=0.2,ttft=0", "slo_classes: a: ttft 0 must be above 0 ms and finite"),
        ("a:share=0.2,e2el=inf", "slo_classes: a: e2el inf must be above 0 ms and finite"),
        ("a:share", "slo_classes 'a:share': 'share' is not key=value"),
        ("all:share=1e-9,ttft=5", "slo_classes: 'all' is not a name of 1 to 64 printable characters other"),
        (" all :ttft=5", "slo_classes: 'all' is not a name of 1 to 64 printable characters other than all"),
        ("a:share=0.2,ttft=5; a :ttft=6", "slo_classes: a is given twice, 1 is allowed"),
        (" :ttft=5", "slo_classes ':ttft=5': the name is empty"),
        ("a\nb:ttft=5", "slo_classes: 'a\\nb' is not a name of 1 to 64 printable characters"),
        (f"{'x' * 65}:ttft=5", "... is not a name of 1 to 64 printable characters"),
        ("a:ttft=-5", "slo_classes: a: ttft -5 must be above 0 ms and finite"),
        ("a:ttft=nan", "slo_classes: a: ttft nan must be above 0 ms and finite"),
        ("a:share=101%,ttft=5", "slo_classes: a: share 101% must be above 0 and at most 1"),
        ("a:share=-5%,ttft=5", "slo_classes: a: share -5% must be above 0 and at most 1"),
        ("a:ttft=5,ttft=6", "ttft is given twice"),
        (";".join(f"c{k}:share=0.001,ttft=5" for k in range(101)), "101 classes are given, 100 are"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        with_slo_classes(plain(3), text, 0)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_commands_write_them_and_they_read_back(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    drawn, converted = tmp_path / f"drawn.{suffix}", tmp_path / f"converted.{suffix}"
    text = "chat:share=50%,ttft=300,tpot=40;batch:share=30%,e2el=30s"
    more = ["--slo-classes", text, "--seed", "7"]
    main(["trace", "generate", "fixed", "--num-prompts", "60", "--out", str(drawn), *more])
    trace = read(drawn)
    assert trace.slo_class is not None and set(trace.slo_class) == {"chat", "batch", ""}
    own = with_slo_classes(read(drawn), text, 7)
    for column in ("slo_class", "ttft_slo_ms", "tpot_slo_ms", "e2el_slo_ms"):
        np.testing.assert_array_equal(getattr(trace, column), getattr(own, column))
    main(["trace", "convert", str(drawn), str(converted), "--slo-classes", "one:ttft=5"])
    again = read(converted)
    assert again.slo_class is not None and set(again.slo_class) == {"one"} and again.e2el_slo_ms is None


def test_a_row_without_a_class_is_of_none(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(
        '{"prompt_tokens":5,"output_tokens":6,"slo_class":"chat"}\n{"prompt_tokens":5,"output_tokens":6}\n'
    )
    trace = read(path)
    assert trace.slo_class is not None and trace.slo_class.tolist() == ["chat", ""]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_row_without_a_deadline_has_none(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path, again = tmp_path / "t.jsonl", tmp_path / f"again.{suffix}"
    path.write_text(
        '{"arrival_s":7,"prompt_tokens":5,"output_tokens":6,"deadline_s":9.5}\n'
        '{"arrival_s":8,"prompt_tokens":5,"output_tokens":6}\n'
    )
    main(["trace", "convert", str(path), str(again)])
    for trace in (read(path), read(again)):
        assert trace.deadline_s is not None and trace.deadline_s.tolist() == [2.5, math.inf]
        assert describe(trace).loc["deadline_s", "count"] == 1
    path.write_text(path.read_text().replace("9.5", '"soon"'))
    with pytest.raises(InputError, match="line 1, deadline_s: 'soon' is not a number"):
        read(path)


def test_of_more_classes_than_a_trace_may_have_the_rarest_are_one(tmp_path: Path) -> None:
    names = ["", *(f"c{k}" for k in range(120)), *(f"c{k}" for k in range(60, 120)), "other"]
    path = tmp_path / "log.csv"
    path.write_text("prompt_tokens,output_tokens,slo_class\n" + "".join(f"5,5,{name}\n" for name in names))
    trace = read(path)
    assert trace.slo_class is not None and len(set(trace.slo_class.tolist()) - {""}) == 100
    pairs = list(zip(names, trace.slo_class.tolist(), strict=True))
    assert all(
        told in (name, "other") and (told == name or name[1:] in map(str, range(60))) for name, told in pairs
    )
    lost = sum(told != name for name, told in pairs)
    said = (
        f"slo_class has 121 classes, 100 are told apart: the rarest, of {lost} of 182 requests, are 'other'"
    )
    assert said in trace.notes and lost == 21


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["a", "all"], "t, row 2, slo_class: 'all' is not a name of 1 to 64 printable characters other than"),
        (["", "a\nb"], r"t, row 2, slo_class: 'a\\nb' is not a name"),
        (["x" * 65], f"t, row 1, slo_class: '{'x' * 63} is not a name"),
        ([f"c{k}" for k in range(101)], "t: slo_class has 101 classes, 100 are allowed"),
    ],
)
def test_a_trace_refuses_classes_that_cannot_be_told_apart(classes: list[str], said: str) -> None:
    ones = np.ones(len(classes), dtype=int)
    with pytest.raises(InputError, match=said):
        Trace("t", np.arange(len(classes)), ones, ones, slo_class=np.array(classes, dtype=object))
