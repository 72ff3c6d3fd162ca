"""Runs that are carried out once however often they are asked for."""

from __future__ import annotations

import re
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.hardware.profile import Profile
from sim.parallel.runner import Workers
from sim.planning.runs import Runs, run_searches
from sim.planning.search import Search
from sim.planning.slo import Observation, parse_slo
from sim.planning.verdict import Run
from sim.planning.world import OF_THE_RUN, World
from sim.scenario.settings import PlanKeywords, Settings
from traces.errors import InputError
from traces.scaling import scale_lengths
from traces.trace import Trace

SLO = parse_slo("ttft_p99:1000 e2el_mean:1000")

FRAGILE = """
import os
from pathlib import Path

from sim.schedulers import MicrobatchScheduler


class Fragile(MicrobatchScheduler):
    Options = None

    def __init__(self, limits, folder, end):
        super().__init__(limits)
        self.mended, self.end = Path(folder) / "mended", end

    def submit(self, request, now):
        if self.end == "badly":
            raise ValueError("no good")
        if not self.mended.exists():
            if self.end == "once":
                self.mended.touch()
            os._exit(9)
        super().submit(request, now)
"""


def trace(n: int, timed: bool = True) -> Trace:
    rng = np.random.default_rng(3)
    times = np.cumsum(rng.exponential(1.0, n))
    return Trace(
        name="made up",
        request_id=np.arange(n),
        prompt_tokens=np.arange(1, n + 1),
        output_tokens=rng.integers(1, 40, n),
        arrival_s=times - times[0] if timed else None,
        max_new_tokens=40,
    )


@pytest.fixture
def world(profile: Profile) -> World:
    return World(trace(300), "continuous", (profile,))


def with_settings(world: World, **settings: Any) -> World:
    return replace(world, settings=replace(world.settings, **settings))


def test_longer_answers_are_those_of_a_trace_that_was_scaled(world: World) -> None:
    long = replace(world, length_scale=1.3).run(Run(2, 3.0, 0, 60))
    same = replace(world, source=scale_lengths(trace(300), output_scale=1.3)).run(Run(2, 3.0, 0, 60))
    assert long.summary == same.summary and long.summary != world.run(Run(2, 3.0, 0, 60)).summary


def test_a_generator_gives_every_seed_its_own_requests(profile: Profile) -> None:
    made = World("lognormal", "continuous", (profile,), burstiness=1.0)
    one, two = (made.run(Run(2, 5.0, seed, 40)) for seed in (0, 1))
    assert (one.columns["output_tokens"] != two.columns["output_tokens"]).any()
    assert set(one.columns["replica"]) == {0, 1}


def observe_all(
    wanted: list[tuple[World, Run]], state: Path | None = None, jobs: int = 1
) -> tuple[list[Observation], int]:
    """What was observed, and how many runs were simulated for it."""
    with Runs(SLO, state, Workers(jobs)) as runs:
        return runs(wanted), runs.num_simulated


def test_a_run_is_simulated_once_and_found_again_in_the_file(world: World, tmp_path: Path) -> None:
    state = tmp_path / "runs.jsonl"
    wanted = [(world, Run(k, 3.0, seed, 60)) for k in (1, 2) for seed in (0, 1)]
    observed, num_simulated = observe_all([*wanted, wanted[0]], state)
    assert num_simulated == 4 and observed[0] == observed[4]
    assert observe_all(wanted, state) == (observed[:4], 0)
    assert observe_all(wanted, jobs=2) == (observed[:4], 4)


