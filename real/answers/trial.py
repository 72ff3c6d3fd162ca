"""The experiment behind `real/quality.py`: compares policies' answers and explains first differences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from sim.hardware import catalogue as profiles
from sim.hardware.what_if import BLOCK_SIZE
from sim.perception.registry import make_predictor
from sim.scenario.policies import make_scheduler
from sim.scenario.scenario import Scenario
from sim.scenario.scenario import scenario as make_scenario
from sim.scenario.settings import DEFAULT_PROFILE
from traces.trace import IntArray

from ..calibration.calibration import versions
from ..engines.engine import Engine
from ..engines.logit_tap import LogitTap, logit_tap
from ..engines.model import LoadedModel
from ..execution.run import RealResult, RealRun, turns_of
from ..lengths.asker import lacks_texts, put
from ..lengths.own_lengths import with_lengths, with_own_lengths
from ..lengths.prompts import Prompts
from ..lengths.turns import with_other_prompts
from ..options import ReplayFlags
from .compare import compare
from .near_ties import FORCED_STEPS, batch_effect, explain
from .verdict import AnswerVerdict, ExplainedDiff

Pair = tuple[str, str]

EFFECT_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes whose effect on logits is measured."""


@dataclass
class Bench:
    """A loaded model and its engine, ready to answer the same prompts under any policy."""

    loaded: LoadedModel
    engine: Engine
    replay: ReplayFlags
    scenarios: dict[str, Scenario]
    prompts: Prompts

    def run(self, pair: Pair, tap: LogitTap | None = None) -> RealResult:
        """A run with this policy and predictor, answers included; its logits go through the tap."""
        policy, predictor = pair
        run = RealRun(
            self.scenarios[predictor],
            policy,
            tap or self.engine,
            self.loaded,
            self.prompts,
            self.replay.lengths,
            on_batch=None if tap is None else tap.next_rows,
        )
        while run.step():
            pass
        return run.measured()


def judge(replay: ReplayFlags, pairs: Sequence[Pair], say: Callable[[str], None]) -> AnswerVerdict:
    """Run every pair, compare all with the first, and explain the differences."""
    bench = _prepare(replay, pairs, say)
    answers = {}
    for pair in pairs:
        answers[pair] = bench.run(pair).answers
        say(f"{pair[0]} ({pair[1]}): {len(answers[pair])} answers")
    first, *others = pairs
    cases = tuple(ExplainedDiff(*pair, compare(answers[first], answers[pair])) for pair in others)
    base = bench.scenarios[first[1]]
    verdict = AnswerVerdict(
        about={
            "ran": f"{bench.engine.name} on {bench.loaded.label}",
            "trace": base.trace.name,
            "requests": len(base.trace),
            "lengths": replay.lengths,
            "seed": replay.seed,
            "kv_tokens": bench.engine.capacity_tokens,
            "versions": versions(),
        },
        baseline=f"{first[0]} ({first[1]})",
        is_exact=bench.loaded.dtype == torch.float32,
        cases=cases,
        effect=_effect(bench, answers[first]),
    )
    if not any(case.diff.first_divergence for case in cases):
        return verdict
    say("answers differ: running again with logits recorded")
    return _explained(bench, verdict, first, others, answers[first])


def _prepare(replay: ReplayFlags, pairs: Sequence[Pair], say: Callable[[str], None]) -> Bench:
    profile = replay.profile or DEFAULT_PROFILE
    settings = replay.settings()
    # Bad settings are refused before the model is loaded.
    checked = make_scenario(replay.source(), predictor=pairs[0][1], profile=profile, **settings)
    for policy, predictor in pairs:
        make_scheduler(policy, checked.limits)
        make_predictor(predictor)
    replay.check()
    loaded = replay.load()
    engine = replay.start(loaded, profiles.load(profile) if replay.profile else None)
    kv_blocks, source = engine.capacity_tokens // BLOCK_SIZE, replay.source(loaded)
    if line := lacks_texts(make_scenario(source, **settings).trace, loaded):
        say(line)
    own: IntArray | None = None
    scenarios: dict[str, Scenario] = {}
    prompts: Prompts = ()
    for _, predictor in pairs:
        if predictor not in scenarios:
            scenario = make_scenario(
                source, predictor=predictor, profile=profile, kv_blocks=kv_blocks, **settings
            )
            trace, prompts = put(scenario.trace, loaded, scenario.seed)
            scenario = replace(scenario, trace=trace)
            if own is not None:
                scenario = replace(scenario, trace=with_lengths(trace, own))
            elif replay.lengths == "model":
                scenario = with_own_lengths(scenario, engine, prompts, loaded.eos_tokens, say)
                own = scenario.trace.output_tokens
            scenarios[predictor] = scenario
    return Bench(loaded, engine, replay, scenarios, prompts)


def _effect(bench: Bench, answers: dict[int, list[int]]) -> dict[int, float]:
    """The effect of the batch size alone on logits, on prompts with half their answers appended."""
    texts = [
        [*bench.prompts[i], *answers[i][: len(answers[i]) // 2]] for i in sorted(answers)[: max(EFFECT_SIZES)]
    ]
    longest = max(map(len, texts), default=0) + FORCED_STEPS + 1
    room = min(len(texts), bench.engine.capacity_tokens // longest)
    return batch_effect(bench.engine, texts, [size for size in EFFECT_SIZES if size <= room])


def _explained(
    bench: Bench, verdict: AnswerVerdict, first: Pair, others: Sequence[Pair], answers: dict[int, list[int]]
) -> AnswerVerdict:
    """Run again, recording the logits behind every first difference on both sides."""
    wanted: defaultdict[int, set[int]] = defaultdict(set)
    trace = bench.scenarios[first[1]].trace
    held = turns_of(trace, bench.prompts, bench.loaded).places
    comparable: list[dict[int, int]] = []
    for case in verdict.cases:
        differ = case.diff.first_divergence
        others_asked = with_other_prompts(held, differ)
        comparable.append({i: place for i, place in differ.items() if i not in others_asked})
        for i, place in comparable[-1].items():
            wanted[i].add(place)
    base = logit_tap(bench.engine, wanted)
    with base.attached():
        bench.run(first, base)
    cases = []
    for case, pair, places in zip(verdict.cases, others, comparable, strict=True):
        tap = logit_tap(bench.engine, {i: {place} for i, place in places.items()})
        if places:
            with tap.attached():
                bench.run(pair, tap)
        explanations = [
            explain(i, place, base.logits[i, place], tap.logits[i, place])
            for i, place in sorted(places.items())
            if (i, place) in base.logits and (i, place) in tap.logits
        ]
        divergences = tuple(d for d in explanations if d is not None)
        explained = replace(case, divergences=divergences, not_reproduced=len(places) - len(divergences))
        cases.append(replace(explained, other_prompts=len(case.diff.first_divergence) - len(places)))
    margins = tuple(m for i in sorted(answers) for m in base.margins.get(i, [])[: len(answers[i])])
    return replace(verdict, cases=tuple(cases), margins=margins)
