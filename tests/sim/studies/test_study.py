"""Studies that run in parts: each part once, whatever becomes of its process; the same rows in any way."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import traces
from sim.hardware.profile import Profile
from sim.perception.predictors import Noisy
from sim.studies.cases import Case
from sim.studies.gain_map import gain_map
from sim.studies.load_curves import load_curves
from sim.studies.prediction_error import sensitivity, variance
from sim.studies.study import Study, frame_of
from traces.errors import InputError
from traces.trace import Trace

DEADLY = """
import os
from pathlib import Path

from sim.schedulers import MicrobatchScheduler


class Deadly(MicrobatchScheduler):
    Options = None

    def __init__(self, limits, once=""):
        super().__init__(limits)
        self.once = once

    def submit(self, request, now):
        if not self.once or not Path(self.once).exists():
            if self.once:
                Path(self.once).touch()
            os._exit(9)
        super().submit(request, now)
"""


def doubled(calls: Path, number: int) -> float:
    """Twice the number; NaN for 0."""
    with calls.open("a") as file:
        file.write(f"{number}\n")
    if number < 0:
        raise ValueError("no good")
    return 2.0 * number if number else float("nan")


def run(folder: Path, numbers: list[int], settings: Mapping[str, Any] = {}, **running: Any) -> list[float]:
    with Study(state=folder / "state.jsonl", **running) as study:
        points = [{"number": number} for number in numbers]
        return study.run(doubled, folder / "calls.txt", points, settings)


def calls(folder: Path) -> list[str]:
    return (folder / "calls.txt").read_text().split()


def test_a_part_that_is_known_is_not_run_again(tmp_path: Path) -> None:
    counts: list[tuple[int, int]] = []
    assert run(tmp_path, [1, 2]) == [2, 4]
    values = run(tmp_path, [2, 0, 1], on_progress=lambda *count: counts.append(count))
    assert values[::2] == [4, 2] and values[1] != values[1] and counts == [(1, 1)]
    assert str(run(tmp_path, [0])) == "[nan]" and calls(tmp_path) == ["1", "2", "0"]


@pytest.mark.parametrize(("name", "other"), [("__version__", "0.0.0"), ("RESULTS_VERSION", 0)])
def test_parts_of_another_version_run_again(
    name: str, other: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, [1])
    monkeypatch.setattr(f"sim.studies.study.{name}", other)
    run(tmp_path, [1])
    assert calls(tmp_path) == ["1", "1"]


def test_whatever_matters_makes_another_part(profile: Profile, tmp_path: Path) -> None:
    trace = traces.load("lognormal", num_prompts=9)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("predicted,actual\n10,12\n")
    settings: list[dict[str, Any]] = [
        {},
        {"trace": "lognormal"},
        {"trace": trace},
        {"trace": replace(trace, prompt_tokens=trace.prompt_tokens + 1)},
        {"profile": profile},
        {"profile": profile.with_scale(1.1)},
        {"predictor": Noisy(sigma=0.1)},
        {"predictor": Noisy(sigma=0.2)},
        {"predictor": f"empirical:file={pairs}"},
        {"cases": [Case("a", None)]},
        {"cases": [Case("a", 7)]},
        {"set": {"scale": 2}},
    ]
    for each in settings + settings:
        run(tmp_path, [1], each)
    assert len(calls(tmp_path)) == len(settings)
    run(tmp_path, [1], {"trace": replace(trace, name="the same by another name")})
    assert len(calls(tmp_path)) == len(settings)
    pairs.write_text("predicted,actual\n11,12\n")
    run(tmp_path, [1], {"predictor": f"empirical:file={pairs}"})
    assert len(calls(tmp_path)) == len(settings) + 1


def test_a_part_that_fails_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^number -1: ValueError: no good \(test_study.py, line \d+\)"):
        run(tmp_path, [1, -1, 2])
    assert run(tmp_path, [1]) == [2] and calls(tmp_path) == ["1", "-1"]


def test_a_file_that_changes_meanwhile_ends_the_study(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("predicted,actual\n10,12\n")

    def change(ended: int, parts: int) -> None:
        pairs.write_text("predicted,actual\n11,12\n")

    with pytest.raises(InputError, match=r"predictor empirical:.*: its content here is not what it was when"):
        run(tmp_path, [1, 2], {"predictor": f"empirical:file={pairs}"}, on_progress=change)
    assert calls(tmp_path) == ["1"]


def test_two_studies_on_one_file_at_once_and_a_file_of_plans(tmp_path: Path) -> None:
    with (
        Study(state=tmp_path / "state.jsonl"),
        pytest.raises(InputError, match="another process is writing it"),
    ):
        run(tmp_path, [1])
    (tmp_path / "state.jsonl").write_text(json.dumps({"key": "a", "observation": {}}) + "\n")
    with pytest.raises(InputError, match="line 1: not a line that `seqsched plot` wrote"):
        run(tmp_path, [1])


def test_rows_stand_in_the_order_of_the_parts() -> None:
    assert frame_of([[{"a": 1}, {"a": 2}], [], [{"a": 3}]]).a.tolist() == [1, 2, 3]


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A policy from outside that ends its process whenever it is used."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "mortal", None)
    del sys.modules["mortal"]
    (tmp_path / "mortal.py").write_text(DEADLY)
    return "mortal:Deadly"


def test_a_study_survives_a_process_that_dies_and_names_a_part_that_always_does(
    deadly: str, profile: Profile, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"rates": (5.0, 50.0), "num_seeds": 1, "num_prompts": 30, "profile": profile}
    mortal = f"{deadly}:once={tmp_path / 'has_died'}"
    frame = load_curves("alpaca-vicuna", policies=[mortal], jobs=2, **settings)
    assert (tmp_path / "has_died").exists()
    assert frame.equals(load_curves("alpaca-vicuna", policies=[mortal], **settings))
    with pytest.raises(InputError, match=r"^rate \d+.0, seed 0: the process that ran it died"):
        load_curves("alpaca-vicuna", policies=[deadly], jobs=2, **settings)


def test_every_study_goes_on_from_its_file_to_the_same_rows(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few: dict[str, Any] = {"num_prompts": 40, "profile": profile, "state": tmp_path / "state.jsonl"}

    def frames() -> list[Any]:
        cases = (Case("rich", None), Case("scarce", 200))
        return [
            load_curves("alpaca-vicuna", rates=(5.0, 50.0), num_seeds=1, **few),
            gain_map("alpaca-vicuna", cases=cases, loads=(1.2,), sigmas=(0.0,), num_seeds=1, **few),
            sensitivity("alpaca-vicuna", sigmas=(0.0, 0.5), num_seeds=1, **few),
            variance("alpaca-vicuna", **few)[0],
        ]

    first = frames()
    kept = (tmp_path / "state.jsonl").read_bytes()
    (tmp_path / "state.jsonl").write_bytes(kept[:-30])
    last = frames()
    assert all(a.equals(b) for a, b in zip(first, last, strict=True))
    assert (tmp_path / "state.jsonl").read_bytes() == kept
    monkeypatch.setattr("sim.scenario.scenario.Scenario.run", None)
    assert all(a.equals(b) for a, b in zip(first, frames(), strict=True))


def test_a_trace_in_memory_is_as_good_as_its_name(profile: Profile) -> None:
    settings: dict[str, Any] = {"rates": (5.0,), "num_seeds": 1, "profile": profile, "num_prompts": 40}
    trace: Trace = traces.load("alpaca-vicuna")
    assert load_curves(trace, **settings).equals(load_curves("alpaca-vicuna", **settings))
