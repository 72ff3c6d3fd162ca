"""Over any policy and any traffic: nobody is lost or sent twice, slots are kept to, the bound holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from real.serving.arms import UNORDERED
from real.serving.executor import SlotExecutor
from real.serving.policy import slot_scheduler_maker
from sim.request import Request
from sim.results.batch_record import BatchRecord
from sim.work import Limits, Outcome, Prediction, Work
from traces.errors import InputError

POLICIES = (
    "continuous",
    "continuous:order=shortest-predicted",
    "continuous:order=shortest-remaining",
    "continuous:order=priority,aging_s=5",
    "continuous:order=fair",
    "continuous:rules=sglang",
    "continuous:rules=trtllm",
    "sequence",
    "sequence:max_wait_s=0.5",
    "sequence:max_wait_s=0.5,margin=0.9",
    "vanilla",
)


@dataclass
class World:
    """Slots in simulated time; `lengths_s`: how long each answer takes."""

    policy: str
    slots: int
    lengths_s: list[float]
    max_wait_s: float = math.inf
    now: float = 0.0
    sent: list[tuple[float, int]] = field(default_factory=list)
    dropped: dict[int, str] = field(default_factory=dict)
    decisions: list[BatchRecord] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    make: Any = None
    arms: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        make, by_level = slot_scheduler_maker(self.policy, self.slots)
        self.ends: list[tuple[float, int]] = []
        self.capacity = self.slots
        self.executor = SlotExecutor(
            [self.make or make, slot_scheduler_maker(UNORDERED, self.slots)[0]]
            if self.arms
            else [self.make or make],
            lambda: self.capacity,
            self._send,
            lambda request, reason: self.dropped.update({request.id: reason}),
            predictions=lambda rs: [Prediction(r.predicted_tokens or 0) for r in rs],
            max_wait_s=self.max_wait_s,
            is_by_level=by_level,
            on_decision=lambda level, record: self.decisions.append(record),
            on_failure=self.failures.append,
        )

    def _send(self, request: Request) -> None:
        assert request.id not in [i for _, i in self.sent], "sent twice"
        overdue = [
            other
            for other in self.executor.waiting.values()
            if other.arrival_s + self.max_wait_s <= self.now and other.arrival_s < request.arrival_s
        ]
        assert not overdue, "overtaken beyond the bound"
        self.sent.append((self.now, request.id))
        heappush(self.ends, (self.now + self.lengths_s[request.id], request.id))
        assert len(self.ends) <= self.slots

    def run(self, requests: list[Request], leaves: dict[int, float]) -> None:
        """Until all have ended; `leaves`: when a client leaves, by id."""
        events = [(r.arrival_s, 0, r.id) for r in requests] + [(t, 1, i) for i, t in leaves.items()]
        events.sort()
        left: set[int] = set()
        for turn in range(2_000):
            at = min(
                events[0][0] if events else math.inf,
                self.ends[0][0] if self.ends else math.inf,
                max(self.now, self.executor.wake_at()),
            )
            if math.isinf(at):
                return
            assert turn < 1_999, "makes no progress"
            self.now = max(self.now, at)
            while events and events[0][0] <= self.now:
                _, kind, i = events.pop(0)
                if kind == 0:
                    self.executor.submit(requests[i], self.now, self.arms[i] if self.arms else 0)
                elif i not in self.dropped and i not in left:
                    left.add(i)
                    self.executor.leave(requests[i])
                    running = [entry for entry in self.ends if entry[1] == i]
                    for entry in running:
                        self.ends.remove(entry)
                        self.ends.sort()
                        self.executor.ended(requests[i], self.now)
            while self.ends and self.ends[0][0] <= self.now:
                _, i = heappop(self.ends)
                self.executor.ended(requests[i], self.now)
            self.executor.poll(self.now)


def request(i: int, arrival_s: float, tokens: int, **fields: Any) -> Request:
    return Request(i, arrival_s, 10, 1000, predicted_tokens=tokens, predicted_upper_tokens=tokens, **fields)


@st.composite
def traffic(draw: st.DrawFn) -> tuple[list[Request], list[float], dict[int, float]]:
    n = draw(st.integers(1, 25))
    gaps = draw(st.lists(st.sampled_from([0.0, 0.0, 0.01, 0.3, 2.0]), min_size=n, max_size=n))
    requests, now = [], 0.0
    for i in range(n):
        now += gaps[i]
        patience = draw(st.sampled_from([None, None, 0.1, 1.0]))
        requests.append(
            request(
                i,
                now,
                draw(st.integers(1, 900)),
                priority=draw(st.integers(-1, 1)),
                user=draw(st.sampled_from("ab")),
                deadline_s=None if patience is None else now + patience,
            )
        )
    lengths = draw(st.lists(st.sampled_from([0.001, 0.2, 1.0, 7.0]), min_size=n, max_size=n))
    leaves = draw(st.dictionaries(st.integers(0, n - 1), st.sampled_from([0.0, 0.15, 3.0]), max_size=n))
    return requests, lengths, {i: requests[i].arrival_s + 1e-6 + wait for i, wait in leaves.items()}


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=30, deadline=None)
@given(
    load=traffic(),
    slots=st.integers(1, 5),
    max_wait_s=st.sampled_from([math.inf, 0.5, 5.0]),
    arms=st.one_of(st.just(()), st.tuples(*[st.integers(0, 1)] * 25)),
)
def test_every_request_ends_once_and_every_slot_is_given_back(
    policy: str, load: Any, slots: int, max_wait_s: float, arms: tuple[int, ...]
) -> None:
    requests, lengths, leaves = load
    world = World(policy, slots, lengths, max_wait_s, arms=arms)
    world.run(requests, leaves)
    assert not world.failures
    sent = {i for _, i in world.sent}
    ended = sent | set(world.dropped) | set(leaves)
    assert ended == {r.id for r in requests} and not sent & set(world.dropped)
    executor = world.executor
    assert executor.num_running == 0 and not executor.waiting and not executor.line
    assert not any(driver.turns for driver in executor.drivers.values())
    assert executor.arms.keys() <= executor.stages.keys()
    assert not any(stage.value != "over" for stage in executor.stages.values())
    assert all(reason.startswith("expired") for reason in world.dropped.values())


@settings(max_examples=50, deadline=None)
@given(
    load=traffic(), slots=st.integers(1, 5), arms=st.tuples(*[st.integers(0, 1)] * 25), split=st.booleans()
)
def test_no_slot_is_idle_while_somebody_waits(
    load: Any, slots: int, arms: tuple[int, ...], split: bool
) -> None:
    requests, lengths, leaves = load
    world = World("continuous:order=shortest-predicted", slots, lengths, arms=arms if split else ())
    poll = world.executor.poll

    def checked(now: float) -> None:
        poll(now)
        executor = world.executor
        assert executor.num_running == slots or not executor.waiting

    world.executor.poll = checked  # type: ignore[method-assign]
    world.run(requests, leaves)


def test_the_shorter_goes_first_and_the_more_important_before_it() -> None:
    requests = [
        request(0, 0.0, 500),
        request(1, 0.1, 300),
        request(2, 0.2, 100),
        request(3, 0.3, 900, priority=-1),
    ]
    world = World("continuous:order=shortest-predicted", 1, [1.0] * 4)
    world.run(requests, {})
    assert [i for _, i in world.sent] == [0, 3, 2, 1]


def test_who_has_waited_too_long_goes_first() -> None:
    requests = [
        request(0, 0.0, 10),
        request(1, 0.1, 900),
        *(request(i, 0.2 + i / 10, 10) for i in range(2, 30)),
    ]
    for bound, place in ((math.inf, 29), (5.0, 6)):
        world = World("continuous:order=shortest-predicted", 1, [1.0] * 30, bound)
        world.run(requests, {})
        assert [i for _, i in world.sent].index(1) == place
        assert world.executor.num_sent_overdue == (0 if bound == math.inf else 24)


@settings(max_examples=50, deadline=None)
@given(
    arms=st.lists(st.integers(0, 1), min_size=1, max_size=25),
    slots=st.integers(1, 5),
    tokens=st.tuples(*[st.integers(1, 900)] * 25),
    lengths=st.tuples(*[st.sampled_from([0.2, 1.0, 7.0])] * 25),
)
def test_arms_get_slots_in_the_order_of_arrival_whatever_the_policy(
    arms: list[int], slots: int, tokens: tuple[int, ...], lengths: tuple[float, ...]
) -> None:
    requests = [request(i, 1e-6 * i, tokens[i]) for i in range(len(arms))]
    world = World("continuous:order=shortest-predicted", slots, list(lengths), arms=tuple(arms))
    world.run(requests, {})
    sent = [i for _, i in world.sent]
    assert [arms[i] for i in sent] == arms
    assert [i for i in sent if arms[i]] == sorted(i for i in sent if arms[i])


def test_a_lost_slot_comes_back_into_use() -> None:
    world = World("continuous", 3, [1.0] * 6)
    world.capacity = 0
    requests = [request(i, 0.0, 10) for i in range(6)]
    world.run(requests, {})
    assert not world.sent
    world.capacity = 2
    world.executor.poll(0.5)
    assert len(world.sent) == 2
    world.capacity = 3
    world.executor.poll(0.6)
    assert len(world.sent) == 3


class Faulty:
    """Fails in the method that it is told to, after some calls."""

    def __init__(self, limits: Limits, where: str = "next_work") -> None:
        self.where, self.waiting, self.calls = where, list[Request](), 0

    def _call(self, name: str) -> None:
        self.calls += name == self.where
        if self.calls > 3:
            raise KeyError("lost")

    def submit(self, request: Request, now: float) -> None:
        self._call("submit")
        self.waiting.append(request)

    def next_work(self, now: float) -> Work | None:
        from sim.work import PaddedBatch

        self._call("next_work")
        return PaddedBatch((self.waiting.pop(0),), 10) if self.waiting else None

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        self._call("record")

    def drain(self, now: float) -> list[Request]:
        return []


@pytest.mark.parametrize("where", ["submit", "next_work", "record"])
def test_a_scheduler_that_fails_loses_nobody(where: str) -> None:
    world = World(f"{__name__}:Faulty:where={where}", 2, [0.5] * 12)
    world.run([request(i, i / 10, 10) for i in range(12)], {})
    assert [i for _, i in world.sent] == list(range(12))
    assert [type(error) for error in world.failures] == [KeyError]
    assert world.executor.num_running == 0


class Idle(Faulty):
    """Never hands anything out."""

    def next_work(self, now: float) -> Work | None:
        return None


def test_a_scheduler_that_hands_nothing_out_is_overruled_by_the_bound() -> None:
    world = World(f"{__name__}:Idle", 2, [0.5] * 4, max_wait_s=3.0)
    world.run([request(i, 0.0, 10) for i in range(4)], {})
    assert [t for t, _ in world.sent] == [3.0, 3.0, 3.5, 3.5]


class Spinning(Faulty):
    """Hands out a stranger, again and again."""

    def next_work(self, now: float) -> Work | None:
        from sim.work import PaddedBatch

        return PaddedBatch((request(10**6, 0.0, 1),), 10)


class Sleepless(Idle):
    """Does not know when it wants to be asked."""

    @property
    def wake_at(self) -> float | None:
        if self.waiting:
            raise KeyError("lost")
        return None


class Timeless(Idle):
    """Wants to be asked at no time."""

    wake_at = math.nan


@pytest.mark.parametrize("name", ["Spinning", "Sleepless", "Timeless"])
def test_a_scheduler_that_gets_nowhere_holds_nobody_up(name: str) -> None:
    world = World(f"{__name__}:{name}", 2, [1.0] * 6)
    world.run([request(i, i / 10, 10) for i in range(6)], {})
    assert [i for _, i in world.sent] == list(range(6))
    assert len(world.failures) == 1


def test_decisions_say_who_was_sent_and_in_which_order() -> None:
    world = World("continuous:order=shortest-predicted", 1, [1.0] * 3)
    world.run([request(0, 0.0, 5), request(1, 0.1, 50), request(2, 0.2, 20)], {})
    named = [i for record in world.decisions if record.kind == "Iterations" for i in record.request_ids]
    assert named == [0, 2, 1]


def test_a_policy_that_is_none_is_refused_before_anything_runs() -> None:
    with pytest.raises(InputError, match="order"):
        slot_scheduler_maker("continuous:order=longest", 2)
    with pytest.raises(InputError, match="policy 'nonsense'"):
        slot_scheduler_maker("nonsense", 2)
    with pytest.raises(InputError, match="waits: preserve is about the upstream's memory"):
        slot_scheduler_maker("continuous:waits=preserve", 2)
