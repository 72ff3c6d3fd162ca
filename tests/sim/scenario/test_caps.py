"""Caps that requests have of their own: where they come from, what they decide, and what they must not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim import simulate
from sim.cli import main
from sim.results.caps import cap_texts
from sim.scenario.requests import requests_of
from sim.scenario.settings import WorkloadSettings
from sim.simulation import compare
from traces.errors import InputError
from traces.trace import Trace

N = 200
# Where the engine decides an iteration ahead, it knows by the caps whose answer ends with the one in flight.
LENGTH_AWARE = (
    "continuous:order=shortest-predicted,max_num_seqs=16,async_scheduling=off",
    "continuous:order=shortest-remaining,admission=predicted,max_num_seqs=16,async_scheduling=off",
    "continuous:order=fair,max_num_seqs=16,async_scheduling=off",
    "sequence:vbs=memory",
    "sequence:vbs=table,fcr=on",
    "sequence:max_wait_s=1",
)
HOW: dict[str, Any] = {"profile": "h200-vicuna-7b", "predictor": "constant:tokens=300", "max_new_tokens": 512}


def trace(caps: list[int] | None = None, n: int = N) -> Trace:
    rng = np.random.default_rng(4)
    return Trace(
        name="made up",
        request_id=np.arange(n),
        prompt_tokens=rng.integers(10, 400, n),
        output_tokens=rng.integers(1, 500, n),
        arrival_s=np.cumsum(rng.exponential(0.02, n)),
        user=np.array([f"u{i % 3}" for i in range(n)], dtype=object),
        max_tokens=None if caps is None else np.array(caps),
    )


def requests(**settings: Any) -> Trace:
    return requests_of(WorkloadSettings(**settings), 0)


def test_a_column_of_caps_is_used_unless_one_cap_is_asked_for() -> None:
    made = trace([100, 50, 400], 3)
    made = replace(made, output_tokens=np.array([70, 60, 400]))
    for cap in ("auto", "column"):
        asked = requests(trace=made, cap=cap)
        assert asked.max_tokens is not None and asked.max_tokens.tolist() == [100, 50, 400]
        assert asked.output_tokens.tolist() == [70, 50, 400]  # never beyond its cap
        assert asked.max_new_tokens == 400
    shared = requests(trace=made, cap="shared")
    assert (shared.max_tokens, shared.max_new_tokens) == (None, 512)
    assert shared.output_tokens.tolist() == [70, 60, 400]
    bounded = requests(trace=made, max_new_tokens=80)
    assert bounded.max_tokens is not None and bounded.max_tokens.tolist() == [80, 50, 80]
    assert bounded.output_tokens.tolist() == [70, 50, 80]


def test_own_caps_are_the_answers_lengths_as_scaled_and_cut() -> None:
    asked = requests(trace=trace(), cap="own", output_scale=0.5, max_new_tokens=200)
    assert asked.max_tokens is not None and (asked.max_tokens == asked.output_tokens).all()
    assert asked.max_new_tokens == asked.output_tokens.max() == 200
    assert requests(trace="fixed:output_tokens=30", num_prompts=4, cap="own").max_new_tokens == 30


def test_caps_of_a_column_are_scaled_with_the_answers() -> None:
    made = requests(trace=trace([500] * N), output_scale=0.5)
    assert made.max_tokens is not None and set(made.max_tokens.tolist()) == {250}


def test_a_trace_whose_caps_are_settled_can_be_settled_again() -> None:
    once = requests(trace=trace(), cap="own")
    again = requests(trace=once, cap="own")
    assert again.max_tokens is not None and once.max_tokens is not None
    assert (again.max_tokens == once.max_tokens).all() and again.max_new_tokens == once.max_new_tokens


@pytest.mark.parametrize(
    ("cap", "named"),
    [
        ("column", "cap: column, but made up has no column max_tokens"),
        ("colum", "cap: 'colum' is not one of auto, column, shared, own; did you mean column?"),
    ],
)
def test_a_cap_that_cannot_be_used_is_named(cap: str, named: str) -> None:
    with pytest.raises(InputError) as error:
        requests(trace=trace(), cap=cap)
    assert str(error.value) == named


def test_its_own_cap_decides_whether_a_request_can_ever_fit() -> None:
    how: dict[str, Any] = {"policy": "continuous", "profile": "h200-vicuna-7b", "kv_blocks": 40}
    made = replace(trace(n=2), prompt_tokens=np.array([100, 100]), output_tokens=np.array([50, 600]))
    assert simulate(made, **how).summary["failed"] == 2  # 100 and 600 are more than 640 tokens
    own = simulate(made, cap="own", **how)
    assert list(own.columns["status"]) == ["completed", "rejected"]
    assert "max_new_tokens (700)" in str(own.columns["reason"][1])


@pytest.mark.parametrize("policy", LENGTH_AWARE)
@pytest.mark.parametrize("router", ["least-requests", "least-predicted-work"])
def test_no_policy_profits_from_caps_that_are_the_answers(policy: str, router: str) -> None:
    how = HOW | {"policy": policy, "router": router, "replicas": 2}
    shared, own = simulate(trace(), **how), simulate(trace(), cap="own", **how)
    # Memory is plentiful: the cap decides nothing, so that whoever goes by it is caught.
    assert (own.columns["scheduled_s"] == shared.columns["scheduled_s"]).all()
    assert (own.columns["finish_s"] == shared.columns["finish_s"]).all()


@pytest.mark.parametrize("policy", ["continuous:order=fair,max_num_seqs=4,async_scheduling=off"])
def test_shares_and_routes_without_predictions_do_not_go_by_caps(policy: str) -> None:
    # Asked of the model, and never by these: nothing is predicted where they would want to know it.
    how = HOW | {"policy": policy, "predictor": "oracle:charge=on", "router": "least-predicted-work"}
    results = [simulate(trace(), cap=cap, replicas=2, **how) for cap in ("shared", "own")]
    bound = [int(result.columns["output_tokens"].max()) for result in results]
    assert bound[0] == bound[1]
    one, other = (result.columns["finish_s"] for result in results)
    same = simulate(trace(), cap="own", replicas=2, **how | {"max_new_tokens": bound[0]})
    assert (same.columns["finish_s"] == other).all()
    capped = simulate(trace(), cap="shared", replicas=2, **how | {"max_new_tokens": bound[0]})
    assert (capped.columns["finish_s"] == other).all() and len(one) == N


def test_planned_memory_does_not_go_by_caps() -> None:
    how = HOW | {
        "policy": "continuous:order=fcfs,admission=predicted,async_scheduling=off",
        "kv_blocks": 151,
        "predictor": "constant:tokens=400",
    }
    made = replace(trace(), output_tokens=np.minimum(trace().output_tokens, 90))
    own = simulate(made, cap="own", **how | {"max_new_tokens": None})
    shared = simulate(made, cap="shared", **how | {"max_new_tokens": 90})
    assert (own.columns["finish_s"] == shared.columns["finish_s"]).all()
    told = simulate(made, cap="own", **how | {"max_new_tokens": None, "predictor": "cap"})
    assert told.summary["duration"] < own.summary["duration"]


def test_the_predictor_cap_takes_caps_at_their_word() -> None:
    policy = "continuous:order=shortest-predicted,max_num_seqs=8"
    how = HOW | {"policy": policy, "cap": "own"}
    told, exact = (
        simulate(trace(), **how | {"predictor": "cap"}),
        simulate(trace(), **how | {"predictor": "exact"}),
    )
    assert (told.columns["finish_s"] == exact.columns["finish_s"]).all()
    blind = simulate(trace(), **how)
    assert told.summary["mean_e2el_ms"] < blind.summary["mean_e2el_ms"]
    alike = simulate(trace(), **HOW | {"policy": policy, "predictor": "cap"})
    assert set(alike.columns["predicted_tokens"].tolist()) == {512.0}


def test_the_summary_says_where_caps_tell_the_answers() -> None:
    how = {"policy": "continuous", "profile": "h200-vicuna-7b"}
    assert "share_at_cap" not in simulate(trace(), **how).summary
    assert not cap_texts(simulate(trace(), **how).summary)
    own = simulate(trace(), cap="own", **how).summary
    assert own["share_at_cap"] == 1 and "Every request's cap is the answer's length" in cap_texts(own)[0]
    answers = trace().output_tokens
    mostly = simulate(trace([*answers[:160], *(answers[160:] + 1)]), **how).summary
    assert mostly["share_at_cap"] == 0.8 and cap_texts(mostly)[0].startswith("80% of the requests' caps are")
    loose = simulate(trace([600] * N), **how).summary
    assert loose["share_at_cap"] == 0 and not cap_texts(loose)
    compared = compare(trace(), policies="vanilla;continuous", cap="own", profile="h200-vicuna-7b")
    assert all(summary["share_at_cap"] == 1 for summary in compared.summaries.values())


def test_the_commands_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chat.jsonl"
    rows = [{"prompt_tokens": 100, "output_tokens": 20 + i, "max_tokens": 20 + i} for i in range(4)]
    path.write_text("\n".join(map(json.dumps, rows)))
    run = ["--trace", str(path), "--profile", "h200-vicuna-7b"]
    said = "the answer's length: caps tell"
    main(["simulate", *run])
    assert capsys.readouterr().out.count(said) == 1
    main(["compare", *run, "--policies", "vanilla;continuous"])
    assert capsys.readouterr().out.count(said) == 1
    main(["simulate", *run, "--json"])
    out, err = capsys.readouterr()
    assert json.loads(out)["share_at_cap"] == 1 and err.count(said) == 1
    main(["simulate", *run, "--cap", "shared", "--json"])
    out, err = capsys.readouterr()
    assert "share_at_cap" not in json.loads(out) and said not in err
