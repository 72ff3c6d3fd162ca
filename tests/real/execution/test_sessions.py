"""Sessions on a real model: a turn comes when those before have ended, and its prompt holds their answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the real extra is not installed")

from real.engines.scheduling import EngineSizes
from real.execution.own_scheduler import OwnSchedulerRun
from real.execution.run import run
from real.lengths.prompts import random_prompts
from tests.real.own_engine import OwnEngine
from traces.trace import Trace

TALKS = "sessions:turns=3,think_s={think_s},system_tokens=12,prompt_tokens=6,output_tokens=6,agents=1"


@pytest.fixture
def talk() -> Callable[..., Any]:
    """(think_s, **settings) -> a scenario of sessions that all start at once."""
    from sim.scenario.scenario import scenario

    def make(think_s: float = 0.0, **settings: Any) -> Any:
        given = {"num_prompts": 24, "request_rate": float("inf"), "kv_blocks": 256, **settings}
        return scenario(TALKS.format(think_s=think_s), **given)

    return make


def served(scenario: Any, policy: str, engine: Any, loaded: Any, lengths: Any = "trace") -> tuple[Any, Any]:
    """What was measured, and the prompts before any answer was in them."""
    trace = scenario.trace
    rng = np.random.default_rng(1)
    given = random_prompts(trace.prompt_tokens.tolist(), loaded.ordinary_tokens, rng, trace.blocks)
    before = [list(prompt) for prompt in given]
    measured = run(scenario, policy, engine, loaded, given, lengths=lengths)
    assert given == before
    return measured, given


def check_causality(trace: Trace, columns: Any) -> None:
    """Who waits comes its think time after the last of the others has ended."""
    waits_for, waiting = trace.waits_for, trace.is_waiting
    assert waits_for is not None and waiting.any()
    for row in np.flatnonzero(waiting):
        parents = waits_for[row][waits_for[row] >= 0]
        due_s = columns["finish_s"][parents].max() + trace.thinks_s[row]
        assert columns["arrival_s"][row] == pytest.approx(due_s, abs=1e-9)
        assert columns["scheduled_s"][row] >= columns["arrival_s"][row]


@pytest.mark.parametrize(
    ("policy", "engine"),
    [
        ("vanilla", "transformers-eager"),
        ("continuous:max_num_seqs=4,max_num_batched_tokens=32", "cuda-graphs"),
        ("continuous:order=shortest-predicted,max_num_seqs=3,prefix_caching=on", "cuda-graphs"),
    ],
)
def test_without_think_times_decisions_are_those_of_the_simulator(
    policy: str, engine: str, talk: Callable[..., Any], make_engine: Any, loaded: Any
) -> None:
    scenario = talk()
    measured, _ = served(scenario, policy, make_engine(engine, scenario.limits.kv_tokens), loaded)
    predicted = scenario.run(policy, log=True)
    assert measured.result.decisions == predicted.decisions
    assert measured.result.summary.keys() == predicted.summary.keys()
    assert measured.result.summary.get("prefix_hit_fraction") == predicted.summary.get("prefix_hit_fraction")
    check_causality(scenario.trace, measured.result.columns)


def test_think_times_pass_and_prompts_hold_the_answers(
    talk: Callable[..., Any], make_engine: Any, loaded: Any, alone: Any
) -> None:
    scenario = talk(0.02, num_prompts=12)
    engine = make_engine("cuda-graphs", scenario.limits.kv_tokens)
    measured, prompts = served(scenario, "continuous:max_num_seqs=4", engine, loaded)
    trace = scenario.trace
    check_causality(trace, measured.result.columns)
    blocks, held = trace.blocks, 0
    of_answer = {value: row for row, value in enumerate(blocks.answers.tolist()) if value >= 0}
    for row in range(len(trace)):
        prompt, start = list(prompts[row]), 0
        for value, end in zip(*blocks.of(row), strict=True):
            if value in of_answer:
                prompt[start:end] = measured.answers[of_answer[value]]
                held += 1
            start = end
        assert len(prompt) == trace.prompt_tokens[row]
        assert measured.answers[row] == alone(prompt, int(trace.output_tokens[row]))
    assert held >= 4


def test_the_rest_of_a_session_is_cancelled_with_a_request(
    talk: Callable[..., Any], make_engine: Any, loaded: Any
) -> None:
    scenario = talk()
    first = int(np.flatnonzero(~scenario.trace.is_waiting)[0])
    caps = scenario.trace.output_tokens.copy()
    caps[first] = 100_000  # more than memory ever holds
    scenario = replace(scenario, trace=replace(scenario.trace, max_tokens=caps))
    engine = make_engine("cuda-graphs", scenario.limits.kv_tokens)
    measured, _ = served(scenario, "continuous", engine, loaded)
    expected = scenario.run("continuous").columns["reason"].tolist()
    reasons = measured.result.columns["reason"].tolist()
    assert reasons == expected
    after = int((scenario.trace.sessions == scenario.trace.sessions[first]).sum()) - 1
    assert sum(str(reason).startswith("cancelled") for reason in reasons) == after > 0


def test_answers_that_the_model_ends_keep_prompts_as_long_as_the_trace_says(
    talk: Callable[..., Any], make_engine: Any, chatty: Any
) -> None:
    scenario = talk(num_prompts=12)
    engine = make_engine("cuda-graphs", scenario.limits.kv_tokens)
    measured, _ = served(scenario, "continuous", engine, chatty, lengths="model")
    assert measured.result.columns["prompt_tokens"].tolist() == scenario.trace.prompt_tokens.tolist()
    assert measured.output_tokens != scenario.trace.output_tokens.tolist()
    check_causality(scenario.trace, measured.result.columns)


def test_an_engine_with_its_own_scheduler_gets_turns_in_time_with_answers_in_them(
    talk: Callable[..., Any], loaded: Any
) -> None:
    scenario = talk(0.005)
    trace = scenario.trace
    given = random_prompts(
        trace.prompt_tokens.tolist(), loaded.ordinary_tokens, np.random.default_rng(1), trace.blocks
    )
    engine = OwnEngine(loaded, EngineSizes(16, 256, 256, 4096))
    seen: dict[int, list[int]] = {}
    add = engine.add

    def noted(key: int, prompt: Any, *rest: Any) -> None:
        seen[key] = list(prompt)
        add(key, prompt, *rest)

    engine.add = noted  # type: ignore[method-assign]
    under_way = OwnSchedulerRun(
        scenario, "continuous:max_num_seqs=4,prefix_caching=off", engine, loaded, given
    )
    while under_way.step():
        pass
    measured = under_way.measured()
    check_causality(trace, measured.result.columns)
    assert measured.result.summary["completed"] == len(trace) and "mean_session_ms" in measured.result.summary
    assert any(seen[row] != list(given[row]) for row in np.flatnonzero(trace.is_waiting))
    for row, places in under_way.turns.places.items():
        for place in places:
            assert seen[place.row][place.start : place.end] == measured.answers[row]
