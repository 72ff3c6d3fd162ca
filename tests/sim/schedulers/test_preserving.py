"""Memory held between turns: as a replay block by block has it, and the best way for each wait."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import simulate
from sim.scenario.scenario import scenario
from tests.sim.flat_machine import flat_machine
from tests.sim.schedulers import naive_preserving
from traces import InputError, load
from traces.trace import Trace

CAP = 40


@st.composite
def conversations(draw: st.DrawFn) -> Trace:
    """Sessions whose starts and waits are whole seconds."""
    users, turns = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    wait_s, system = draw(st.sampled_from([1, 6, 40])), draw(st.sampled_from([0, 20, 64]))
    trace = load(
        f"sessions:users={users},turns={turns},think_s={wait_s},rate={draw(st.sampled_from([0.05, 0.5, 5]))},"
        f"system_tokens={system},prompt_tokens=25,output_tokens=12,max_output_tokens={CAP}",
        seed=draw(st.integers(0, 10**6)),
    )
    assert trace.arrival_s is not None and trace.blocks is not None
    if draw(st.booleans()):
        trace = replace(trace, blocks=replace(trace.blocks, answers=None))
    return replace(trace, arrival_s=np.round(trace.arrival_s), think_s=np.round(trace.thinks_s))


def least_blocks(trace: Trace) -> int:
    """A cache that holds each request, with the block that no request gets."""
    return -(-(int(trace.prompt_tokens.max()) + CAP) // 16) + 1


@settings(max_examples=150, deadline=None)
@given(
    trace=conversations(),
    spare=st.sampled_from([0, 3, 10, 40]),
    seats=st.sampled_from([2, 5, 40]),
    budget=st.sampled_from([40, 64, 2048]),
    way=st.sampled_from(["preserve", "preserve", "least-waste"]),
)
def test_turns_go_as_in_a_replay_block_by_block(
    trace: Trace, spare: int, seats: int, budget: int, way: str
) -> None:
    blocks = least_blocks(trace) + spare
    shared = scenario(
        trace, profile=flat_machine(1.0), kv_blocks=blocks, predictor="oracle", max_new_tokens=CAP
    )
    trace = shared.trace  # in order of arrival if answers took no time
    naive = naive_preserving.replay(trace, blocks, seats, budget, way)
    policy = f"continuous:prefix_caching=on,waits={way},max_num_seqs={seats},max_num_batched_tokens={budget}"
    result = shared.run(policy)
    for name, times in (
        ("scheduled_s", naive.scheduled),
        ("first_token_s", naive.first),
        ("finish_s", naive.finish),
    ):
        assert result.columns[name].tolist() == [times[row] for row in range(len(trace))], name
    assert result.summary["preemptions"] == naive.preemptions
    assert result.summary["prefix_hit_fraction"] == pytest.approx(
        naive.found / int(trace.prompt_tokens.sum())
    )


def test_the_worlds_of_the_replay_hold_memory_and_give_it_up() -> None:
    counts = np.zeros(3, dtype=int)
    for seed in range(20):
        trace = load(
            f"sessions:users=8,turns=4,think_s=6,rate=0.5,system_tokens=20,prompt_tokens=25,output_tokens=12,"
            f"max_output_tokens={CAP}",
            seed=seed,
        )
        assert trace.arrival_s is not None
        trace = replace(trace, arrival_s=np.round(trace.arrival_s), think_s=np.round(trace.thinks_s))
        done = naive_preserving.replay(trace, least_blocks(trace) + 3, 5, 64, "preserve")
        counts += (done.preserved, done.gave_way, done.preemptions)
    assert (counts > 20).all()


def test_who_comes_back_to_memory_goes_first() -> None:
    """One seat, 20 s an answer, 3 s between turns: those that have begun end before the third begins."""
    source = "sessions:users=3,turns=2,think_s=3,think_law=fixed,rate=100,output_tokens=20,output_sigma=0"
    for way, finish_s in (
        ("discard", [20, 40, 60, 80, 100, 120]),
        ("preserve", [20, 40, 100, 60, 80, 123]),
        ("preserve,order=fair", [20, 40, 100, 60, 80, 123]),  # which keeps account of all that it ranks
    ):
        result = simulate(
            source,
            policy=f"continuous:prefix_caching=on,waits={way},max_num_seqs=1",
            profile=flat_machine(1.0),
            predictor="exact",
        )
        assert result.columns["finish_s"].tolist() == finish_s


SLOW, FAST = "cpu:64GiB@1GB/s,blocking", "cpu:256GiB@50GB/s"


@pytest.mark.parametrize(
    ("wait_s", "prompt_tokens", "rate", "kv_blocks", "tier", "best"),
    [
        (0.5, 3000, 4, 12_000, SLOW, "preserve"),
        (3, 300, 30, 4000, SLOW, "discard"),
        (20, 3000, 4, 12_000, FAST, "swap"),
    ],
)
def test_each_way_is_best_somewhere_and_the_least_waste_finds_it(
    wait_s: float, prompt_tokens: int, rate: float, kv_blocks: int, tier: str, best: str
) -> None:
    """Short waits, long ones of short prompts, long ones of long prompts beside a fast link."""

    def mean_s(way: str, kv_tier: str | None, seed: int) -> float:
        result = simulate(
            f"sessions:turns=5,think_s={wait_s},prompt_tokens={prompt_tokens},output_tokens=80,system_tokens=200",
            policy=f"continuous:prefix_caching=on,waits={way}",
            profile="h100-llama-3.1-8b-vllm",
            predictor="exact",
            num_prompts=400,
            request_rate=rate,
            kv_blocks=kv_blocks,
            kv_tier=kv_tier,
            seed=seed,
        )
        return float(result.summary["mean_session_ms"]) / 1e3

    for seed in (0, 1):
        tiers = {"discard": None, "preserve": None, "swap": tier}
        times = {way: mean_s(way, kv_tier, seed) for way, kv_tier in tiers.items()}
        assert min(times, key=times.__getitem__) == best, times
        assert mean_s("least-waste", tiers[best], seed) <= 1.01 * times[best]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("waits=preserve", "waits: preserve needs prefix_caching=on, not own"),
        (
            "waits=preserve,prefix_caching=on,order=longest-prefix-match",
            "waits: preserve does not go with order=longest-prefix-match; it does with fcfs, ",
        ),
        (
            "waits=least-waste,prefix_caching=on,order=ltr",
            "waits: least-waste does not go with preempt_until=1, of order=ltr; preempt_until=0 is needed",
        ),
        ("waits=swap,prefix_caching=on", "waits: swap needs kv_tier, memory to swap to"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        simulate("fixed", num_prompts=2, policy=f"continuous:{options}", profile=flat_machine(1.0))
