"""The scripts on a real model take the workload flags of the simulator, and pass them on."""

from __future__ import annotations

from dataclasses import fields

import pytest

from real.options import ReplayFlags
from sim.scenario.scenario import scenario
from sim.scenario.settings import WorkloadSettings, read_settings
from traces.errors import InputError


def test_every_setting_of_a_workload_is_a_flag_and_reaches_the_scenario() -> None:
    changed = {
        "num_prompts": 7,
        "sample_seed": 3,
        "request_rate": 2.0,
        "burstiness": 0.5,
        "prompt_scale": 2.0,
        "output_scale": 0.5,
        "max_concurrency": 2,
        "max_new_tokens": 30,
        "goodput": ("ttft:100",),
    }
    others = {"time_scale": 0.5}  # it has no effect beside a rate
    assert {*changed, *others, "trace"} == {each.name for each in fields(WorkloadSettings)}
    given = read_settings("fixed", ReplayFlags(trace="fixed", seed=4, **changed).settings())
    assert {name: getattr(given, name) for name in changed} == changed and given.seed == 4
    assert ReplayFlags(device="cpu", **others).settings()["time_scale"] == 0.5
    shared = scenario("fixed", **ReplayFlags(trace="fixed", **changed).settings())
    assert (
        shared.max_concurrency == 2 and shared.goodput_ms == {"ttft": 100.0} and shared.max_new_tokens == 30
    )
    with pytest.raises(InputError, match=r"time_scale: 0\.5"):
        scenario("fixed", **ReplayFlags(trace="fixed", **{**changed, **others}).settings())


def test_the_default_trace_is_cut_to_what_the_device_can_do() -> None:
    assert ReplayFlags(device="cpu").settings()["num_prompts"] == 192
    assert ReplayFlags(trace="fixed").settings()["num_prompts"] is None
