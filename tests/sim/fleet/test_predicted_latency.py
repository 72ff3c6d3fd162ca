"""llm-d's rule: whom it chooses by headroom, and that it knows no more than a router may."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sim import simulate
from sim.fleet.outlook import Job, Latency
from sim.fleet.predicted_latency import PredictedLatency
from sim.fleet.routing import Machine, RouterContext
from sim.request import KnownBlocks, Request
from sim.scenario.scenario import scenario
from sim.testing import check_router
from tests.sim.flat_machine import flat_machine
from tests.sim.fleet.test_outlook import Steps
from tests.sim.fleet.test_prefix_routers import turns
from traces.errors import InputError
from traces.loading import load

BOUNDS = {"ttft_ms": 200.0, "tpot_ms": 20.0}


class Stated:
    """Expects what it is told to, in milliseconds; busy unless `is_idle`."""

    def __init__(self, ttft_ms: float, tpot_ms: float, is_idle: bool = False) -> None:
        self.latency, self.is_idle = Latency(ttft_ms / 1e3, tpot_ms / 1e3), is_idle

    def __len__(self) -> int:
        return not self.is_idle

    def expected(self, job: Job, now: float) -> Latency:
        return self.latency


def router(*replicas: Stated, seed: int = 0, shares: bool = False, **options: Any) -> PredictedLatency:
    machines = (Machine(Steps(), shares_prefixes=shares),) * len(replicas)
    context = RouterContext(
        len(replicas), np.random.default_rng(seed), lambda *_: 1.0, machines=machines, now=lambda: 2.0
    )
    made = PredictedLatency(context, **options)
    made.outlooks = list(replicas)  # type: ignore[arg-type]
    return made


def request(id: int = 0, **more: Any) -> Request:
    return Request(id, 2.0, 100, 512, predicted_tokens=50, **more)


def choice(*replicas: Stated, **options: Any) -> int:
    return router(*replicas, **{"pick": "best", "explore": 0.0, **BOUNDS, **options}).choose(request())


def test_of_those_within_the_bounds_that_with_the_least_headroom_or_the_most() -> None:
    replicas = Stated(190, 25), Stated(150, 12), Stated(80, 12), Stated(210, 12)
    assert choice(*replicas) == 1
    assert choice(*replicas, strategy="most") == 2


def test_headroom_is_blended_as_shares_of_what_it_spans() -> None:
    """TTFT 0.8, TPOT 0.2: of 100 to 180 ms and 10 to 18 ms."""
    replicas = Stated(180, 10), Stated(120, 18), Stated(100, 12)
    assert choice(*replicas) == 0  # 0.8 * 0 + 0.2 * 1 against 0.6 and 0.95
    assert choice(*replicas, tpot_weight=3.2) == 1  # by 0.2 and 0.8: 0.8 against 0.15 and 0.8
    assert choice(Stated(150, 18), Stated(150, 12)) == 0  # the same TTFT: TPOT alone counts


@pytest.mark.parametrize("strategy", ["least", "most"])
def test_beyond_the_bounds_an_idle_one_then_who_misses_tpot_then_ttft_then_both(strategy: str) -> None:
    both, late, slow = Stated(300, 30), Stated(201, 12), Stated(80, 90)
    idle = Stated(900, 90, is_idle=True)
    assert choice(both, late, slow, idle, strategy=strategy) == 3
    assert choice(both, late, slow, strategy=strategy) == 2
    assert choice(both, late, strategy=strategy) == 1
    assert choice(both, Stated(320, 21), Stated(299, 29), strategy=strategy) == 2


def test_without_bounds_the_lowest_latency_and_the_idle_first() -> None:
    none = {"ttft_ms": None, "tpot_ms": None}
    assert choice(Stated(90, 10), Stated(80, 10), **none) == 1
    assert choice(Stated(90, 10), Stated(95, 10, is_idle=True), **none) == 1


def test_a_bound_alone_leaves_the_other_out() -> None:
    replicas = Stated(150, 900), Stated(120, 5)
    assert choice(*replicas, tpot_ms=None) == 0
    assert choice(*replicas, ttft_ms=None) == 1


def test_bounds_that_a_request_states_take_the_place_of_the_routers() -> None:
    """Packed under 200 ms, or under 90; where only its bound on TPOT is its own, the other stays."""
    replicas = Stated(190, 12), Stated(85, 30), Stated(80, 12)
    to = router(*replicas, pick="best", explore=0.0, **BOUNDS)
    assert to.choose(request()) == 0
    assert to.choose(request(ttft_slo_ms=90.0)) == 2
    assert to.choose(request(ttft_slo_ms=90.0, tpot_slo_ms=40.0)) == 1
    assert to.choose(request(tpot_slo_ms=11.0)) == 2  # none meets it: that which misses TPOT alone, by least
    assert to.choose(request()) == 0


def test_without_bounds_of_its_own_a_router_goes_by_those_that_are_stated() -> None:
    replicas = Stated(190, 12), Stated(150, 12), Stated(80, 12)
    to = router(*replicas, pick="best", explore=0.0)
    assert to.choose(request()) == 2
    assert to.choose(request(ttft_slo_ms=160.0)) == 1
    assert to.choose(request(tpot_slo_ms=20.0)) == 0  # alike by the only bound


def test_a_buffer_factor_multiplies_bounds() -> None:
    """As llm-d's producer: 55 ms is within a bound of 50 at 1.2, and 45 is not at 0.8; TTFT has its own."""
    one, none = {"tpot_ms": 50.0, "ttft_ms": None}, {"tpot_ms": None}
    replicas = Stated(150, 55), Stated(150, 45), Stated(150, 20)
    assert choice(*replicas, **one) == 1
    assert choice(*replicas, **one, slo_buffer_factor=1.2) == 0
    assert choice(*replicas, **one, slo_buffer_factor=0.8) == 2
    late = Stated(190, 12), Stated(150, 12), Stated(80, 12)
    assert choice(*late, **none) == 0
    assert choice(*late, **none, ttft_buffer_factor=0.8) == 1
    assert choice(*late, **none, slo_buffer_factor=0.1) == 0


