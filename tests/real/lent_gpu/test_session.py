"""Parts under their time limits, in a process that may hang or die."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from real.lent_gpu.report import markdown
from real.lent_gpu.session import LOAD, Outcome, Part, State, run_parts
from traces.errors import InputError

PARTS = [Part("first", 10.0), Part("second", 1.0), Part("third", 10.0)]


def play(link: Any, parts: Sequence[Part], options: Mapping[str, Any]) -> None:
    """Each part does what the options say: answers, stops before its end, fails, hangs or dies."""
    if options.get(LOAD) == "dies":
        os._exit(1)
    link.send(("begin", LOAD))
    status = options.get(LOAD, "done")
    link.send(("end", LOAD, status, {}, "no such model" if status == "failed" else ""))
    for part in parts:
        link.send(("begin", part.name))
        deed = options.get(part.name, "done")
        if deed == "hangs":
            time.sleep(60)
        if deed == "dies":
            os._exit(139)
        why = "ValueError: bad" if deed == "failed" else ""
        link.send(("end", part.name, deed, {} if why else {"speed": 1.5}, why))
        if why:
            return


def call(folder: Path, max_seconds: float = 30.0, **options: str) -> tuple[State, list[str]]:
    """A session; its state, and the parts that it tried."""
    state, tried = State(folder / "state.json", {"model": "tiny"}), []
    run_parts(
        PARTS,
        state,
        play,
        options,
        max_seconds=max_seconds,
        on_outcome=lambda name, outcome: tried.append(name),
        method="fork",
    )
    return state, tried


def test_parts_run_in_their_order_and_what_they_found_is_in_the_file(tmp_path: Path) -> None:
    state, tried = call(tmp_path)
    assert tried == ["first", "second", "third"] and state.left(PARTS) == []
    parts = json.loads((tmp_path / "state.json").read_text())["parts"]
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(tried, "done")
    assert parts["third"]["result"] == {"speed": 1.5}


@pytest.mark.parametrize(
    ("deed", "status", "why"),
    [
        ("failed", "failed", "ValueError: bad"),
        ("hangs", "late", "no answer after 1 s"),
        ("dies", "died", "its process ended without a word"),
    ],
)
def test_a_part_that_goes_wrong_costs_itself_alone(deed: str, status: str, why: str, tmp_path: Path) -> None:
    begin = time.monotonic()
    state, tried = call(tmp_path, second=deed)
    assert tried == ["first", "second", "third"] and time.monotonic() - begin < 20
    assert state.outcomes["second"].status == status and state.outcomes["second"].why == why
    assert state.outcomes["third"].status == "done"
    assert why in markdown(state, PARTS)


def test_a_second_call_goes_on_and_comes_last_to_what_went_wrong(tmp_path: Path) -> None:
    call(tmp_path, first="failed", third="unfinished")
    state, tried = call(tmp_path)
    assert tried == ["third", "first"] and state.left(PARTS) == []
    assert call(tmp_path)[1] == []


def test_the_time_of_a_session_is_kept_and_what_it_cut_is_unfinished(tmp_path: Path) -> None:
    begin = time.monotonic()
    state, tried = call(tmp_path, max_seconds=5.6, second="hangs", first="done")
    assert time.monotonic() - begin < 10 and tried == ["first", "second"][: len(tried)]
    assert "third" not in state.outcomes
    assert call(tmp_path, max_seconds=1.0)[1] == []


def test_a_model_that_cannot_be_loaded_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be loaded: no such model"):
        call(tmp_path, load="failed")
    assert not (tmp_path / "state.json").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"about": {}}', '{"about": {}, "parts": {"a": {"x": 1}}}'])
def test_a_file_that_is_no_state_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(InputError, match="is no state of a session"):
        State(tmp_path / "state.json", {})


def test_a_state_of_another_machine_is_not_gone_on_with(tmp_path: Path) -> None:
    State(tmp_path / "state.json", {"device": "cpu"}).note("first", Outcome("done", 1.0))
    with pytest.raises(InputError, match="take another folder"):
        State(tmp_path / "state.json", {"device": "H200"})
