"""What a log says that tokens take is what they took, however exactly they were seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.scenario.scenario import scenario
from sim.studies.log_fit import IterationModel
from sim.studies.log_start import start_of
from sim.studies.server_log import Log
from sim.studies.slot_log import PASSES, begun_first, seen_at_once, together
from traces.trace import Trace

SIZES = (1.0, 4.0)
SECONDS = np.array([6e-3, 25e-3, 1e-6, 4.5e-3, 1e-6])
"""A server on a processor: a prompt of 40 tokens takes as long as six iterations of four sequences."""


def seen(seed: int, jitter_s: float) -> Log:
    """60 requests at once at four slots, whose tokens are seen up to so much later than they were there."""
    rng = np.random.default_rng(seed)
    n = 60
    output = rng.choice([6, 8, 12, 16, 24, 48, 64, 96], n)
    trace = Trace("log", np.arange(n), rng.integers(34, 45, n), output, arrival_s=np.zeros(n))
    run = scenario(
        trace, profile=IterationModel(SIZES).profile(SECONDS), kv_blocks=n * 16, predictor="exact"
    ).run("continuous:max_num_seqs=4,async_scheduling=off")
    first, last = (run.columns[key] + 1e3 * jitter_s * rng.random(n) for key in ("ttft_ms", "e2el_ms"))
    latency = {"ttft_ms": first, "e2el_ms": last, "tpot_ms": (last - first) / (output - 1)}
    return Log(trace, latency, ())


@pytest.mark.parametrize("jitter_s", [1e-3, 4e-3])
@pytest.mark.parametrize("seed", range(4))
def test_prompts_cost_what_they_cost(seed: int, jitter_s: float) -> None:
    exact, found = (
        start_of([seen_at_once(seen(seed, at_most))], SIZES, PASSES) for at_most in (0.0, jitter_s)
    )
    assert exact[3] == pytest.approx(SECONDS[3], rel=0.05)
    assert exact[0] + exact[1] == pytest.approx(SECONDS[0] + SECONDS[1], rel=0.1)
    assert found[3] == pytest.approx(exact[3], rel=0.03)
    assert found[0] + found[1] == pytest.approx(exact[0] + exact[1], rel=0.05)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.floats(0, 10))
def test_times_are_moved_by_less_than_the_width_and_keep_their_order(
    values: list[float], width: float
) -> None:
    times = np.array(values)
    moved = together(times, width)
    assert (abs(moved - times) <= width + 1e-9).all()
    assert (np.diff(moved[np.argsort(times, kind="stable")]) >= -1e-9).all()
    assert moved.sum() == pytest.approx(times.sum(), abs=1e-6)


def test_what_is_seen_within_the_width_is_seen_at_once() -> None:
    times = np.array([0.9, 2.0, 1.0, 1.11, 5.0])
    assert together(times, 0.2).tolist() == pytest.approx([0.95, 2.0, 0.95, 1.11, 5.0])


@pytest.mark.parametrize(
    ("iterations", "num_first"),
    [([60], 0), ([1, 5, 54], 1), ([5, 1, 54], 5), ([1, 1, 4, 54], 2), ([6, 54], 0), ([2, 1, 2, 9, 46], 5)],
)
def test_who_began_while_slots_were_left(iterations: list[int], num_first: int) -> None:
    """On a server of six slots; tokens of an iteration are seen up to 2 ms apart."""
    rng = np.random.default_rng(0)
    first_s = np.repeat(np.cumsum([0.1] * len(iterations)), iterations) + 2e-3 * rng.random(60)
    output = np.full(60, 11)
    trace = Trace("log", np.arange(60), np.full(60, 40), output, arrival_s=np.zeros(60))
    order = rng.permutation(60)
    latency = {"ttft_ms": 1e3 * first_s[order], "tpot_ms": np.full(60, 20.0)}
    log = Log(trace, latency | {"e2el_ms": latency["ttft_ms"] + 200.0}, ())
    assert begun_first(log, 6) == num_first
