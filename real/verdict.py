"""The experiment behind `real/quality.py`: policies' answers compared, their first differences explained."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from plots import style
from sim import perception
from sim.policies import make_scheduler
from sim.simulation import DEFAULT_PROFILE, Scenario, scenario

from . import model as models
from .answers import Comparison, compare
from .calibration import default_capacity, versions
from .engine import Engine
from .model import LoadedModel
from .options import Replay
from .prompts import Prompts, prompts_of
from .rounding import FORCED_STEPS, SLACK, Divergence, batch_effect, explain
from .run import Measured, RealRun, make_engine
from .tap import tapped

Pair = tuple[str, str]

EFFECT_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes at which the effect on logits is measured by itself."""


@dataclass(frozen=True)
class Explained:
    """One policy under one predictor, held against the first."""

    policy: str
    predictor: str
    comparison: Comparison
    divergences: tuple[Divergence, ...] = ()
    not_reproduced: int = 0
    """First differences that did not come again in the run that recorded logits."""


@dataclass(frozen=True)
class Verdict:
    """What was compared with what, and what came of it."""

    about: dict[str, Any]
    baseline: str
    is_exact: bool
    """The model runs in float32: every answer must be equal."""
    cases: tuple[Explained, ...]
    effect: dict[int, float] = field(default_factory=dict)
    """Batch size -> the largest |difference| of a logit that it alone makes."""
    margins: tuple[float, ...] = ()
    """Of every token of the first policy's answers that were looked into: the best logit less the second."""

    @property
    def noise(self) -> float:
        """The largest effect that a batch size alone was seen to have on a logit."""
        return max(self.effect.values(), default=0.0)

    def beyond_rounding(self, case: Explained) -> list[Divergence]:
        """First differences that no near tie and no batch size account for."""
        return [d for d in case.divergences if not d.is_tie or d.difference > SLACK * self.noise]

    def failures(self) -> list[str]:
        """One line for everything that must not be."""
        lines = []
        for case in self.cases:
            name, found = f"{case.policy} ({case.predictor})", case.comparison
            if self.is_exact and not found.is_equal:
                lines.append(
                    f"{name}: {len(found.first_divergence)} of {found.requests} answers differ from those "
                    f"under {self.baseline}, {found.only_one} are on one side only; "
                    "in float32 all must be equal"
                )
            elif found.only_one:
                lines.append(f"{name}: {found.only_one} requests were answered on one side only")
            if bad := self.beyond_rounding(case):
                lines.append(
                    f"{name}: {len(bad)} first differences are no near ties that rounding turns, "
                    f"the first in request {bad[0].request} at token {bad[0].place}"
                )
        return lines

    def summary(self) -> dict[str, Any]:
        """What a script wants to know."""
        compared = [case.comparison for case in self.cases]
        return {
            **{key: value for key, value in self.about.items() if key != "versions"},
            "exact_match": min((c.exact_match for c in compared), default=1.0),
            "answers_compared": sum(c.requests for c in compared),
            "answers_diverged": sum(len(c.first_divergence) for c in compared),
            "divergences_explained": sum(
                len(c.divergences) - len(self.beyond_rounding(c)) for c in self.cases
            ),
            "divergences_not_reproduced": sum(c.not_reproduced for c in self.cases),
            "smallest_length_ks_p": min((c.ks_p for c in compared), default=1.0),
            "batch_effect_on_logits": self.noise,
            "passed": not self.failures(),
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            **self.about,
            **self.summary(),
            "baseline": self.baseline,
            "batch_effect": {str(size): value for size, value in self.effect.items()},
            "cases": [
                {
                    "policy": case.policy,
                    "predictor": case.predictor,
                    **case.comparison.to_json(),
                    "not_reproduced": case.not_reproduced,
                    "divergences": [d.to_json() for d in case.divergences],
                }
                for case in self.cases
            ],
        }

    def markdown(self) -> str:
        """A page for people."""
        heads = ["policy", "predictor", "equal answers", "first difference (median)", "length KS", "p"]
        heads += ["margin there", "logits moved", "explained"]
        lines = [f"- {key}: {value}" for key, value in self.about.items() if key != "versions"]
        lines += [f"- held against: {self.baseline}", ""]
        lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for case in self.cases:
            found = case.comparison
            told = found.to_json()
            equal = found.requests - len(found.first_divergence)
            where = "–"
            if found.first_divergence:
                where = f"token {told['earliest_divergence']} ({told['median_divergence']:g})"
            cells = [
                case.policy,
                case.predictor,
                f"{equal} of {found.requests} ({found.exact_match:.1%})",
                where,
            ]
            cells += [f"{found.ks_statistic:.3f}", f"{found.ks_p:.3f}"]
            cells.append(_largest([d.margin for d in case.divergences]))
            cells.append(_largest([d.difference for d in case.divergences]))
            explained = len(case.divergences) - len(self.beyond_rounding(case))
            cells.append(f"{explained} of {len(case.divergences)}" if case.divergences else "–")
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
        if self.effect:
            sizes = ", ".join(f"{size}: {value:.3g}" for size, value in self.effect.items())
            lines.append(
                f"Largest |logit difference| that a batch of so many makes, teacher-forced: {sizes}."
            )
        if self.margins and self.noise:
            share = float(np.mean(np.asarray(self.margins) <= 2 * self.noise))
            lines.append(
                f"Of {len(self.margins):,} tokens, {share:.2%} had a margin that such moves can turn."
            )
        return "\n".join(lines) + "\n"

    def figure(self) -> Figure:
        """How the margins of all tokens are spread, and where those at first differences lie."""
        fig, (ax,) = style.figure(7.0, 4.0)
        ties = [d.margin for case in self.cases for d in case.divergences]
        for values, colour, label in (
            (self.margins, style.USEFUL, "all tokens"),
            (ties, style.ACCENT, "at first differences"),
        ):
            if values:
                ordered = np.sort(np.asarray(values))
                share = 100 * np.arange(1, len(ordered) + 1) / len(ordered)
                ax.step(ordered, share, where="post", color=colour, label=f"{label} (n = {len(ordered):,})")
        if self.noise:
            ax.axvline(self.noise, color=style.EDGE, linestyle="--", label="largest effect of a batch size")
        ax.set_xscale("symlog", linthresh=max(self.noise / 10, 1e-6))
        ax.set_xlabel("Margin of the chosen token: best logit less second (symlog scale)")
        ax.set_ylabel("Share with at most this margin (%)")
        ax.set_title(style.plain(str(self.about.get("ran", ""))), fontsize=style.FONT_SIZE)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(loc="upper left", fontsize=style.FONT_SIZE)
        return fig


