"""Preemption by rank: equal to a naive reference, best where theory says so, and nobody starves beyond the
bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from sim.perception.again import Again
from sim.results.result import Result
from sim.scenario.scenario import scenario
from tests.sim.flat_machine import flat_machine
from tests.sim.schedulers.naive_ranked import RANKS, Job, World, pages
from tests.sim.schedulers.naive_world import Event, Run
from traces.errors import InputError
from traces.trace import SLO_COLUMNS, FloatArray, IntArray, Trace

NUM_LENGTHS = 20


@dataclass(frozen=True)
class Known:
    """Says of each request what the test knows of it."""

    tokens: Sequence[int]
    lengths: Sequence[Sequence[int]]
    charge: bool = False

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        return np.array(self.tokens)

    def quantiles(self, trace: Trace, predicted: IntArray, levels: FloatArray) -> IntArray:
        return np.array(self.lengths)


def simulated(jobs: Sequence[Job], blocks: int, policy: str, **how: Any) -> tuple[Run, Result]:
    """The jobs by the simulator, an iteration taking a second."""
    trace = Trace(
        "made up",
        np.arange(len(jobs)),
        np.array([job.prompt for job in jobs]),
        np.array([job.output for job in jobs]),
        arrival_s=np.array([job.arrival for job in jobs], dtype=float),
        **{
            column: np.array([math.nan if job.slos[k] is None else 1e3 * job.slos[k] for job in jobs])
            for k, column in enumerate(SLO_COLUMNS)
        },
    )
    known = Known([job.predicted for job in jobs], [job.lengths for job in jobs])
    shared = scenario(
        trace,
        profile=flat_machine(1.0),
        kv_blocks=blocks,
        **({"predictor": known, "max_new_tokens": 80} | how),
    )
    result = shared.run(policy, log=True)
    run, iteration = Run(), 0
    for b in result.batches:
        if b.kind != "Iterations":
            continue
        chunks = [(i, tokens, last) for i, (tokens, last) in zip(b.request_ids, b.chunks, strict=True)]
        run.note(Event(iteration, list(b.evicted), chunks))
        iteration += b.iterations
    run.finished = {i: int(finish_s) for i, finish_s in enumerate(result.columns["finish_s"])}
    return run, result


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Job], int]:
    """Requests whose distributions have few distinct lengths, and blocks that hold each, but not all."""
    jobs, arrival = [], 0
    longest = draw(st.sampled_from([8, 80]))
    for i in range(draw(st.integers(1, 12))):
        output = draw(st.integers(1, longest))
        few = draw(st.lists(st.integers(1, longest), min_size=1, max_size=4))
        lengths = sorted(draw(st.lists(st.sampled_from(few), min_size=NUM_LENGTHS, max_size=NUM_LENGTHS)))
        predicted = draw(st.sampled_from([output, lengths[0], lengths[-1]]))
        slos = draw(st.tuples(*[st.none() | st.integers(1, most) for most in (200, 5, 400)]))
        jobs.append(Job(i, arrival, draw(st.integers(1, 60)), output, predicted, lengths, slos=slos))
        arrival += draw(st.sampled_from([0, 0, 1, 3, 20]))
    least = max(pages(job.prompt + 80) for job in jobs)
    return jobs, least + 1 + draw(st.integers(0, 30))


TIED = [
    Job(0, 0, 30, 72, 72, [21] * 20),
    Job(1, 0, 37, 79, 79, [32] * 6 + [41] * 5 + [75] * 9),
    Job(2, 3, 18, 43, 43, [1] * 20),
    Job(3, 4, 48, 48, 48, [62] * 20),
    Job(4, 5, 1, 70, 70, [32] * 12 + [75] * 8),
]
"""Under `gittins` two of them come to have the same rank, a fraction."""


def outliving(outputs: Sequence[int], prompts: Mapping[int, int]) -> list[Job]:
    """Requests that come at once and soon outlive what was said of their lengths; prompts of one token, but
    for these.
    """
    return [
        Job(i, 0, prompts.get(i, 1), output, output, [1] * NUM_LENGTHS) for i, output in enumerate(outputs)
    ]


@settings(max_examples=400)
@given(
    world=worlds(),
    order=st.sampled_from(sorted(RANKS)),
    places=st.sampled_from([1, 2, 5, 30]),
    until=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    starve_after=st.sampled_from([0, 0, 1, 10, 40]),
    quantum=st.sampled_from([1, 7]),
)
@example(  # who leaves for lack of memory alone, before all others, bares who makes way for the next in line
    world=(outliving([74, 1, 58, 10, 62, 1, 1, 1, 1, 1, 65, 1], {1: 33, 2: 8}), 9),
    order="gittins",
    places=2,
    until=0.8,
    starve_after=0,
    quantum=1,
)
@example(world=(TIED, 11), order="gittins", places=5, until=1.0, starve_after=1, quantum=1)
def test_it_decides_as_defined(
    world: tuple[list[Job], int], order: str, places: int, until: float, starve_after: int, quantum: int
) -> None:
    assume(until or starve_after)  # else ranks are those of the queue
    jobs, blocks = world
    policy = (
        f"continuous:order={order},max_num_seqs={places},max_num_batched_tokens=1000000,prefix_caching=off,"
        f"preempt_until={until},starve_after={starve_after},quantum={quantum},level_tokens=4,token_ms=1000"
    )
    run, _ = simulated(jobs, blocks, policy)
    naive = World(
        [replace(job) for job in jobs], blocks - 1, places, RANKS[order], until, starve_after, quantum
    ).run()
    assert run.events == naive.events
    assert run.finished == naive.finished


def alone(jobs: Sequence[Job], policy: str, **how: Any) -> Result:
    """One sequence at a time, memory for all, preemption for nothing."""
    options = "max_num_seqs=1,max_num_batched_tokens=1000000"
    return simulated(jobs, 10_000, f"continuous:{policy},{options}", **how)[1]


def random_jobs(seed: int) -> list[Job]:
    rng = np.random.default_rng(seed)
    n, longest = int(rng.integers(2, 15)), int(rng.choice([5, 30, 80]))
    lengths = rng.integers(1, longest + 1, n)
    arrivals = np.cumsum(rng.integers(0, int(rng.choice([1, longest, 2 * longest])), n))
    return [
        Job(i, int(arrival), int(rng.integers(1, 50)), int(length), int(length), [int(length)] * NUM_LENGTHS)
        for i, (arrival, length) in enumerate(zip(arrivals, lengths, strict=True))
    ]


OTHERS = (
    "order=fcfs",
    "order=shortest-predicted",
    "order=shortest-remaining,preempt_until=0.5",
    "order=ltr",
    "order=tie,preempt_until=1",
    "order=gittins",
    "order=lower-bound",
    "order=mlfq",
    "order=shortest-prompt,preempt_until=1",
)


@pytest.mark.parametrize("first_seed", range(0, 500, 100))
def test_nothing_beats_shortest_remaining_where_lengths_are_known(first_seed: int) -> None:
    """One sequence at a time and free preemption: least mean time in system of all (Schrage, 1968)."""
    num_beaten = 0
    for seed in range(first_seed, first_seed + 100):
        jobs = random_jobs(seed)
        best = alone(jobs, "order=shortest-remaining,preempt_until=1").summary["mean_e2el_ms"]
        other = alone(jobs, OTHERS[seed % len(OTHERS)]).summary["mean_e2el_ms"]
        assert best <= other * (1 + 1e-9), (seed, OTHERS[seed % len(OTHERS)])
        num_beaten += best < other * (1 - 1e-9)
    assert num_beaten >= 20  # the others are not the same


@pytest.mark.parametrize("order", ["ltr", "shortest-predicted"])
@pytest.mark.parametrize("seed", range(5))
def test_nobody_starves_beyond_the_bound(order: str, seed: int) -> None:
    """Short requests come without end, and one is long: with the guard it gets its quantum at least every
    `starve_after` iterations and a few quanta of those that starved before it.
    """
    rng = np.random.default_rng(seed)
    jobs = [Job(0, 0, 10, 60, 60, [60] * NUM_LENGTHS)]
    jobs += [Job(i, i * 5, 10, int(rng.integers(4, 9)), 5, [5] * NUM_LENGTHS) for i in range(1, 200)]
    guard, quantum = 50, 10
    policy = f"order={order},preempt_until=1,quantum={quantum},starve_after="
    starved = alone(jobs, f"{policy}0").columns["finish_s"][0]
    guarded = alone(jobs, f"{policy}{guard}").columns["finish_s"][0]
    num_quanta = 60 / quantum
    assert guarded < num_quanta * (guard + quantum * 10)
    assert guarded < 0.7 * starved


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("preempt_until=1.5", "preempt_until: 1.5 must be between 0 and 1"),
        ("quantum=0", "quantum: 0 must be between 1 and 1e+09"),
        ("ask_every=5", "ask_every: 5 needs order=shortest-remaining, not fcfs"),
        ("order=gittins,rules=sglang", "order: gittins preempts or guards, which rules=sglang do not"),
        ("preempt_until=0.5,rules=trtllm", "preempt_until: an option of rules=vllm, not of rules=trtllm"),
        ("admission=quantile:1", "admission: the quantile '1' must be between 0 and 1"),
        ("admission=quantile:x", "admission: the quantile 'x' must be between 0 and 1"),
        ("admission=most", "admission: 'most' must be one of chunk, prompt, predicted, quantile:Q"),
        ("order=lower-bound,lower_quantile=2", "lower_quantile: 2.0 must be between 0 and 1"),
    ],
)
def test_bad_options_are_one_line(options: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        scenario("fixed", num_prompts=2).run(f"continuous:{options}")
    assert message in str(caught.value) and "\n" not in str(caught.value)


class Mending(Known):
    """What `Known` says at first; asked again, it is right at once, for a quarter of a second."""

    again = Again(shrink=100.0, ask_s=0.25)


def test_asking_again_costs_its_iteration_and_mends_the_order() -> None:
    """Who was predicted to be long goes on before the others once it is known to be short.

    One place; every four iterations who runs is asked.
    """
    jobs = [
        Job(0, 0, 10, 10, 30, [10] * NUM_LENGTHS),
        Job(1, 4, 10, 20, 20, [20] * NUM_LENGTHS),
    ]
    known = Mending([job.predicted for job in jobs], [job.lengths for job in jobs])
    policy = "order=shortest-remaining,preempt_until=1"
    plain, asked = (
        alone(jobs, p, predictor=known).columns["finish_s"] for p in (policy, policy + ",ask_every=4")
    )
    assert plain.tolist() == [30, 24]
    assert asked.tolist() == [10 + 2 * 0.25, 30 + 7 * 0.25]


def test_who_arrives_is_asked_about_though_all_places_are_taken() -> None:
    """Else nobody whose length has to be asked for could preempt: the short one goes before the long one.

    A question takes no iteration; the machine computes its prompt in a second, and an answer of 8 tokens.
    """
    jobs = [Job(0, 0, 10, 60, 60, [60] * NUM_LENGTHS), Job(1, 20, 10, 5, 5, [5] * NUM_LENGTHS)]
    known = replace(Known([60, 5], [[60] * NUM_LENGTHS, [5] * NUM_LENGTHS]), charge=True)
    result = alone(jobs, "order=gittins,perceive_wait_s=0", predictor=known)
    short, long = result.columns["finish_s"][1], result.columns["finish_s"][0]
    assert result.summary["preemptions"] == 1 and short < 40 < long


@pytest.mark.parametrize("order", ["shortest-remaining", "ltr", "gittins", "mlfq"])
def test_with_a_decision_in_hand_it_preempts_an_iteration_later(order: str) -> None:
    """A short request takes the only place of a long one; the guard gives it back to who has starved."""
    jobs = [Job(0, 0, 10, 60, 60, [60] * NUM_LENGTHS), Job(1, 40, 10, 5, 5, [5] * NUM_LENGTHS)]
    policy = f"order={order},preempt_until=1,level_tokens=4"
    at_once, later = (
        alone(jobs, f"{policy},async_scheduling={is_async}").columns["finish_s"] for is_async in ("off", "on")
    )
    assert at_once.tolist() == [65, 45]
    assert [late - soon for soon, late in zip(at_once, later, strict=True)] == [1, 1]
    jobs = [Job(i, i, 10, 60 if i == 0 else 5, 1, [1 + i] * NUM_LENGTHS) for i in range(30)]
    jobs[0] = replace(jobs[0], predicted=60, lengths=[60] * NUM_LENGTHS)
    guarded = f"{policy},async_scheduling=on,quantum=60,starve_after="
    finish_s = [alone(jobs, f"{guarded}{after}").columns["finish_s"][0] for after in (0, 20)]
    assert finish_s[1] < finish_s[0]
