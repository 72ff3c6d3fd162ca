"""Each rule alone, fed with made-up requests: where it sends them, and what it makes of loads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scipy import stats

from sim import simulate
from sim.fleet.routers import ROUTERS, LeastLoaded, LeastPredictedWork, quantile_tokens, router_maker
from sim.fleet.routing import Machine, Router, RouterContext
from sim.request import Request
from tests.sim.fleet.test_outlook import Steps
from traces.errors import InputError

BY_QUANTILE = "least-predicted-work:quantile=0.7"
SENDING = (*(name for name in ROUTERS.names if name != "shared-queue"), BY_QUANTILE)


def work_s(request: Request, replica: int, answer_tokens: int | None = None) -> float:
    """Replicas of which each is slower than the one before."""
    answer = (request.predicted_tokens or 0) if answer_tokens is None else answer_tokens
    return (request.prompt_tokens + 10 * answer) * 0.0013 * (1 + replica / 7)


def make(name: str, num_replicas: int, seed: int = 0) -> Router:
    machines = (Machine(Steps()),) * num_replicas
    made = router_maker(name)(
        RouterContext(num_replicas, np.random.default_rng(seed), work_s, machines=machines)
    )
    assert made is not None
    return made


def request(id: int, prompt_tokens: int = 10, predicted: int | None = 5) -> Request:
    return Request(id, 0.0, prompt_tokens, 512, predicted_tokens=predicted)


def send(to: Router, requests: Iterable[Request]) -> list[int]:
    """Where each goes, one after the other."""
    places = []
    for r in requests:
        places.append(to.choose(r))
        to.sent(r, places[-1])
    return places


def test_round_robin_takes_turns_and_skips_what_is_down() -> None:
    to = make("round-robin", 4)
    assert send(to, map(request, range(5))) == [0, 1, 2, 3, 0]
    to.down(1)
    to.down(2)
    assert send(to, map(request, range(4))) == [3, 0, 3, 0]
    to.up(2)
    assert send(to, map(request, range(4))) == [2, 3, 0, 2]
    to.up(1)
    assert send(to, map(request, range(4))) == [3, 0, 1, 2]


def test_least_requests_counts_what_is_unfinished() -> None:
    to = make("least-requests", 3)
    a, b, c, d = map(request, range(4))
    assert send(to, [a, b, c, d]) == [0, 1, 2, 0]
    to.ended(b, 1)
    assert send(to, [request(4), request(5)]) == [1, 1]


def test_least_tokens_weighs_prompts() -> None:
    to = make("least-tokens", 2)
    assert send(to, [request(0, 100), request(1, 30), request(2, 60), request(3, 20)]) == [0, 1, 1, 1]
    assert send(to, [request(4, 1)]) == [0]


def test_least_predicted_work_weighs_the_answer_as_predicted_on_that_machine() -> None:
    to = make("least-predicted-work", 2)
    long, short = request(0, 10, 400), request(1, 10, 2)
    assert send(to, [long, short, *(request(i, 10, 2) for i in range(2, 8))]) == [0] + [1] * 7
    to.ended(long, 0)
    assert send(to, [request(8)]) == [0]


def test_least_predicted_work_by_quantile_weighs_what_an_answer_may_become() -> None:
    """Both are predicted alike; one of ten answers to the first is long."""
    risky = Request(0, 0.0, 10, 512, predicted_tokens=20, predicted_lengths=(*[1] * 9, 200))
    sure = [Request(1 + k, 0.0, 10, 512, predicted_tokens=20, predicted_lengths=(20,) * 10) for k in range(6)]
    places = {
        quantile: send(make(f"least-predicted-work{quantile}", 2), [risky, *sure])
        for quantile in ("", ":quantile=0.9", ":quantile=0.95")
    }
    assert places[""] == [0, 1, 0, 1, 0, 1, 0]
    assert places[":quantile=0.9"] == [0, 1, 0, 0, 1, 0, 1]
    assert places[":quantile=0.95"] == [0, 1, 1, 1, 1, 1, 1]


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=20).map(sorted),
    hundredths=st.integers(1, 100),
    cap=st.integers(1, 50),
)
def test_a_quantile_is_the_least_length_of_that_probability(
    lengths: list[int], hundredths: int, cap: int
) -> None:
    request = Request(0, 0.0, 10, cap, predicted_lengths=tuple(lengths))
    enough = [x for x in lengths if 100 * sum(y <= x for y in lengths) >= hundredths * len(lengths)]
    assert quantile_tokens(request, hundredths / 100) == min(enough[0], cap)


@pytest.mark.parametrize("quantile", ["0", "1.01", "-1"])
def test_a_quantile_out_of_bounds_is_refused(quantile: str) -> None:
    with pytest.raises(InputError, match=r"router least-predicted-work: quantile: .* must be above 0"):
        router_maker(f"least-predicted-work:quantile={quantile}")


@pytest.mark.parametrize("predictor", ["tuned:charge=off", "exact"])
def test_a_router_is_given_the_distribution_that_it_needs(predictor: str) -> None:
    """With perfect predictions a quantile is the prediction; else other work goes elsewhere."""
    seen: list[tuple[int, ...] | None] = []

    class Spy(LeastPredictedWork):
        def sent(self, request: Request, replica: int) -> None:
            seen.append(request.predicted_lengths)
            super().sent(request, replica)

    how: dict[str, Any] = {"num_prompts": 200, "request_rate": 20.0, "replicas": 3, "seed": 1}
    by_length, by_quantile = (
        simulate("alpaca-vicuna", policy="continuous", predictor=predictor, router=router, **how)
        for router in (Spy, lambda context: Spy(context, quantile=0.9))
    )
    assert seen[:200] == [None] * 200
    assert [len(lengths or ()) for lengths in seen[200:]] == [20] * 200
    is_same = list(by_length.requests.replica) == list(by_quantile.requests.replica)
    assert is_same == (predictor == "exact")


def test_a_router_by_quantile_refuses_an_order() -> None:
    how = {"num_prompts": 4, "predictor": "rank:tau=1", "replicas": 2, "router": BY_QUANTILE}
    with pytest.raises(InputError, match=r"no lengths; a distribution is needed"):
        simulate("fixed", policy="continuous", **how)


def test_random_is_uniform_over_those_that_are_up() -> None:
    """Chi-square at 1 in 1,000, the seed fixed: 8 replicas, then without two of them."""
    to = make("random", 8)
    assert stats.chisquare(np.bincount(send(to, map(request, range(8000))))).pvalue > 1e-3
    to.down(7)
    to.down(2)
    counts = Counter(send(to, map(request, range(6000))))
    assert sorted(counts) == [0, 1, 3, 4, 5, 6]
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3
    to.up(2)
    assert 2 in send(to, map(request, range(100)))


def test_power_of_two_draws_two_different_ones_alike_often() -> None:
    """Of three with 0, 1 and 2 requests the last is never chosen, the first in two draws of three."""
    chosen: Counter[int] = Counter()
    to = make("power-of-two", 3)
    for id, place in enumerate([1, 2, 2]):
        to.sent(request(id), place)
    for _ in range(3000):
        chosen[to.choose(request(9))] += 1
    assert chosen[2] == 0
    assert stats.binomtest(chosen[0], 3000, 2 / 3).pvalue > 1e-3


def test_power_of_two_with_one_or_two_left() -> None:
    to = make("power-of-two", 3)
    to.down(0)
    to.sent(request(0), 1)
    assert {to.choose(request(1)) for _ in range(50)} == {2}
    to.down(2)
    assert {to.choose(request(1)) for _ in range(50)} == {1}


def test_power_of_two_balances_better_than_random() -> None:
    """N requests on n replicas: log log n at the fullest, where random has log n / log log n."""
    fullest = {
        name: max(Counter(send(make(name, 2000), map(request, range(2000)))).values())
        for name in ("random", "power-of-two")
    }
    assert fullest["power-of-two"] <= 4 < fullest["random"]


@pytest.mark.parametrize("name", ["random", "power-of-two"])
def test_the_same_seed_chooses_the_same(name: str) -> None:
    first, second, other = (send(make(name, 9, seed), map(request, range(200))) for seed in (1, 1, 2))
    assert first == second != other


@pytest.mark.parametrize("name", SENDING)
@settings(max_examples=40)
@given(events=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30))
def test_only_what_is_up_is_chosen(name: str, events: list[tuple[int, bool]]) -> None:
    to, up = make(name, 4), {0, 1, 2, 3}
    for id, (replica, is_up) in enumerate(events):
        if is_up and replica not in up:
            to.up(replica)
            up.add(replica)
        elif not is_up and replica in up and len(up) > 1:
            to.down(replica)
            up.remove(replica)
        assert set(send(to, [request(id)])) <= up


def test_a_shared_queue_sends_nothing_and_what_is_unknown_is_refused() -> None:
    assert router_maker("shared-queue")(RouterContext(3, np.random.default_rng(0), work_s)) is None
    with pytest.raises(InputError, match="router 'fastest' is not one of round-robin, random"):
        router_maker("fastest")


class Histories(RuleBasedStateMachine):
    """Whatever comes, goes, fails and comes back, the choice is the minimum of the loads added up anew."""

    @initialize(name=st.sampled_from(["least-requests", "least-tokens", "least-predicted-work", BY_QUANTILE]))
    def begin(self, name: str) -> None:
        made = make(name, 5)
        assert isinstance(made, LeastLoaded)
        self.router, self.name, self.num_sent = made, name, 0
        self.up = set(range(5))
        self.there: dict[int, tuple[Request, int]] = {}

    def loads(self) -> dict[int, int]:
        weigh: dict[str, Callable[[Request, int], int]] = {
            "least-requests": lambda r, k: 1,
            "least-tokens": lambda r, k: r.prompt_tokens,
            "least-predicted-work": lambda r, k: round(work_s(r, k) * 10**9),
            BY_QUANTILE: lambda r, k: round(work_s(r, k, self.seventh_of_ten(r)) * 10**9),
        }
        loads = dict.fromkeys(self.up, 0)
        for r, k in self.there.values():
            loads[k] += weigh[self.name](r, k)
        return loads

    @staticmethod
    def seventh_of_ten(r: Request) -> int | None:
        return None if r.predicted_lengths is None else r.predicted_lengths[6]

    @rule(
        prompt=st.integers(1, 50),
        predicted=st.one_of(st.none(), st.integers(0, 300)),
        lengths=st.one_of(st.none(), st.lists(st.integers(1, 512), min_size=10, max_size=10).map(sorted)),
    )
    def arrive(self, prompt: int, predicted: int | None, lengths: list[int] | None) -> None:
        r = request(self.num_sent, prompt, predicted)
        r.predicted_lengths = None if lengths is None else tuple(lengths)
        self.num_sent += 1
        loads, chosen = self.loads(), self.router.choose(r)
        assert chosen == min(loads, key=lambda k: (loads[k], k))
        self.router.sent(r, chosen)
        self.there[r.id] = (r, chosen)

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        r, k = self.there.pop(data.draw(st.sampled_from(sorted(self.there))))
        self.router.ended(r, k)

    @precondition(lambda self: len(self.up) > 1)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """Its requests go elsewhere at once."""
        down = data.draw(st.sampled_from(sorted(self.up)))
        self.up.remove(down)
        self.router.down(down)
        lost = [r for r, k in self.there.values() if k == down]
        for r in lost:
            del self.there[r.id]
        for r in lost:
            loads, chosen = self.loads(), self.router.choose(r)
            assert chosen == min(loads, key=lambda k: (loads[k], k))
            self.router.sent(r, chosen)
            self.there[r.id] = (r, chosen)

    @precondition(lambda self: len(self.up) < 5)
    @rule(data=st.data())
    def repair(self, data: st.DataObject) -> None:
        back = data.draw(st.sampled_from(sorted(set(range(5)) - self.up)))
        self.up.add(back)
        self.router.up(back)

    @invariant()
    def loads_are_what_is_there(self) -> None:
        if hasattr(self, "router"):
            assert self.router.loads == self.loads()
            assert min(self.router.loads.values()) >= 0
            assert set(self.router.weights) == set(self.there)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40)


def test_old_entries_do_not_pile_up() -> None:
    to = make("least-tokens", 3)
    assert isinstance(to, LeastLoaded)
    for id in range(5000):
        (k,) = send(to, [r := request(id, 1 + id % 17)])
        if id % 5:
            to.ended(r, k)
    assert len(to.heap) <= 64 + 4 * 3
