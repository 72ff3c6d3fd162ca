"""The arena: who meets whom, on the same requests, and what its figures are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sim.hardware.profile import Profile
from sim.results.paired import NONE, gains
from sim.scenario.scenario import scenario
from sim.studies.arena import POLICIES, PREDICTORS, SESSION_POLICIES, arena, default_policies, entries
from sim.studies.cases import Case
from traces.errors import InputError

SHORTEST, LTR = "continuous:order=shortest-predicted", "continuous:order=ltr"
ASKS = "continuous:order=shortest-remaining,preempt_until=0.8,ask_every=20"


def test_each_policy_meets_the_predictors_that_can_serve_it(profile: Profile) -> None:
    shared = scenario("fixed", num_prompts=2, profile=profile)
    policies = ["continuous:order=mlfq", LTR, "continuous:order=gittins", ASKS]
    assert entries(policies, ["exact", "progressive", "rank:tau=0.5"], shared) == [
        ("continuous:order=mlfq", NONE),
        (LTR, "exact"),
        (LTR, "rank:tau=0.5"),
        ("continuous:order=gittins", "exact"),
        (ASKS, "progressive"),
    ]
    with pytest.raises(
        InputError, match=r"gittins: none of the predictors gives what it needs \(distribution\)"
    ):
        entries(policies, ["rank:tau=0.5"], shared)


def run(profile: Profile, **how: Any) -> pd.DataFrame:
    settings: dict[str, Any] = {
        "cases": (Case("scarce", 200),),
        "policies": [SHORTEST, "continuous:order=gittins", "continuous"],
        "predictors": ["exact", "constant:tokens=50"],
        "loads": (0.3, 1.5),
        "num_seeds": 2,
        "num_prompts": 300,
        "profile": profile,
        **how,
    }
    return arena("alpaca-vicuna", **settings)


def test_arena(profile: Profile, tmp_path: Path) -> None:
    frame = run(profile, state=tmp_path / "state.jsonl")
    assert len(frame) == 2 * 2 * (1 + 2 + 2 + 1)
    again = run(profile, state=tmp_path / "state.jsonl", on_progress=lambda *_: pytest.fail("run again"))
    pd.testing.assert_frame_equal(frame, again)
    gain = gains(frame, "mean_e2el_ms").set_index(["load", "policy", "predictor"])["gain"]
    assert gain[1.5, "continuous", NONE] == 1, "nothing is gained over itself"
    assert gain[1.5, SHORTEST, "exact"] > 1.2 > gain[1.5, SHORTEST, "constant:tokens=50"] > 0.9
    rows = frame[(frame.load == 1.5) & (frame.seed == 0)].set_index(["policy", "predictor"])
    best = rows.loc[(SHORTEST, "exact")]
    base = rows[~rows.index.duplicated()].loc[("continuous", NONE)]
    assert best.slowdown_short < base.slowdown_short and base.harmed == 0 < best.harmed < 0.5
    assert (frame.slowdown_short >= 1).all() and (frame.wait_max_s > 0).all()
    again_computed = rows.preemptions > 0
    assert (rows.recomputed_share[again_computed] > 0).all()
    assert ((frame.recomputed_share >= 0) & (frame.recomputed_share < 1)).all()


def test_the_default_predictors_can_all_be_made(profile: Profile) -> None:
    assert len(entries([LTR], PREDICTORS, scenario("fixed", num_prompts=2, profile=profile))) == 4


def test_sessions_have_policies_and_times_of_their_own(profile: Profile) -> None:
    talk = "sessions:turns=3,think_s=1"
    assert default_policies("fixed", {"num_prompts": 2, "profile": profile}) == POLICIES
    settings: Any = {"num_prompts": 9, "profile": profile, "burstiness": 0.5}
    assert default_policies(talk, settings) == POLICIES + SESSION_POLICIES
    holding = SESSION_POLICIES[-1]
    frame = arena(
        talk,
        cases=(Case("scarce", 200),),
        policies=[holding],
        predictors=["exact", "rank:tau=0.5", "constant:tokens=9"],
        loads=(1.2,),
        num_seeds=1,
        num_prompts=90,
        profile=profile,
    )
    assert frame.predictor.tolist() == [NONE, "exact", "constant:tokens=9"], "a rank is no wait"
    assert (frame.mean_session_ms > frame.mean_e2el_ms).all() and (frame.p99_session_ms > 0).all()
