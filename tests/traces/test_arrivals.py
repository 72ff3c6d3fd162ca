"""Arrival times: the trace's own, all at once, gamma gaps; windows of a trace, and its own pattern scaled."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces.arrivals import assign, at_rate, busiest, busiest_tenth, stretched, window
from traces.errors import InputError
from traces.trace import FloatArray, Trace

rates = st.floats(1.0, 1e6)
shapes = st.floats(1e-3, 1e3)


def a_trace(n: int, arrival_s: list[float] | None = None, deadline_s: list[float] | None = None) -> Trace:
    return Trace(
        name="tiny",
        request_id=np.arange(n),
        prompt_tokens=np.full(n, 10),
        output_tokens=np.full(n, 20),
        arrival_s=None if arrival_s is None else np.array(arrival_s),
        deadline_s=None if deadline_s is None else np.array(deadline_s),
    )


def times(n: int, rate: float | None, burstiness: float = 1.0, seed: int = 0) -> FloatArray:
    rng = np.random.default_rng(seed)
    arrival = assign(a_trace(n), request_rate=rate, burstiness=burstiness, rng=rng).arrival_s
    assert arrival is not None
    return arrival


def test_without_a_rate_the_own_times_are_kept_and_scaled() -> None:
    trace = a_trace(3, [0.0, 1.0, 4.0])
    rng = np.random.default_rng(0)
    assert assign(trace, rng=rng).arrival_s.tolist() == [0.0, 1.0, 4.0]
    assert assign(trace, time_scale=0.5, rng=rng).arrival_s.tolist() == [0.0, 0.5, 2.0]


def test_without_a_rate_and_times_all_arrive_at_once() -> None:
    assert times(3, None).tolist() == [0.0, 0.0, 0.0]


def test_an_infinite_rate_is_all_at_once_whatever_the_own_times() -> None:
    arrived = assign(a_trace(2, [1.0, 9.0]), request_rate=math.inf, rng=np.random.default_rng(0))
    assert arrived.arrival_s.tolist() == [0.0, 0.0]


def test_other_columns_stay_and_the_trace_given_is_untouched() -> None:
    trace = a_trace(2, [1.0, 9.0])
    arrived = assign(trace, request_rate=2.0, rng=np.random.default_rng(0))
    assert trace.arrival_s.tolist() == [1.0, 9.0]
    assert arrived.output_tokens is trace.output_tokens and arrived.name == trace.name


@pytest.mark.parametrize("options", [{"time_scale": 3.0}, {"request_rate": 2.0}, {"request_rate": math.inf}])
def test_a_deadline_keeps_its_distance_from_the_arrival(options: dict[str, float]) -> None:
    trace = a_trace(3, [0.0, 1.0, 4.0], deadline_s=[10.0, 12.0, 5.0])
    arrived = assign(trace, rng=np.random.default_rng(0), **options)
    np.testing.assert_allclose(arrived.deadline_s - arrived.arrival_s, [10.0, 11.0, 1.0])


def test_a_deadline_without_own_times_counts_from_zero() -> None:
    arrived = assign(a_trace(2, deadline_s=[3.0, 4.0]), request_rate=1.0, rng=np.random.default_rng(0))
    np.testing.assert_allclose(arrived.deadline_s - arrived.arrival_s, [3.0, 4.0])


@given(n=st.integers(1, 200), rate=rates, burstiness=shapes, seed=st.integers(0, 2**32 - 1))
def test_times_start_at_zero_sorted_and_finite(n: int, rate: float, burstiness: float, seed: int) -> None:
    arrival = times(n, rate, burstiness, seed)
    assert arrival.shape == (n,) and arrival[0] == 0.0
    assert np.isfinite(arrival).all() and (np.diff(arrival) >= 0).all()


@given(rate=rates, factor=st.floats(1e-3, 1e3), burstiness=shapes, seed=st.integers(0, 2**32 - 1))
def test_times_at_two_rates_are_proportional(
    rate: float, factor: float, burstiness: float, seed: int
) -> None:
    slow, fast = times(50, rate, burstiness, seed), times(50, rate * factor, burstiness, seed)
    # Below the smallest normal float there are no twelve digits to agree on.
    normal = slow > 1e-290
    np.testing.assert_allclose((fast * factor)[normal], slow[normal], rtol=1e-12)
    assert ((times(50, rate * 2, burstiness, seed) * 2 == slow) | ~normal).all()


@settings(max_examples=25, deadline=None)
@given(rate=st.floats(0.1, 100), burstiness=st.floats(0.25, 50), seed=st.integers(0, 2**32 - 1))
def test_mean_gap_and_its_variation_are_those_asked_for(rate: float, burstiness: float, seed: int) -> None:
    n = 20_000
    gaps = np.diff(times(n + 1, rate, burstiness, seed)) * rate
    # Six standard errors: of the mean, and of the variance by the fourth moment of a gamma variable.
    assert gaps.mean() == pytest.approx(1, abs=6 / math.sqrt(burstiness * n))
    variance_error = math.sqrt((2 + 6 / burstiness) / n) / burstiness
    assert gaps.var() == pytest.approx(1 / burstiness, abs=6 * variance_error + 1e-9)


def test_burstiness_one_is_poisson() -> None:
    from scipy.stats import kstest

    assert kstest(np.diff(times(20_000, 4.0)), "expon", args=(0, 0.25)).pvalue > 0.001


def test_the_same_state_gives_the_same_times_and_another_seed_others() -> None:
    assert (times(100, 3.0, 0.5, seed=1) == times(100, 3.0, 0.5, seed=1)).all()
    assert (times(100, 3.0, 0.5, seed=1)[1:-1] != times(100, 3.0, 0.5, seed=2)[1:-1]).all()


@given(rate=rates, burstiness=st.floats(0.02, 1e3).filter(lambda shape: shape != 1), seed=st.integers(0, 999))
def test_bursts_come_at_the_rate_that_was_asked_for(rate: float, burstiness: float, seed: int) -> None:
    assert times(100, rate, burstiness, seed)[-1] == pytest.approx(99 / rate, rel=1e-12)


def test_gaps_of_a_poisson_process_are_not_rescaled() -> None:
    last = [times(100, 1.0, 1.0, seed)[-1] for seed in range(400)]
    # A sum of 99 exponential gaps: both errors at six standard ones.
    assert np.mean(last) == pytest.approx(99, abs=6 * math.sqrt(99 / 400))
    assert np.var(last) == pytest.approx(99, rel=6 * math.sqrt(2 / 400))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"request_rate": 0.0}, "request_rate: 0 is not above 0"),
        ({"request_rate": -2.5}, "request_rate: -2.5 is not above 0"),
        ({"request_rate": math.nan}, "request_rate: nan is not above 0"),
        ({"request_rate": 1.0, "burstiness": 0.0}, "burstiness: 0 is not above 0"),
        ({"request_rate": 1.0, "burstiness": math.inf}, "burstiness: inf is not above 0 and finite"),
        ({"burstiness": math.nan}, "burstiness: nan"),
        ({"time_scale": 0.0}, "time_scale: 0 is not above 0"),
        ({"time_scale": math.inf}, "time_scale: inf is not above 0 and finite"),
        ({"request_rate": 5.0, "time_scale": 2.0}, "time_scale: 2 scales a trace's own times"),
        ({"burstiness": 0.5}, "burstiness: 0.5 needs a request_rate"),
        ({"request_rate": 1e-320}, "request_rate 9.99989e-321 gives arrival times that are not finite"),
        ({"time_scale": 1e308}, "time_scale 1e\\+308 gives arrival times that are not finite"),
        ({"request_rate": 1e-300}, r"request_rate 1e-300 gives arrivals over .*e\+\d+ s; at most 1e\+09"),
        ({"request_rate": 1e-9}, r"request_rate 1e-09 gives arrivals over .* s; at most 1e\+09"),
        ({"time_scale": 1e12}, r"time_scale 1e\+12 gives arrivals over .* s; at most 1e\+09"),
    ],
)
def test_what_is_out_of_bounds_is_named_with_its_bound(options: dict[str, float], named: str) -> None:
    trace = a_trace(3, [0.0, 1.0, 40.0])
    with pytest.raises(InputError, match=named):
        assign(trace, rng=np.random.default_rng(0), **options)


def poisson_trace(n: int) -> Trace:
    """Prompts of 1, 2, ... n tokens, so that a prompt tells its row."""
    arrival = np.cumsum(np.random.default_rng(3).exponential(1.0, n))
    return replace(a_trace(n), prompt_tokens=np.arange(1, n + 1), arrival_s=arrival - arrival[0])


@given(n=st.integers(2, 60), seed=st.integers(0, 500), num_requests=st.integers(2, 200))
def test_a_window_is_a_stretch_of_the_trace_that_goes_round(n: int, seed: int, num_requests: int) -> None:
    whole = poisson_trace(n)
    cut = window(whole, seed, num_requests)
    rows = cut.prompt_tokens - 1
    assert ((rows[1:] - rows[:-1]) % n == 1 % n).all()
    assert cut.arrival_s is not None and whole.arrival_s is not None
    gaps, own = np.diff(cut.arrival_s), np.diff(whole.arrival_s)
    inside = rows[1:] != 0
    assert gaps[inside] == pytest.approx(own[rows[1:] - 1][inside])
    assert gaps[~inside] == pytest.approx(own.mean())
    longer_one = window(whole, seed, num_requests + 50)
    assert (longer_one.prompt_tokens[:num_requests] == cut.prompt_tokens).all()


def test_seeds_start_far_apart() -> None:
    starts = sorted(int(window(poisson_trace(1000), seed, 2).prompt_tokens[0]) for seed in range(8))
    assert np.diff([*starts, starts[0] + 1000]).min() > 1000 / 8 / 3


@given(rate=st.floats(0.01, 100))
def test_a_trace_at_a_rate_has_it_and_keeps_its_pattern(rate: float) -> None:
    scaled = at_rate(poisson_trace(50), rate).arrival_s
    assert scaled is not None
    assert 49 / scaled[-1] == pytest.approx(rate)
    own = poisson_trace(50).arrival_s
    assert scaled / scaled[-1] == pytest.approx(own / own[-1])


def test_what_arrives_all_at_once_cannot_be_scaled() -> None:
    with pytest.raises(InputError, match="all arrive at once"):
        at_rate(replace(poisson_trace(3), arrival_s=np.zeros(3)), 1.0)


@given(n=st.integers(2, 60), num_requests=st.integers(2, 80), seed=st.integers(0, 20))
def test_the_busiest_stretch_is_as_short_as_any_and_keeps_its_gaps(
    n: int, num_requests: int, seed: int
) -> None:
    times = np.cumsum(np.random.default_rng(seed).exponential(1.0, n))
    whole = a_trace(n, times.tolist(), (times + 7).tolist())
    found = busiest(whole, num_requests)
    kept = min(n, num_requests)
    assert len(found) == kept and found.arrival_s is not None and found.deadline_s is not None
    spans = times[kept - 1 :] - times[: n - kept + 1]
    assert found.arrival_s[-1] - found.arrival_s[0] == pytest.approx(spans.min())
    start = int(spans.argmin())
    assert np.diff(found.arrival_s) == pytest.approx(np.diff(times[start : start + kept]))
    assert found.deadline_s - found.arrival_s == pytest.approx(np.full(kept, 7.0))


def test_a_stretched_trace_keeps_its_pattern_and_its_deadlines() -> None:
    found = stretched(a_trace(3, [0.0, 1.0, 4.0], [5.0, 6.0, 9.0]), 0.5)
    assert found.arrival_s is not None and found.deadline_s is not None
    assert found.arrival_s.tolist() == [0.0, 0.5, 2.0] and found.deadline_s.tolist() == [5.0, 5.5, 7.0]


def test_the_busiest_tenth_has_no_fewer_requests_than_any_other() -> None:
    times = np.concatenate([np.arange(0.0, 90.0, 3.0), np.linspace(90.0, 100.0, 41)])
    assert busiest_tenth(times).tolist() == list(range(30, 71))
    assert busiest_tenth(np.linspace(0.0, 100.0, 11)).tolist() == [9, 10]
    assert busiest_tenth(np.array([0.0, 5.0, 5.1, 100.0])).tolist() == [0, 1, 2]
