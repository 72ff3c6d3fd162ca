"""What is expected of a replica: times as they can be reckoned by hand, and as they then come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import simulate
from sim.fleet.outlook import Job, Outlook
from sim.fleet.predicted_latency import PredictedLatency
from sim.fleet.routing import Machine
from sim.request import Request


class Steps:
    """10 ms an iteration, 1 us a token of context, 1 ms a token of a prompt."""

    def decode_s(self, num_seqs: int, context_tokens: float) -> float:
        return 0.01 + 1e-6 * context_tokens

    def mixed_s(
        self, num_decode: int, context: float, num_prefill: int, tokens: int, attention: float
    ) -> float:
        return self.decode_s(num_decode, context) + 1e-3 * tokens


def outlook(**bounds: Any) -> Outlook:
    return Outlook(Machine(Steps(), **bounds))


def test_an_idle_replica_computes_a_prompt_at_once() -> None:
    expected = outlook().expected(Job(100, 100, 50), 3.0)
    assert expected.ttft_s == pytest.approx(0.01 + 0.1)
    assert expected.tpot_s == pytest.approx(0.01 + 1e-6 * 125)


def test_what_is_found_is_not_computed() -> None:
    assert outlook().expected(Job(100, 20, 50), 0.0).ttft_s == pytest.approx(0.01 + 0.02)


def test_a_prompt_waits_for_those_before_it_and_shares_the_next_iteration() -> None:
    replica = outlook()
    replica.add(0, Job(100, 100, 50), 0.0)
    second, third = Job(100, 100, 50), Job(100, 100, 50)
    # The first is done at 0.11 s; beside its 125 tokens the second takes 0.11 s more.
    assert replica.expected(second, 0.0).ttft_s == pytest.approx(0.22 + 125e-6)
    assert replica.expected(second, 0.05).ttft_s == pytest.approx(0.17 + 125e-6)
    replica.add(1, second, 0.05)
    assert replica.expected(third, 0.06).ttft_s == pytest.approx(0.05 + 0.21 + 250e-6)
    # Half an iteration goes by before the next begins, one more where that is decided already.
    iteration_s = 0.01 + 3 * 125e-6
    for ahead, iterations in ((False, 0.5), (True, 1.5)):
        replica.machine = Machine(Steps(), decides_ahead=ahead)
        assert replica.expected(third, 9.0).ttft_s == pytest.approx(iterations * iteration_s + 0.11 + 250e-6)


def test_a_long_prompt_is_computed_in_several_iterations() -> None:
    assert outlook(max_num_batched_tokens=40).expected(Job(100, 100, 1), 0.0).ttft_s == pytest.approx(
        3 * (0.01 + 0.034)
    )


def test_others_make_tokens_slower_by_context_and_by_their_prompts() -> None:
    replica = outlook()
    for k in range(9):
        replica.add(k, Job(100, 100, 50), 0.0)
    expected = replica.expected(Job(100, 100, 50), 100.0)
    context = 1e-6 * 10 * 125
    each_prompt = (0.01 + 1e-6 * 9 * 125 + 0.1) - (0.01 + context)
    assert expected.tpot_s == pytest.approx(0.01 + context + 9 * each_prompt / 50)


@pytest.mark.parametrize("bounds", [{"max_num_seqs": 4}, {"kv_tokens": 4 * 100 + 4 * 25}])
def test_who_is_one_too_many_waits_until_one_has_ended(bounds: dict[str, int]) -> None:
    replica = outlook(**bounds)
    for k in range(4):
        replica.add(k, Job(100, 100, 50), 0.0)
    late = replica.expected(Job(100, 100, 50), 100.0)
    for _ in range(3):
        replica.remove(_)
    free = replica.expected(Job(100, 100, 50), 100.0)
    assert free.ttft_s < 0.13
    # Of four that take 50 tokens each, one ends every 12.5 tokens; then the prompt is computed.
    assert late.ttft_s == pytest.approx(12.5 * late.tpot_s + 0.11, rel=0.01)


@given(
    st.lists(
        st.tuples(
            st.floats(0, 2), st.integers(1, 5000), st.floats(0, 1), st.integers(0, 900), st.integers(0, 9)
        ),
        max_size=40,
    )
)
def test_sums_are_those_of_what_is_there(events: list[tuple[float, int, float, int, int]]) -> None:
    replica, now = outlook(kv_tokens=9000, max_num_seqs=6, max_num_batched_tokens=512), 0.0
    for id, (pause, prompt, share, answer, gone) in enumerate(events):
        now += pause
        job = Job(prompt, max(1, round(prompt * share)), answer)
        before = replica.expected(job, now)
        assert min(before) > 0 and before == replica.expected(job, now)
        replica.add(id, job, now)
        if gone in replica.jobs:
            replica.remove(gone)
        jobs = replica.jobs.values()
        assert replica.prompts == sum(j.prompt for j in jobs)
        assert replica.uncached == sum(j.uncached for j in jobs)
        assert replica.answers == sum(j.answer for j in jobs)
        assert replica.begun <= set(replica.jobs)
        assert replica.answers_begun == sum(replica.jobs[k].answer for k in replica.begun)
        assert len(replica.waiting) <= id + 1
    for id in list(replica.jobs):
        replica.remove(id)
    fresh = outlook(kv_tokens=9000, max_num_seqs=6, max_num_batched_tokens=512)
    assert replica.expected(Job(10, 10, 10), now) == pytest.approx(fresh.expected(Job(10, 10, 10), now))


@pytest.mark.parametrize(
    ("request_rate", "policy", "off_ttft", "off_tpot"),
    [(20.0, "continuous", 0.1, 0.03), (200.0, "continuous", 0.1, 0.05),
     (200.0, "continuous:max_num_seqs=64", 0.5, 0.05)],
)  # fmt: skip
def test_what_is_expected_comes_about(
    request_rate: float, policy: str, off_ttft: float, off_tpot: float
) -> None:
    """Medians of relative errors, with lengths known."""
    expected: dict[int, tuple[float, float]] = {}

    class Spy(PredictedLatency):
        def sent(self, request: Request, replica: int) -> None:
            now = self.context.now()
            latency = self.outlooks[replica].expected(self._job(request, replica, now), now)
            expected[request.id] = (now - request.arrival_s + latency.ttft_s, latency.tpot_s)
            super().sent(request, replica)

    how: dict[str, Any] = {"num_prompts": 1500, "replicas": 3, "predictor": "oracle", "policy": policy}
    ran = simulate("alpaca-vicuna", router=Spy, request_rate=request_rate, profile="h200-vicuna-7b", **how)
    for column, index, bound in (("ttft_ms", 0, off_ttft), ("tpot_ms", 1, off_tpot)):
        came = ran.requests[column].to_numpy(float)
        said = np.array([1e3 * expected[k][index] for k in range(1500)])
        assert np.nanmedian(np.abs(said - came) / came) < bound, column