@pytest.mark.parametrize(("name", "other"), [("__version__", "0.0.0"), ("RESULTS_VERSION", 0)])
def test_runs_of_another_version_are_simulated_again(
    name: str, other: object, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "runs.jsonl"
    wanted = [(world, Run(1, 3.0, seed, 60)) for seed in range(2)]
    observe_all(wanted, state)
    monkeypatch.setattr(f"sim.planning.runs.{name}", other)
    assert observe_all(wanted, state)[1] == 2


def test_a_line_that_was_cut_off_is_simulated_again(world: World, tmp_path: Path) -> None:
    state = tmp_path / "runs.jsonl"
    wanted = [(world, Run(1, 3.0, seed, 60)) for seed in range(3)]
    observed, _ = observe_all(wanted, state)
    whole = state.read_bytes()
    state.write_bytes(whole[:-40])
    assert observe_all(wanted, state) == (observed, 1)
    assert state.read_bytes() == whole


@pytest.mark.parametrize("content", ["not a state\n", '{"key": "a"}\n', "no newline at the end"])
def test_another_file_is_refused_and_left_alone(content: str, tmp_path: Path) -> None:
    state = tmp_path / "notes.txt"
    state.write_text(content)
    with pytest.raises(InputError, match=r"notes.txt, line 1: not a line"):
        Runs(SLO, state)
    assert state.read_text() == content


def outside(world: World, folder: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> World:
    """The world under a policy from outside, which is asked to `end` while `folder` has no file `mended`."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(sys.modules, "fragile", None)
    del sys.modules["fragile"]
    (folder / "fragile.py").write_text(FRAGILE)
    return replace(world, policy=f"fragile:Fragile:folder={folder},end={end}")


def test_a_run_whose_process_dies_is_run_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mortal = outside(world, tmp_path, monkeypatch, "once")
    wanted = [(mortal, Run(1, 3.0, seed, 60)) for seed in range(3)]
    observed, num_simulated = observe_all(wanted, tmp_path / "runs.jsonl", jobs=2)
    assert (tmp_path / "mended").exists() and num_simulated == 3
    assert observed == observe_all(wanted)[0], "it lives now, and gives the same here"


@pytest.mark.parametrize(
    ("end", "error"),
    [("always", "the process that ran it died (killed, or out of memory)"), ("badly", "ValueError: no good")],
)
def test_a_run_that_fails_is_named_and_the_others_are_kept(
    end: str, error: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = outside(world, tmp_path, monkeypatch, end)
    state = tmp_path / "runs.jsonl"
    well = [(world, Run(1, 3.0, seed, 90)) for seed in range(2)]
    with pytest.raises(InputError) as found:
        observe_all([(broken, Run(3, 2.5, 7, 60)), *well], state, jobs=2)
    assert "Fragile" in str(found.value) and error in str(found.value) and "\n" not in str(found.value)
    assert "on 3 × tiny at 2.5 requests/s, seed 7, 60 requests: " in str(found.value)
    assert observe_all(well, state)[1] == 0


def test_a_file_that_is_another_where_the_run_is_carried_out_is_named(world: World, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("predicted,actual\n10,12\n")
    made, run = with_settings(world, predictor=f"empirical:file={pairs}"), Run(1, 3.0, 0, 60)
    with Runs(SLO) as runs:
        runs.key(made, run)
        pairs.write_text("predicted,actual\n11,12\n")
        what = f"predictor empirical:file={re.escape(str(pairs))}: its content here is not what it was when"
        with pytest.raises(InputError, match=f"60 requests: {what} the plan began"):
            runs([(made, run)])


def test_every_setting_of_a_plan_makes_another_key(world: World, tmp_path: Path) -> None:
    failures = tmp_path / "failures.csv"
    failures.write_text("replica,down_s,up_s\n0,1,2\n")
    others: dict[str, Any] = {
        "predictor": "exact", "router": "round-robin", "failures": failures, "mtbf_s": 9.0, "mttr_s": 2.0,
        "kv_blocks": 99, "sample_seed": 3, "num_prompts": 7, "max_concurrency": 5, "max_new_tokens": 30,
        "startup_s": 1.0, "time_scale": 0.5, "prompt_scale": 2.0, "output_scale": 2.0, "time_unit": "ms",
        "cap": "own", "kv_tier": "cpu:1GiB@1GB/s", "block_size": 32, "slo_classes": "a:ttft=900",
    }  # fmt: skip
    assert set(others) == set(PlanKeywords.__annotations__) - {*OF_THE_RUN}
    run, runs = Run(2, 3.0, 0, 60), Runs(SLO)
    keys = {runs.key(with_settings(world, **{name: value}), run) for name, value in others.items()}
    assert len(keys | {runs.key(world, run)}) == len(others) + 1
    before = runs.key(with_settings(world, failures=failures), run)
    failures.write_text("replica,down_s,up_s\n0,1,3\n")
    assert runs.key(with_settings(world, failures=failures), run) != before


def test_settings_of_a_run_are_kept_apart_by_the_run_itself(world: World) -> None:
    run = Run(2, 3.0, 0, 60)
    assert Runs(SLO).key(world, run) != Runs(SLO).key(world, run._replace(outages=False))
    assert set(OF_THE_RUN) <= {field.name for field in fields(Settings)}


def test_anything_that_matters_makes_another_key(world: World, profile: Profile) -> None:
    run = Run(2, 3.0, 0, 60)
    worlds = [
        world,
        replace(world, policy="vanilla"),
        replace(world, burstiness=1.0),
        replace(world, length_scale=1.25),
        replace(world, machines=(profile.with_scale(1.1),)),
        replace(world, machines=(profile, profile)),
        replace(world, source=scale_lengths(trace(300), output_scale=1.1)),
        replace(world, source="lognormal"),
    ]
    runs = Runs(SLO)
    keys = {runs.key(w, run) for w in worlds} | {
        runs.key(world, Run(*other))
        for other in ((3, 3.0, 0, 60), (2, 3.1, 0, 60), (2, 3.0, 1, 60), (2, 3.0, 0, 61))
    }
    assert len(keys) == len(worlds) + 4
    assert Runs(parse_slo("ttft_p99:5")).key(world, run) not in keys
    assert Runs(parse_slo("ttft_p99:7 e2el_mean:9")).key(world, run) in keys


def test_runs_are_not_found_again_where_a_file_that_they_depend_on_has_changed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    pairs, module = tmp_path / "pairs.csv", tmp_path / "outside_policy.py"
    pairs.write_text("predicted,actual\n10,12\n")
    module.write_text("from sim.schedulers import MicrobatchScheduler as Mine\n")
    made = replace(with_settings(world, predictor="empirical:file=pairs.csv"), policy="outside_policy:Mine")
    run, runs = Run(1, 3.0, 0, 60), Runs(SLO)
    keys = [runs.key(made, run)]
    pairs.write_text("predicted,actual\n11,12\n")
    keys.append(runs.key(replace(made), run))
    module.write_text("from sim.schedulers import MicrobatchScheduler as Mine  # another\n")
    keys.append(runs.key(replace(made), run))
    assert len(set(keys)) == 3 and runs.key(replace(made), run) == keys[2]


def test_searches_side_by_side_get_their_own_answers(world: World) -> None:
    def search(number: int, steps: int) -> Search[list[int]]:
        got = []
        for step in range(steps):
            seen = yield [Run(number, 1.0, step, k) for k in range(step + 1)]
            got.append([o.measured for o in seen])
        return [number, got]  # type: ignore[list-item]

    def runs(wanted: list[tuple[World, Run]]) -> list[Observation]:
        return [
            Observation((0.0,), 0.0, 1.0, 0.0, 0.0, run.replicas * 100 + run.num_requests, 0, 0.0, 0.0, 0.0)
            for _, run in wanted
        ]

    found = run_searches([(world, search(1, 3)), (world, search(2, 1)), (world, search(3, 2))], runs)  # type: ignore[arg-type]
    assert found == [[1, [[100], [100, 101], [100, 101, 102]]], [2, [[200]]], [3, [[300], [300, 301]]]]