def _largest(values: Sequence[float]) -> str:
    return f"≤ {max(values):.3g}" if values else "–"


@dataclass
class Bench:
    """A loaded model and its engine, ready to answer the same prompts under any policy."""

    loaded: LoadedModel
    engine: Engine
    replay: Replay
    scenarios: dict[str, Scenario]
    prompts: Prompts

    def run(self, pair: Pair, engine: Engine | None = None) -> Measured:
        """The answers under this policy and predictor."""
        policy, predictor = pair
        run = RealRun(
            self.scenarios[predictor],
            policy,
            engine or self.engine,
            self.loaded,
            self.prompts,
            self.replay.lengths,
        )
        while run.step():
            pass
        return run.measured()


def judge(replay: Replay, pairs: Sequence[Pair], say: Callable[[str], None]) -> Verdict:
    """Run every pair, hold all against the first, and look into what differs."""
    bench = _prepare(replay, pairs)
    answers = {}
    for pair in pairs:
        answers[pair] = bench.run(pair).answers
        say(f"{pair[0]} ({pair[1]}): {len(answers[pair])} answers")
    first, *others = pairs
    cases = tuple(Explained(*pair, compare(answers[first], answers[pair])) for pair in others)
    base = bench.scenarios[first[1]]
    verdict = Verdict(
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
    if not any(case.comparison.first_divergence for case in cases):
        return verdict
    say("answers differ: running again with logits recorded")
    return _explained(bench, verdict, first, others, answers[first])


def _prepare(replay: Replay, pairs: Sequence[Pair]) -> Bench:
    profile = replay.profile or DEFAULT_PROFILE
    settings = replay.settings()
    # Bad settings are refused before the model is loaded.
    checked = scenario(replay.source(), predictor=pairs[0][1], profile=profile, **settings)
    for policy, predictor in pairs:
        make_scheduler(policy, checked.limits)
        perception.predictor(predictor)
    loaded = models.load(**replay.chosen, seed=replay.seed)
    capacity = (replay.kv_tokens or default_capacity(loaded)) // 16 * 16
    engine = make_engine(replay.engine, loaded, capacity, compile_layers=replay.compile_layers)
    scenarios: dict[str, Scenario] = {}
    prompts: Prompts = ()
    for _, predictor in pairs:
        if predictor not in scenarios:
            made = scenario(
                replay.source(), predictor=predictor, profile=profile, kv_blocks=capacity // 16, **settings
            )
            rng = np.random.default_rng(made.seed)
            given, prompts = prompts_of(made.trace, loaded.tokenizer, loaded.shape.vocab, rng)
            scenarios[predictor] = replace(made, trace=given)
    return Bench(loaded, engine, replay, scenarios, prompts)


def _effect(bench: Bench, answers: dict[int, list[int]]) -> dict[int, float]:
    """What a batch size alone does to the logits, on prompts with half their answers behind them."""
    texts = [
        [*bench.prompts[i], *answers[i][: len(answers[i]) // 2]] for i in sorted(answers)[: max(EFFECT_SIZES)]
    ]
    longest = max(map(len, texts), default=0) + FORCED_STEPS + 1
    room = min(len(texts), bench.engine.capacity_tokens // longest)
    return batch_effect(bench.engine, texts, [size for size in EFFECT_SIZES if size <= room])


def _explained(
    bench: Bench, verdict: Verdict, first: Pair, others: Sequence[Pair], answers: dict[int, list[int]]
) -> Verdict:
    """Run again, with the logits behind every first difference recorded on both sides."""
    wanted: defaultdict[int, set[int]] = defaultdict(set)
    for case in verdict.cases:
        for i, place in case.comparison.first_divergence.items():
            wanted[i].add(place)
    base = tapped(bench.engine, bench.prompts, wanted)
    with base.attached():
        bench.run(first, base)
    cases = []
    for case, pair in zip(verdict.cases, others, strict=True):
        places = case.comparison.first_divergence
        tap = tapped(bench.engine, bench.prompts, {i: {place} for i, place in places.items()})
        if places:
            with tap.attached():
                bench.run(pair, tap)
        found = [
            explain(i, place, base.logits[i, place], tap.logits[i, place])
            for i, place in sorted(places.items())
            if (i, place) in base.logits and (i, place) in tap.logits
        ]
        seen = tuple(d for d in found if d is not None)
        cases.append(replace(case, divergences=seen, not_reproduced=len(places) - len(seen)))
    margins = tuple(m for i in sorted(answers) for m in base.margins.get(i, [])[: len(answers[i])])
    return replace(verdict, cases=tuple(cases), margins=margins)
