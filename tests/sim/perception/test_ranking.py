"""Predictors of an order: as close to the true one as they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import traces
from sim.cli import main
from sim.perception.accuracy import rank_report
from sim.perception.ranking import SCALE, Rank
from sim.perception.registry import make_predictor
from sim.scenario.scenario import scenario
from traces.errors import InputError
from traces.trace import Trace


@pytest.mark.parametrize("tau", [-1.0, -0.3, 0.0, 0.4, 0.6, 0.8, 1.0])
def test_tau_is_as_stated(tau: float) -> None:
    n = 4000
    rng = np.random.default_rng(1)
    trace = Trace("made up", np.arange(n), np.ones(n, dtype=int), rng.permutation(n) + 1)
    ranks = Rank(tau).predict(trace, rng)
    assert rank_report(ranks, trace.output_tokens).kendall_tau == pytest.approx(tau, abs=0.02)
    assert ranks.min() >= 0 and ranks.max() <= SCALE


def test_tau_holds_on_a_trace_whose_lengths_have_ties() -> None:
    trace = traces.load("alpaca-vicuna", num_prompts=4000)
    ranks = Rank(0.6).predict(trace, np.random.default_rng(0))
    assert rank_report(ranks, trace.output_tokens).kendall_tau == pytest.approx(0.6, abs=0.03)


def test_tau_has_bounds() -> None:
    with pytest.raises(InputError, match=r"tau: 1.5 must be between -1 and 1"):
        make_predictor("rank:tau=1.5")


@pytest.mark.parametrize("charge", ["on", "off"])
def test_ranks_order_a_queue_and_are_no_lengths_in_the_result(charge: str) -> None:
    """One place, all there at once: the shorter go first, and no predicted length is reported."""
    shared = scenario(
        "alpaca-vicuna", num_prompts=60, request_rate=np.inf, predictor=f"rank:tau=1,charge={charge}"
    )
    result = shared.run("continuous:order=shortest-predicted,max_num_seqs=1")
    started = np.argsort(np.asarray(result.columns["scheduled_s"]), kind="stable")
    assert (np.diff(shared.trace.output_tokens[started]) >= 0).all()
    assert result.requests.predicted_tokens.isna().all()


def test_a_router_that_weighs_work_refuses_an_order() -> None:
    shared = scenario(
        "fixed", num_prompts=4, predictor="rank:tau=1", replicas=2, router="least-predicted-work"
    )
    with pytest.raises(InputError, match=r"^predictor rank:tau=1.0 gives .* no lengths; a length is needed"):
        shared.run("continuous")
    assert scenario("fixed", num_prompts=4, predictor="rank:tau=1", replicas=2).run("continuous")


def test_its_errors_are_none_of_lengths(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "plot",
                "perception",
                "--num-prompts",
                "9",
                "--predictor",
                "rank:tau=1",
                "--out",
                f"{tmp_path}/p.png",
            ]
        )
    assert ended.value.code == 2
