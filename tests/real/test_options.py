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
        "cap": "own",
        "slo_classes": "a:ttft=900",
        "goodput": ("ttft:100",),
    }
    others = {"time_scale": 0.5, "time_unit": "ms"}  # of no use beside a rate, and for what is drawn
    assert {*changed, *others, "trace"} == {each.name for each in fields(WorkloadSettings)}
    given = read_settings("fixed", ReplayFlags(trace="fixed", seed=4, **changed).settings())
    assert {name: getattr(given, name) for name in changed} == changed and given.seed == 4
    assert others.items() <= ReplayFlags(device="cpu", **others).settings().items()
    shared = scenario("fixed", **ReplayFlags(trace="fixed", **changed).settings())
    assert (
        shared.max_concurrency == 2 and shared.goodput_ms == {"ttft": 100.0} and shared.max_new_tokens == 30
    )
    assert shared.trace.max_tokens is not None and set(shared.trace.max_tokens.tolist()) == {30}
    assert shared.trace.slo_class is not None and set(shared.trace.slo_class.tolist()) == {"a"}
    for name, value in others.items():
        with pytest.raises(InputError, match=f"{name}: {value}"):
            scenario("fixed", **ReplayFlags(trace="fixed", **{**changed, name: value}).settings())


def test_the_default_trace_is_cut_to_what_the_device_can_do() -> None:
    assert ReplayFlags(device="cpu").settings()["num_prompts"] == 192
    assert ReplayFlags(trace="fixed").settings()["num_prompts"] is None
