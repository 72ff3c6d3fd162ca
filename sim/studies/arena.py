"""Every policy against every predictor that can serve it, by load and memory: what knowing lengths is worth.
Draws nothing.

All of one seed see the same requests at the same times, so that differences are of the policies alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np

from traces.arguments import checked
from traces.errors import InputError
from traces.spec import names_of
from traces.trace import FloatArray, Trace

from ..perception.predictions import ability
from ..perception.registry import make_predictor
from ..results.failures import failures_of
from ..results.paired import LATENCIES, NONE, SESSION_LATENCIES
from ..results.result import Result
from ..scenario.policies import make_scheduler
from ..scenario.scenario import Scenario, scenario
from ..scenario.settings import Keywords
from .capacity import check
from .cases import Case, points
from .prediction_error import check_policies
from .study import Study, StudyKeywords, frame_of, split

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "continuous"
POLICIES = (
    "continuous:order=shortest-prompt",
    "continuous:order=mlfq",
    "continuous:order=shortest-predicted",
    "continuous:order=ltr",
    "continuous:order=shortest-remaining,preempt_until=0.8",
    "continuous:order=shortest-remaining,preempt_until=0.8,ask_every=50",
    "continuous:order=gittins",
    "continuous:order=tie",
    "continuous:order=lower-bound",
    "continuous:admission=quantile:0.9",
)
SESSION_POLICIES = (
    "continuous:prefix_caching=on",
    "continuous:prefix_caching=on,order=longest-prefix-match",
    "continuous:prefix_caching=on,order=shortest-uncached",
    "continuous:prefix_caching=on,order=memory-time",
    "continuous:prefix_caching=on,waits=least-waste",
    "continuous:prefix_caching=on,order=memory-time,waits=least-waste",
)
"""Those beside the others where the trace has sessions."""
PREDICTORS = (
    "exact",
    "tuned:charge=off",
    "progressive:charge=off,ask_ms=0.1",
    "rank:tau=0.6",
    "rank:tau=0.4",
)
ARENA_LOADS = (0.9, 1.2)
SHORT, LONG = 0.25, 0.9
"""Answers up to the first quantile of the lengths are short, from the second on long."""
HARM = 2.0
"""A request is harmed where it takes so many times as long as under the baseline."""


def entries(policies: Sequence[str], predictors: Sequence[str], shared: Scenario) -> list[tuple[str, str]]:
    """Every policy with each predictor that gives what it needs, or with `NONE` where it needs nothing.

    What can be asked again serves only those that ask: for the others it is one more that errs.
    """
    found = []
    for policy in policies:
        needs = make_scheduler(policy, shared.limits).needs
        able = [text for text in predictors if _is_able(text, needs)] if needs else [NONE]
        if not able:
            raise InputError(
                f"policy {policy}: none of the predictors gives what it needs ({', '.join(needs)})"
            )
        found += [(policy, text) for text in able]
    return found


def _is_able(text: str, needs: Sequence[str]) -> bool:
    predictor = make_predictor(text)
    if "again" not in needs and getattr(predictor, "again", None) is not None:
        return False
    try:
        ability(predictor, needs)
    except InputError:
        return False
    return True


@checked
def arena(
    trace: Trace | str,
    *,
    cases: Sequence[Case],
    policies: Sequence[str] | str | None = None,
    predictors: Sequence[str] | str = PREDICTORS,
    baseline: str = BASELINE,
    loads: Sequence[float] = ARENA_LOADS,
    num_seeds: int = 3,
    **settings: Unpack[StudyKeywords],
) -> pd.DataFrame:
    """What each policy does with each predictor, by case and load, beside `baseline` without any.

    `policies` None: `POLICIES`, and `SESSION_POLICIES` where the trace has sessions. One row per case, load,
    seed, policy and predictor, the baseline first: columns case, load, request_rate, seed, policy, predictor,
    those of `LATENCIES` and, with sessions, `SESSION_LATENCIES`, wait_max_s (the longest wait for a first
    token), slowdown_short and slowdown_long (E2EL over that alone on the machine, means of short and of long
    answers), harmed (share of requests that take more than twice as long as under the baseline),
    request_throughput, preemptions, recomputed_share (tokens computed again, over all computed), and what
    failed. A load is a share of what `baseline` gets done in that case (`capacity`). `settings` as for
    `simulate` and `Study`.
    """
    running, rest = split(settings)
    chosen = default_policies(trace, rest) if policies is None else policies
    policies, predictors = names_of(chosen, "policies"), names_of(predictors, "predictors")
    check_policies(*policies, baseline)
    first_seed, rest = check(num_seeds, rest, loads=loads, cases=cases)
    shared = _Arena(trace, tuple(cases), tuple(policies), tuple(predictors), baseline, rest)
    with Study(**running) as study:
        every = points(
            study,
            trace,
            cases,
            loads,
            baseline=baseline,
            first_seed=first_seed,
            num_seeds=num_seeds,
            settings=rest,
        )
        about = {name: value for name, value in shared._asdict().items() if name != "settings"}
        return frame_of(study.run(_arena_rows, shared, every, {**about, **rest}))


def default_policies(trace: Trace | str, settings: Keywords) -> tuple[str, ...]:
    """Those that are compared where none are chosen."""
    as_it_comes: Keywords = {"request_rate": None, "burstiness": 1.0}
    has_sessions = scenario(trace, **(settings | as_it_comes)).trace.is_waiting.any()
    return POLICIES + SESSION_POLICIES if has_sessions else POLICIES


class _Arena(NamedTuple):
    """What all points share."""

    trace: Trace | str
    cases: tuple[Case, ...]
    policies: tuple[str, ...]
    predictors: tuple[str, ...]
    baseline: str
    settings: Keywords


def _arena_rows(shared: _Arena, case: int, load: float, rate: float, seed: int) -> list[dict[str, Any]]:
    of = shared.cases[case]
    workload = of.arriving_at(shared.trace, rate, shared.settings | {"seed": seed})
    alone_s = _alone_s(workload)
    where = {"case": of.label, "load": load, "request_rate": rate, "seed": seed}
    base = workload.run(shared.baseline, log=True)
    rows = [{**where, "policy": shared.baseline, "predictor": NONE, **_figures(base, base, alone_s)}]
    for policy, text in entries(shared.policies, shared.predictors, workload):
        predictor = make_predictor("exact" if text == NONE else text)
        result = replace(workload, predictor=predictor).run(policy, log=True)
        rows.append({**where, "policy": policy, "predictor": text, **_figures(result, base, alone_s)})
    return rows


def _alone_s(workload: Scenario) -> FloatArray:
    """How long each request takes alone on the machine (s), shape (n,)."""
    cost, trace = workload.profile.iteration_cost, workload.trace
    seconds = []
    for prompt, answer in zip(trace.prompt_tokens.tolist(), trace.output_tokens.tolist(), strict=True):
        first_s = cost.mixed_s(0, 0, 1, prompt, prompt * prompt / 2)
        seconds.append(first_s + (answer - 1) * cost.decode_s(1, prompt + answer / 2))
    return np.array(seconds)


def _figures(result: Result, base: Result, alone_s: FloatArray) -> dict[str, Any]:
    """What a row has of a run."""
    columns, summary = result.columns, result.summary
    taken, before = (_e2el_s(run) for run in (result, base))
    lengths = columns["output_tokens"]
    is_short, is_long = lengths <= np.quantile(lengths, SHORT), lengths >= np.quantile(lengths, LONG)
    slowdown = taken / alone_s
    computed = sum(tokens for b in result.batches for tokens, _ in b.chunks)
    prompts = int(columns["prompt_tokens"][np.isfinite(columns["first_token_s"])].sum())
    again = max(0, computed - prompts)
    done = int(lengths[np.isfinite(taken)].sum())
    return {
        **{name: summary[name] for name in LATENCIES + SESSION_LATENCIES if name in summary},
        "wait_max_s": float(np.nanmax(columns["first_token_s"] - columns["arrival_s"])),
        "slowdown_short": float(np.nanmean(slowdown[is_short])),
        "slowdown_long": float(np.nanmean(slowdown[is_long])),
        "harmed": float((taken > HARM * before).mean()),
        "request_throughput": summary["request_throughput"],
        "preemptions": summary["preemptions"],
        "recomputed_share": again / max(1, computed + done),
        **failures_of(summary),
    }


def _e2el_s(result: Result) -> FloatArray:
    taken: FloatArray = result.columns["finish_s"] - result.columns["arrival_s"]
    return taken
