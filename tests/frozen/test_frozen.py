"""Commands end with the bytes that are on record, and those change with the results version alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sim.version import RESULTS_VERSION, __version__
from tests.frozen import rewrite
from tests.frozen.commands import OUTPUTS, TEXTS
from tests.frozen.frozen import HERE, digest, frozen_output, frozen_text, masked, path_of, read_history

REWRITE = "python -m tests.frozen.rewrite"


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_output_is_the_frozen_one(name: str) -> None:
    assert frozen_output(name) == path_of(name, "outputs").read_text(encoding="utf-8"), (
        f"a figure of `seqsched {OUTPUTS[name]}` changes; where that is meant, raise RESULTS_VERSION in "
        f'sim/version.py and run {REWRITE} --reason "why"'
    )


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_is_the_frozen_one(name: str) -> None:
    assert frozen_text(name) == path_of(name, "texts").read_text(encoding="utf-8"), (
        f"the words of `seqsched {TEXTS[name]}` change; where that is meant, run {REWRITE}"
    )


def test_every_file_belongs_to_a_command() -> None:
    for folder, commands in (("outputs", OUTPUTS), ("texts", TEXTS)):
        assert {path.stem for path in (HERE / folder).iterdir()} == set(commands)


def test_the_outputs_are_those_on_record_under_the_results_version() -> None:
    history = read_history()
    assert list(history) == list(range(1, RESULTS_VERSION + 1))
    assert all(entry["reason"] and entry["outputs"] for entry in history.values())
    found = {name: digest(path_of(name, "outputs").read_text(encoding="utf-8")) for name in OUTPUTS}
    assert found == history[RESULTS_VERSION]["outputs"], (
        "frozen outputs differ from those on record: they change with RESULTS_VERSION of sim/version.py alone"
    )


def test_neighbouring_results_versions_differ_in_reason() -> None:
    reasons = [entry["reason"] for entry in read_history().values()]
    assert len(set(reasons)) == len(reasons)


def history_of(*versions: dict[str, str]) -> dict[int, dict[str, Any]]:
    """A history whose versions 1, 2, … have these outputs."""
    return {
        number: {
            "reason": f"reason {number}",
            "outputs": {name: digest(text) for name, text in outputs.items()},
        }
        for number, outputs in enumerate(versions, 1)
    }


def test_a_command_may_be_added_under_the_same_version() -> None:
    before = history_of({"a": "1"})
    assert rewrite.next_history(before, 1, {"a": "1", "b": "2"}, None) == history_of({"a": "1", "b": "2"})


def test_a_raised_version_takes_all_outputs_and_keeps_the_old_record() -> None:
    before = history_of({"a": "1", "b": "2"})
    after = rewrite.next_history(before, 2, {"a": "3", "b": "2"}, "reason 2")
    assert after == history_of({"a": "1", "b": "2"}, {"a": "3", "b": "2"})


@pytest.mark.parametrize(
    ("version", "outputs", "reason", "said"),
    [
        (1, {"a": "3", "b": "2"}, None, "a: changed, but on record under results version 1"),
        (1, {"a": "1"}, None, "b: changed, but on record under results version 1"),
        (1, {"a": "1", "b": "2"}, "another", "has its reason already"),
        (2, {"a": "3", "b": "2"}, None, "say with --reason why"),
        (3, {"a": "3", "b": "2"}, "why", "RESULTS_VERSION 3 in sim/version.py must be 1 or 2"),
        (0, {"a": "3", "b": "2"}, "why", "RESULTS_VERSION 0 in sim/version.py must be 1 or 2"),
    ],
)
def test_what_is_on_record_is_not_rewritten(
    version: int, outputs: dict[str, str], reason: str | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        rewrite.next_history(history_of({"a": "1", "b": "2"}), version, outputs, reason)


def test_a_refused_rewrite_writes_nothing_and_ends_in_status_one(monkeypatch: pytest.MonkeyPatch) -> None:
    (name, *_), before = OUTPUTS, {path: path.read_bytes() for path in HERE.rglob("*.*") if path.is_file()}
    monkeypatch.setattr(rewrite, "OUTPUTS", {name: OUTPUTS[name]})
    monkeypatch.setattr(rewrite, "TEXTS", {})
    monkeypatch.setattr(rewrite, "frozen_output", lambda name: "another figure")
    with pytest.raises(SystemExit) as ended:
        rewrite.main([])
    assert "raise RESULTS_VERSION in sim/version.py" in str(ended.value.code)
    assert {path: path.read_bytes() for path in HERE.rglob("*.*") if path.is_file()} == before


@pytest.mark.parametrize("key", ["0123456789abcdef", "3506837288e00036"])
def test_what_depends_on_machine_day_or_release_is_masked(key: str) -> None:
    line = {
        "version": __version__,
        "key": key,
        "date": "2026-01-31",
        "mean": 1 / 3,
        "answer": "2 replicas of h200-vicuna-7b carry 10.5 requests/s",
        "slo": "ttft_p90 ≤ 800 ms",
    }
    assert json.loads(masked(json.dumps(line, ensure_ascii=False), words=False)) == {
        "version": "VERSION",
        "key": "KEY",
        "date": "DATE",
        "mean": 0.3333333333,
        "answer": "TEXT 2 10.5",
        "slo": "ttft_p90 ≤ 800 ms",
    }
