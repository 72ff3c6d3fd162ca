"""Routers by the beginning of prompts and by session: where a request was before, weighed against load."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import simulate
from sim.fleet.prefix_routers import CachePicture
from sim.fleet.routers import router_maker
from sim.fleet.routing import Router, RouterContext
from sim.request import KnownBlocks, Request
from sim.scenario.scenario import scenario
from tests.sim.flat_machine import flat_machine
from traces import InputError
from traces.prompt_blocks import blocks_of_lists
from traces.trace import Trace


def make(name: str, num_replicas: int = 3, kv_tokens: int = 10_000) -> Router:
    context = RouterContext(
        num_replicas,
        np.random.default_rng(0),
        lambda request, replica, answer_tokens=None: 1.0,
        (kv_tokens,) * num_replicas,
    )
    made = router_maker(name)(context)
    assert made is not None
    return made


def request(id: int, hashes: list[int], arrival_s: float = 0.0, **more: Any) -> Request:
    """100 tokens for each hash, and 10 of its own."""
    ends = [100 * (k + 1) for k in range(len(hashes))]
    return Request(id, arrival_s, ends[-1] + 10, 50, blocks=KnownBlocks(hashes, ends, **more))


def send(to: Router, *requests: Request) -> list[int]:
    places = []
    for each in requests:
        places.append(to.choose(each))
        to.sent(each, places[-1])
    return places


def end(to: Router, each: Request, replica: int) -> None:
    to.ended(each, replica)


@pytest.mark.parametrize("rule", ["dynamo", "llm-d"])
def test_a_prompt_goes_where_it_begins_unless_too_much_is_there(rule: str) -> None:
    to = make(f"prefix-aware:rule={rule}")
    first = request(0, [1, 2, 3])
    assert send(to, first) == [0]
    end(to, first, 0)
    assert send(to, request(1, [1, 2, 3, 4]), request(2, [9])) == [0, 1]
    crowd = [request(3 + k, [1, 2, 3, 20 + k]) for k in range(12)]
    assert set(send(to, *crowd)) == {0, 1, 2}


def test_what_counts_in_dynamos_rule_is_what_is_left_to_compute() -> None:
    """300 of 410 tokens are at replica 0, where 310 wait: 420 against 410 elsewhere; with 2.0, 530 to 820."""
    for weight, place in ((1.0, 1), (2.0, 0)):
        to = make(f"prefix-aware:overlap_weight={weight}", 2)
        assert send(to, request(0, [1, 2, 3]), request(1, [1, 2, 3, 4])) == [0, place]


def test_sglangs_rule_goes_by_match_while_loads_are_alike() -> None:
    to = make("prefix-aware:rule=sglang,balance_abs=4,balance_rel=1.5", 2)
    same = [request(k, [1, 2]) for k in range(7)]
    # Five ahead is too much: the fewest requests count, and then both know the prompt.
    assert send(to, *same) == [0, 0, 0, 0, 0, 1, 1]
    assert send(to, request(8, [7, 8, 9])) == [1]
    short = request(9, [1, *range(30, 40)])  # a match below 0.3 of the prompt: the fewest requests
    end(to, same[5], 1)
    end(to, same[6], 1)
    assert send(to, short) == [1]


def test_sglangs_defaults_are_those_of_its_router() -> None:
    """router_args.py of sgl-model-gateway: 0.3, 64, 1.5."""
    at = make("prefix-aware:rule=sglang", 2)
    assert send(at, *(request(k, [1, 2]) for k in range(66))) == [0] * 65 + [1]
    third = make("prefix-aware:rule=sglang", 2)
    assert send(third, request(0, [1, 2, 3])) == [0]
    assert third.choose(request(1, [1, *range(30, 35)])) == 1  # a sixth
    assert third.choose(request(2, [1, 2, *range(30, 33)])) == 0  # two fifths


def test_late_knowledge_is_used_late() -> None:
    to = make("prefix-aware:stale_s=5")
    first = request(0, [1, 2, 3])
    assert send(to, first) == [0]
    other = request(1, [8, 9, 10, 11], 1.0)
    assert send(to, other) == [1]
    end(to, first, 0)
    end(to, other, 1)
    assert make("prefix-aware").choose(request(2, [8], 3.0)) == 0
    assert to.choose(request(2, [8, 9], 5.5)) == 0  # what was sent at 1 s is known from 6 s on
    assert to.choose(request(2, [8, 9], 6.0)) == 1


def test_what_ended_is_found_by_the_next_turn_and_lost_with_the_replica() -> None:
    to = make("prefix-aware", 2)
    first = request(0, [1], answer=7)
    assert send(to, first) == [0]
    end(to, first, 0)
    busy = request(1, [1, 7, 8])
    assert send(to, busy) == [0]
    assert to.choose(request(2, [1, 7, 8, 9], 1.0)) == 1  # its 310 tokens weigh as much as what is found
    to.down(0)
    to.up(0)
    assert to.choose(request(3, [1, 7])) in (0, 1)
    assert to.choose(request(3, [1, 7])) == 0


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True), max_size=30))
def test_a_picture_is_never_larger_than_memory_and_forgets_ends_first(prompts: list[list[int]]) -> None:
    picture, numbers = CachePicture(700), dict[tuple[int, ...], int]()
    for now, prompt in enumerate(prompts):
        keys = [numbers.setdefault(tuple(prompt[: k + 1]), len(numbers)) for k in range(len(prompt))]
        blocks = KnownBlocks(keys, [100 * (k + 1) for k in range(len(keys))])
        picture.add(blocks, float(now))
        assert picture.num_tokens == 100 * len(picture.known) <= 700
        assert picture.found(blocks, float(now)) == 100 * len(keys)
    for prefix, number in numbers.items():
        before = numbers.get(prefix[:-1])
        assert number not in picture.known or before is None or before in picture.known


def test_sticky_keeps_a_session_together_and_spreads_others() -> None:
    to = make("sticky", 3)
    places = send(to, *(Request(k, 0.0, 10, 5, session_id=k % 2) for k in range(6)))
    assert places == [0, 1, 0, 1, 0, 1]
    assert send(to, Request(6, 0.0, 10, 5), Request(7, 0.0, 10, 5, user="a")) == [2, 2]
    assert send(to, Request(8, 0.0, 10, 5), Request(9, 0.0, 10, 5, user="a")) == [2, 2]
    to.down(0)
    moved = send(to, *(Request(10 + k, 0.0, 10, 5, session_id=0) for k in range(2)))
    to.up(0)
    assert moved == [1, 1] and send(to, Request(12, 0.0, 10, 5, session_id=0)) == [1]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("stale_s=-1", "stale_s: -1.0 must be at least 0"),
        ("stale_s=inf", "stale_s: inf"),
        ("cache_threshold=2", "cache_threshold: 2.0 must be at most 1"),
        ("balance_rel=0.5", "balance_rel: 0.5 must be at least 1"),
        ("queue_weight=1", "queue_weight: an option of rule=llm-d, not of rule=dynamo"),
        ("rule=sglang,overlap_weight=2", "overlap_weight: an option of rule=dynamo, not of rule=sglang"),
        ("rule=llm-d,balance_abs=2", "balance_abs: an option of rule=sglang, not of rule=llm-d"),
        ("rule=nobodys", "'nobodys' must be one of dynamo, sglang, llm-d"),
    ],
)
def test_bad_options_end_in_one_line(option: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make(f"prefix-aware:{option}")


@pytest.mark.parametrize("router", ["sticky", "round-robin", "least-requests", "power-of-two"])
def test_a_router_without_options_says_so(router: str) -> None:
    with pytest.raises(InputError, match=f"^router {router}: unknown option 'spread'; it has no options$"):
        make(f"{router}:spread=1")


def turns(seed: int, num_sessions: int = 60, num_turns: int = 4) -> Trace:
    """Conversations that grow by 64 tokens, at random times, many at once."""
    rng = np.random.default_rng(seed)
    rows = [
        (float(rng.uniform(0, 3) + turn), session, turn)
        for session in range(num_sessions)
        for turn in range(num_turns)
    ]
    rows.sort()
    n = len(rows)
    hashes = [[session * 100 + k for k in range(turn + 1)] for _, session, turn in rows]
    prompts = [64 * (turn + 1) for *_, turn in rows]
    return Trace(
        "turns",
        np.arange(n),
        np.array(prompts),
        rng.integers(1, 40, n),
        arrival_s=np.array([at for at, *_ in rows]),
        session_id=np.array([session for _, session, _ in rows]),
        blocks=blocks_of_lists(hashes, 64, prompts),
    )


def hits(router: str, trace: Trace) -> float:
    result = simulate(
        trace, policy="continuous:prefix_caching=on", profile="h200-vicuna-7b", replicas=4, router=router
    )
    assert result.summary["completed"] == len(trace)
    return float(result.summary["prefix_hit_fraction"])


def test_who_knows_finds_more_and_who_knows_late_less() -> None:
    trace = turns(1)
    found = {name: hits(name, trace) for name in ("round-robin", "sticky", "prefix-aware")}
    late = hits("prefix-aware:stale_s=1000", trace)
    assert max(late, found["round-robin"]) + 0.05 < found["prefix-aware"] < found["sticky"]


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    router=st.sampled_from(
        [
            "prefix-aware",
            "prefix-aware:rule=sglang,balance_abs=2",
            "prefix-aware:rule=llm-d,stale_s=2",
            "sticky",
        ]
    ),
    kv_blocks=st.sampled_from([None, 60]),
    ahead=st.sampled_from(["on", "off"]),
)
def test_a_fleet_leaps_as_it_steps(seed: int, router: str, kv_blocks: int | None, ahead: str) -> None:
    world = scenario(
        turns(seed, 8), profile=flat_machine(0.07), replicas=3, router=router, kv_blocks=kv_blocks
    )
    policy = f"continuous:prefix_caching=on,async_scheduling={ahead}"
    leaps, steps = (world.run(policy, leap=leap) for leap in (True, False))
    for name in ("scheduled_s", "first_token_s", "finish_s", "replica"):
        left, right = leaps.requests[name].to_numpy(), steps.requests[name].to_numpy()
        assert np.allclose(left, right, rtol=1e-9)
    keys = ("prefix_hit_fraction", "prefix_evicted_tokens", "recomputed_tokens")
    assert [leaps.summary[key] for key in keys] == [steps.summary[key] for key in keys]
