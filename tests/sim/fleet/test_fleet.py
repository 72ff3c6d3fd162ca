"""Small fleets with asserted logs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import simulate
from sim.fleet.routers import ROUTERS
from sim.hardware.profile import Profile
from sim.scenario.scenario import scenario
from tests.sim.flat_machine import flat_machine
from tests.sim.fleet.small import (
    COLUMNS,
    ONE_AT_A_TIME,
    column,
    log,
    made,
    outages,
    run,
    with_machines,
)
from traces.errors import InputError

# Failures


def test_a_failed_replicas_request_is_computed_again_from_its_prompt_elsewhere(tmp_path: Path) -> None:
    result = run(made([10, 10]), replicas=2, router="round-robin", failures=outages(tmp_path, (0, 4.5, 20.0)))
    assert log(result) == [
        (0, (0,), 4, 0.0, 4.5),  # the fifth iteration is lost
        (1, (1,), 5, 0.0, 5.0),  # the one in progress at 4.5 is ended
        (1, (0,), 5, 5.0, 10.0),
        (1, (), 5, 10.0, 15.0),
    ]
    assert result.batches[2].chunks == ((10, True),)
    assert column(result, "finish_s") == [15.0, 10.0]
    assert column(result, "first_token_s") == [6.0, 1.0]
    assert column(result, "scheduled_s") == [0.0, 0.0]
    assert (column(result, "reroutes"), column(result, "replica")) == ([1, 0], [1, 1])
    assert column(result, "attempts") == [2, 1]
    assert result.tokens.recomputed == 4 and result.summary["reroutes"] == 1
    table = result.replicas
    assert table.failures.tolist() == [1, 0] and table.down_s.tolist() == [10.5, 0.0]
    assert table.busy_s.tolist() == [4.5, 15.0] and table.completed.tolist() == [0, 2]


@pytest.mark.parametrize("router", ROUTERS.names)
def test_a_request_waits_while_nobody_is_up(router: str, tmp_path: Path) -> None:
    failures = outages(tmp_path, (0, 0.0, 7.0), (1, 1.0, 9.0))
    result = run(made([3, 3], [0.0, 2.0]), replicas=2, router=router, failures=failures, startup_s=0.5)
    # The first loses its first second on replica 1; both start when replica 0 is there again.
    assert column(result, "finish_s") == [10.5, 10.5]
    assert column(result, "reroutes") == [1, 0]
    assert result.replicas.down_s.tolist() == [7.5, 8.5]


def test_a_padded_batch_that_is_cut_off_is_run_again(tmp_path: Path) -> None:
    result = run(
        made([5, 8]), "vanilla", replicas=2, router="round-robin", failures=outages(tmp_path, (1, 3.5, 99.0))
    )
    assert log(result) == [(1, (1,), 3, 0.0, 3.5), (0, (0,), 5, 0.0, 5.0), (0, (1,), 8, 5.0, 13.0)]
    assert column(result, "attempts") == [1, 2] and column(result, "scheduled_s") == [0.0, 0.0]
    assert result.tokens.recomputed == 3


def test_a_batch_that_is_cut_off_in_its_prefill_has_computed_nothing(tmp_path: Path) -> None:
    result = run(made([5]), "vanilla", replicas=2, failures=outages(tmp_path, (0, 0.25, 99.0)))
    assert log(result) == [(0, (0,), 0, 0.0, 0.25), (1, (0,), 5, 0.25, 5.25)]
    assert result.batches[0].prefill_end_s == 0.25


def test_what_failed_goes_before_what_waits(tmp_path: Path) -> None:
    result = run(
        made([10, 10, 3, 3]),
        ONE_AT_A_TIME,
        replicas=2,
        router="shared-queue",
        failures=outages(tmp_path, (0, 5.0, 99.0)),
    )
    assert column(result, "finish_s") == [20.0, 10.0, 23.0, 26.0]


def test_replicas_that_fail_again_as_they_come_back(tmp_path: Path) -> None:
    failures = outages(tmp_path, (0, 1.0, 2.0), (0, 2.0, 4.0), (0, 4.0, 4.5))
    result = run(made([3]), failures=failures)
    assert column(result, "finish_s") == [7.5] and result.replicas.failures.tolist() == [3]
    assert result.replicas.down_s.tolist() == [3.5]


@pytest.mark.parametrize("router", ROUTERS.names)
def test_all_fail_at_the_same_time(router: str, tmp_path: Path) -> None:
    failures = outages(tmp_path, *((k, 2.5, 4.0) for k in range(3)))
    result = run(made([4, 4, 4]), replicas=3, router=router, failures=failures)
    assert column(result, "finish_s") == [8.0, 8.0, 8.0]


def test_a_failure_at_the_very_end_of_an_answer(tmp_path: Path) -> None:
    """Just before it the answer is lost, just after it is not; at the same time the request ends once."""
    for down, ends in ((np.nextafter(3.0, 0), {8.0}), (3.0, {3.0, 8.0}), (np.nextafter(3.0, 9), {3.0})):
        result = run(made([3]), failures=outages(tmp_path, (0, float(down), 5.0)))
        assert column(result, "finish_s")[0] in ends and result.summary["completed"] == 1


@pytest.mark.parametrize("replicas", [1, 2])
def test_an_error_of_a_policy_is_not_taken_for_the_end_of_all_events(replicas: int) -> None:
    class Unfinished:
        wake_at = upper_quantile = None

        def __init__(self, limits: Any) -> None:
            pass

        def submit(self, request: Any, now: float) -> None:
            pass

        def next_work(self, now: float) -> Any:
            raise NotImplementedError("no batch yet")

        record = drain = submit

    message = r"policy Unfinished\.next_work raised NotImplementedError: no batch yet \(test_fleet\.py, line"
    with pytest.raises(InputError, match=message):
        simulate(made([4]), policy=Unfinished, profile=flat_machine(), replicas=replicas)


def test_who_fails_too_often_to_serve_anything_says_so() -> None:
    with pytest.raises(InputError, match="mtbf_s must be longer"):
        run(made([500]), mtbf_s=0.5, mttr_s=0.1)


# Queues and routes


def test_a_shared_queue_is_first_come_first_served() -> None:
    result = run(made([4, 2, 2, 2, 1, 1]), ONE_AT_A_TIME, replicas=2, router="shared-queue")
    assert column(result, "scheduled_s") == [0.0, 0.0, 2.0, 4.0, 4.0, 5.0]


def test_a_shared_queue_gives_to_who_has_the_fewest_requests() -> None:
    result = run(made([9, 9, 3, 3], [0, 0, 1, 1]), replicas=3, router="shared-queue")
    assert column(result, "replica") == [0, 1, 2, 0]


@settings(max_examples=40)
@given(
    output=st.lists(st.integers(1, 30), min_size=1, max_size=30),
    gaps=st.lists(st.floats(0, 6), min_size=30, max_size=30),
    replicas=st.integers(2, 4),
    places=st.integers(1, 3),
)
def test_nobody_has_a_free_place_while_a_request_waits_in_the_shared_queue(
    output: list[int], gaps: list[float], replicas: int, places: int
) -> None:
    """A second at most, the iteration in progress, lies between a free place and its being taken; but for
    that they start in the order in which they came.
    """
    arrival = np.cumsum(gaps[: len(output)])
    result = run(
        made(output, arrival), f"continuous:max_num_seqs={places}", replicas=replicas, router="shared-queue"
    )
    t = result.requests
    instants = sorted({b.start_s for b in result.batches})
    assert (t.scheduled_s.cummax() - t.scheduled_s).max() <= (0 if places == 1 else 1)
    for i in t.index:
        for now in (x for x in instants if t.arrival_s[i] + 1 < x < t.scheduled_s[i]):
            runs = t[(t.scheduled_s <= now) & (now < t.finish_s)]
            assert runs.replica.value_counts().tolist() == [places] * replicas


@pytest.mark.parametrize("policy", ["vanilla:batch_size=4", "sequence:group_size=4,vbs=off,batch_size=4"])
def test_padded_policies_take_a_batch_from_a_shared_queue(policy: str) -> None:
    result = run(made([2] * 12), policy, replicas=2, router="shared-queue", predictor="oracle")
    sizes = [len(b.request_ids) for b in result.batches if b.kind == "PaddedBatch"]
    assert max(sizes) == 4 and len(sizes) <= 4


@pytest.mark.parametrize("router", ROUTERS.names)
def test_a_prompt_goes_to_the_machine_that_holds_it(router: str, tmp_path: Path) -> None:
    for name, tokens in (("small", 320), ("large", 1600)):
        flat_machine(1.0, tokens, name).save(tmp_path / f"{name}.json")
    fleet = f"{tmp_path}/small.json*3;{tmp_path}/large.json"
    trace = made([9] * 8, prompt=[100, 1000, 100, 900, 100, 100, 1100, 9000])
    result = simulate(trace, policy="continuous", fleet=fleet, router=router, max_new_tokens=100)
    t = result.requests
    assert t.status.tolist() == ["completed"] * 7 + ["rejected"]
    assert "prompt + max_new_tokens (9100) exceeds the KV capacity" in t.reason[7]
    assert set(t.replica[[1, 3, 6]]) == {3}
    assert result.replicas.profile.tolist() == ["small"] * 3 + ["large"]
    assert result.summary["replicas"] == 4 and result.summary["profile"] == fleet


@pytest.mark.parametrize("router", ROUTERS.names)
def test_a_prompt_waits_while_the_machine_that_holds_it_is_down(router: str, tmp_path: Path) -> None:
    shared = scenario(
        made([3, 3, 3], [1.0, 1.0, 2.0], prompt=[900, 10, 10]),
        profile=flat_machine(),
        router=router,
        max_new_tokens=10,
        failures=outages(tmp_path, (1, 0.0, 6.0)),
    )
    result = with_machines(shared, [flat_machine(kv_tokens=320), flat_machine(kv_tokens=1600)]).run(
        "continuous", log=True
    )
    assert column(result, "finish_s") == [9.0, 4.0, 5.0]
    assert column(result, "replica") == [1, 0, 0]


def test_a_client_counts_its_requests_over_all_replicas() -> None:
    result = run(made([5] * 9), ONE_AT_A_TIME, replicas=3, router="round-robin", max_concurrency=3)
    assert column(result, "arrival_s") == [0.0] * 3 + [5.0] * 3 + [10.0] * 3
    assert column(result, "finish_s") == [5.0] * 3 + [10.0] * 3 + [15.0] * 3
    assert result.summary["max_concurrent_requests"] == 3


@pytest.mark.parametrize("router", ROUTERS.names)
@pytest.mark.parametrize("bound", [1, 4])
def test_max_concurrency_holds_with_failures_too(router: str, bound: int) -> None:
    result = run(
        made([7] * 40), replicas=3, router=router, max_concurrency=bound, mtbf_s=30.0, mttr_s=5.0, seed=3
    )
    assert result.summary["completed"] == 40 and result.summary["reroutes"] > 0
    assert result.summary["max_concurrent_requests"] == bound


@pytest.mark.parametrize("policy", ["vanilla", "sequence", "continuous", "continuous:max_num_seqs=3"])
def test_round_robin_over_an_offline_trace_is_as_many_separate_runs(policy: str, profile: Profile) -> None:
    rng = np.random.default_rng(5)
    prompt, output = rng.integers(1, 100, 61), rng.integers(1, 200, 61)
    whole = run(made(output, prompt=prompt), policy, replicas=3, router="round-robin", profile=profile)
    for k in range(3):
        alone = run(made(output[k::3], prompt=prompt[k::3]), policy, profile=profile, max_new_tokens=512)
        for name in COLUMNS:
            assert (whole.columns[name][k::3] == alone.columns[name]).all()
        mine = [b for b in whole.batches if b.replica == k]
        assert [tuple(i // 3 for i in b.request_ids) for b in mine] == [b.request_ids for b in alone.batches]
        assert [b.iterations for b in mine] == [b.iterations for b in alone.batches]


def test_a_request_that_will_be_turned_away_is_no_load_for_longer_than_it_takes() -> None:
    """Both are full until 50; who is too large for the first leaves it with the iteration in progress."""
    shared = scenario(
        made([50, 50, 5, 5], [0, 0, 5, 10], prompt=[10, 10, 5000, 10]),
        profile=flat_machine(kv_tokens=1600),
        router="least-requests",
        replicas=2,
        max_new_tokens=50,
    )
    result, stepped = (shared.run(ONE_AT_A_TIME, log=True, leap=leap) for leap in (True, False))
    assert column(result, "status")[2] == "rejected"
    assert column(result, "replica") == column(stepped, "replica")
    assert (column(result, "finish_s")[:2], column(result, "finish_s")[3]) == ([50.0, 50.0], 55.0)


def test_a_fleet_says_what_it_is_and_same_inputs_give_the_same_bytes() -> None:
    trace = made([5, 9, 2, 30] * 10, np.arange(40) * 0.7)
    for router in ROUTERS.names:
        results = [run(trace, replicas=3, router=router, mtbf_s=20.0, mttr_s=3.0, seed=2) for _ in range(2)]
        assert results[0].to_json() == results[1].to_json()
        assert results[0].requests.to_csv() == results[1].requests.to_csv()
        assert results[0].replicas.to_csv() == results[1].replicas.to_csv()
        s = results[0].summary
        assert (s["replicas"], s["router"]) == (3, router)
        assert results[0].replicas.completed.sum() == s["completed"] == 40


def test_changing_the_router_moves_no_arrival_prediction_or_failure() -> None:
    trace = made([25] * 60)
    how = {"replicas": 4, "mtbf_s": 40.0, "mttr_s": 5.0, "request_rate": 0.8, "predictor": "tuned"}
    policy = "continuous:order=shortest-predicted"
    results = [
        run(trace, policy, router=router, **how) for router in ("random", "round-robin", "power-of-two")
    ]
    for before, after in itertools.pairwise(results):
        assert (before.columns["arrival_s"] == after.columns["arrival_s"]).all()
        assert (before.columns["predicted_tokens"] == after.columns["predicted_tokens"]).all()