def test_the_strictest_request_at_a_replica_bounds_tpot_there() -> None:
    """As llm-d's producer has it: 35 ms is within the bound of 50, but not where one with 30 runs."""
    to = router(Stated(150, 35), Stated(100, 35), pick="best", explore=0.0)
    strict, lax = request(1, tpot_slo_ms=30.0), request(2, tpot_slo_ms=60.0)
    mine = request(ttft_slo_ms=200.0, tpot_slo_ms=50.0)
    assert to.choose(mine) == 0  # the least headroom
    for place, each in ((0, strict), (0, lax), (1, lax)):
        to.strictest[place].add(each.id, each.tpot_slo_ms)
    assert to.choose(mine) == 1
    assert to.choose(request(ttft_slo_ms=200.0)) == 1  # though it has no bound on TPOT itself
    to.strictest[0].remove(strict.id)
    assert to.choose(mine) == 0 and to.strictest[0].least(None) == 60.0
    to.strictest[0].remove(lax.id)
    assert to.strictest[0].least(None) is None


def test_a_bound_on_the_whole_answer_is_one_on_its_first_token() -> None:
    """50 tokens: at 10 ms they take 490 after the first, at 20 ms 980."""
    replicas = Stated(190, 10), Stated(100, 20), Stated(60, 10)
    to = router(*replicas, pick="best", explore=0.0)
    assert to.choose(request(e2el_slo_ms=700.0)) == 0
    assert to.choose(request(e2el_slo_ms=600.0)) == 2
    assert to.choose(request(e2el_slo_ms=1085.0)) == 1
    assert to.choose(request(e2el_slo_ms=1085.0, ttft_slo_ms=90.0)) == 2
    whole = router(*replicas, pick="best", explore=0.0, e2el_ms=600.0)
    assert whole.choose(request()) == 2


def test_stated_bounds_alike_choose_as_the_routers_own() -> None:
    how: dict[str, Any] = {"request_rate": 60.0, "replicas": 3, "policy": "continuous"}
    how |= {"predictor": "oracle", "profile": "h200-vicuna-7b"}
    trace = load("lognormal:prompt_median=500,output_median=80", num_prompts=300)
    bounds = {"ttft_slo_ms": np.full(300, 150.0), "tpot_slo_ms": np.full(300, 20.0)}
    stated = simulate(replace(trace, **bounds), router="predicted-latency", **how)
    for_all = simulate(trace, router="predicted-latency:ttft_ms=150,tpot_ms=20", **how)
    assert stated.columns["replica"].tolist() == for_all.columns["replica"].tolist()
    assert (
        stated.columns["replica"].tolist()
        != simulate(trace, router="predicted-latency", **how).columns["replica"].tolist()
    )


def test_time_since_arrival_counts() -> None:
    """What comes back from a failed replica a second later is late everywhere."""
    to = router(Stated(10, 12), Stated(20, 12), pick="best", explore=0.0, **BOUNDS)
    back = Request(0, 1.0, 100, 512, predicted_tokens=50)
    assert (to.choose(request()), to.choose(back)) == (1, 0)


def test_lots_are_drawn_by_score() -> None:
    """Chi-square at 1 in 1,000: least headroom scores 1, 0.75 and 0."""
    to = router(Stated(180, 12), Stated(160, 12), Stated(100, 12), explore=0.0, **BOUNDS)
    chosen = Counter(to.choose(request(k)) for k in range(7000))
    assert chosen[2] == 0
    assert stats.binomtest(chosen[0], 7000, 4 / 7).pvalue > 1e-3


def test_a_share_goes_beyond_the_bounds_so_that_no_replica_is_forgotten() -> None:
    to = router(Stated(100, 12), Stated(300, 12), explore=0.1, **BOUNDS)
    chosen = Counter(to.choose(request(k)) for k in range(5000))
    assert stats.binomtest(chosen[1], 5000, 0.1).pvalue > 1e-3
    assert {choice(Stated(100, 12), Stated(150, 12), explore=1.0)} == {1}


