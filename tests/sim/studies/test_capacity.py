"""Capacities and idle machines, by which loads and bounds are measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim.hardware.profile import Profile
from sim.simulation import simulate
from sim.studies.capacity import capacity, check, idle_bound
from traces.errors import InputError
from traces.trace import Trace

FEW: dict[str, Any] = {"num_prompts": 150}


def test_capacity_is_what_is_done_while_there_is_a_queue(profile: Profile) -> None:
    n, tokens = 400, 50
    trace = Trace("same", np.arange(n), np.full(n, 10), np.full(n, tokens))
    found = capacity(trace, policy="vanilla", profile=profile)
    whole = simulate(trace, policy="vanilla", profile=profile).summary["request_throughput"]
    assert found == pytest.approx(whole, rel=0.05)
    more = capacity(trace, policy="continuous", profile=profile)
    assert more > 2 * found


def test_capacity_is_the_mean_over_seeds(profile: Profile) -> None:
    each = [capacity("alpaca-vicuna", profile=profile, seed=k, **FEW) for k in (3, 4)]
    assert capacity("alpaca-vicuna", profile=profile, seed=3, num_seeds=2, **FEW) == np.mean(each)


def test_idle_bound_is_met_on_an_idle_machine(profile: Profile) -> None:
    bound = idle_bound("alpaca-vicuna", rate=10.0, profile=profile, **FEW)
    idle = simulate(policy="continuous", profile=profile, request_rate=0.1, goodput=bound, **FEW).summary
    assert idle["request_goodput"] == idle["request_throughput"]


def test_what_is_checked_stays_as_it_was() -> None:
    given = {"seed": 3, "request_rate": None, "kv_blocks": 7}
    assert check(1, given, rates=(1.0,)) == (3, {"kv_blocks": 7})
    assert given == {"seed": 3, "request_rate": None, "kv_blocks": 7}


def test_capacity_needs_a_seed(profile: Profile) -> None:
    with pytest.raises(InputError, match="num_seeds: 0 must be at least 1"):
        capacity("fixed", num_seeds=0, profile=profile)


def test_a_machine_on_which_nothing_completes_has_no_capacity(profile: Profile) -> None:
    with pytest.raises(InputError, match="0 requests completed"):
        capacity("fixed", profile=profile, kv_blocks=1)
    with pytest.raises(InputError, match="no request completed"):
        idle_bound("fixed", rate=1.0, profile=profile, kv_blocks=1)