def test_a_prompt_stays_where_it_is_found_unless_that_is_too_late() -> None:
    blocks = KnownBlocks([1, 2, 3, 4], [25, 50, 75, 100])
    for penalty_ms, place in ((500.0, 0), (50.0, 1), (0.0, 0)):
        to = router(
            Stated(180, 12), Stated(100, 12), shares=True, pick="best", strategy="most",
            affinity_penalty_ms=penalty_ms, **BOUNDS,
        )  # fmt: skip
        to.pictures[0].add(blocks, 0.0)
        assert to.choose(request(blocks=blocks)) == place
    for more in ({"affinity": 0.0}, {"shares": False}):
        options = {"pick": "best", "strategy": "most", "shares": True, **BOUNDS, **more}
        to = router(Stated(180, 12), Stated(100, 12), **options)
        to.pictures[0].add(blocks, 0.0)
        assert to.choose(request(blocks=blocks)) == 1


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("ttft_ms=-1", "ttft_ms: -1.0 must be at least 0 and finite"),
        ("tpot_ms=nan", "tpot_ms: 'nan' is not a number"),
        ("explore=2", "explore: 2.0 must be at most 1"),
        ("slo_buffer_factor=0", "slo_buffer_factor: 0.0 must be above 0"),
        ("ttft_buffer_factor=-1", "ttft_buffer_factor: -1.0 must be at least 0 and finite"),
        ("e2el_ms=inf", "e2el_ms: inf must be at least 0 and finite"),
        ("affinity=1.5", "affinity: 1.5 must be at most 1"),
        ("ttft_weight=0,tpot_weight=0", "ttft_weight: 0.0 and tpot_weight: 0.0; one of them must be above 0"),
        ("strategy=fit", "'fit' must be one of least, most"),
    ],
)
def test_bad_options_end_in_one_line(option: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        simulate("fixed", num_prompts=2, replicas=2, router=f"predicted-latency:{option}")


def test_an_order_is_refused() -> None:
    with pytest.raises(InputError, match=r"no lengths; a length is needed"):
        simulate("fixed", num_prompts=4, predictor="rank:tau=1", replicas=2, router="predicted-latency")


@pytest.mark.parametrize("options", ["", ":pick=best", ":ttft_ms=300,tpot_ms=20,strategy=most"])
def test_it_is_a_router(options: str) -> None:
    check_router(f"predicted-latency{options}", num_worlds=6)


def test_true_lengths_are_not_known() -> None:
    """All are sent before the first ends; lengths that differ change nothing but when they end."""
    places = []
    for tokens in (100, 400):
        ran = simulate(
            f"fixed:output_tokens={tokens},prompt_tokens=20",
            num_prompts=60,
            request_rate=200.0,
            max_new_tokens=512,
            predictor="constant:tokens=50",
            policy="continuous",
            replicas=3,
            router="predicted-latency:ttft_ms=60,tpot_ms=9",
        )
        assert ran.requests.arrival_s.max() < ran.requests.e2el_ms.min() / 1e3
        places.append(list(ran.requests.replica))
    assert places[0] == places[1] and len(set(places[0])) == 3


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    options=st.sampled_from(["", ",pick=best", ",strategy=most", ",affinity=0,explore=0.2"]),
    kv_blocks=st.sampled_from([None, 60]),
    policy=st.sampled_from(["prefix_caching=on", "async_scheduling=on", "order=shortest-remaining"]),
    failures=st.sampled_from([{}, {"mtbf_s": 2.0, "mttr_s": 0.3}]),
)
def test_a_fleet_leaps_as_it_steps(
    seed: int, options: str, kv_blocks: int | None, policy: str, failures: dict[str, float]
) -> None:
    world = scenario(
        turns(seed, 8), profile=flat_machine(0.07), replicas=3, kv_blocks=kv_blocks,
        router=f"predicted-latency:ttft_ms=400,tpot_ms=80{options}", predictor="oracle", **failures,
    )  # fmt: skip
    leaps, steps = (world.run(f"continuous:{policy}", leap=leap) for leap in (True, False))
    assert leaps.summary["completed"] == len(leaps.requests)
    for name in ("scheduled_s", "first_token_s", "finish_s", "replica"):
        left, right = leaps.requests[name].to_numpy(), steps.requests[name].to_numpy()
        assert np.allclose(left, right, rtol=1e-9)


def test_bounds_are_met_more_often_than_by_work_alone() -> None:
    """A fleet that is nearly full, with long and short prompts."""
    shares = {}
    for name in ("least-requests", "least-predicted-work", "predicted-latency:strategy=most,pick=best,{}"):
        ran = simulate(
            "lognormal:prompt_median=500,prompt_sigma=1.2,output_median=150",
            num_prompts=1500,
            request_rate=40.0,
            replicas=3,
            policy="continuous",
            predictor="oracle",
            profile="h200-vicuna-7b",
            router=name.format("ttft_ms=150,tpot_ms=20"),
            goodput=["ttft:150", "tpot:20"],
        )
        shares[name] = ran.summary["request_goodput"] / ran.summary["request_throughput"]
    *others, own = shares.values()
    assert own > max(others) + 0.03
