"""The result of a comparison of answers: verdict, table and figure. Takes numbers; runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from plots import style

from .compare import AnswerDiff
from .near_ties import SLACK, Divergence


@dataclass(frozen=True)
class ExplainedDiff:
    """One policy with one predictor, compared with the first."""

    policy: str
    predictor: str
    diff: AnswerDiff
    divergences: tuple[Divergence, ...] = ()
    not_reproduced: int = 0
    """First differences that did not recur in the run that recorded logits."""
    other_prompts: int = 0
    """Answers that differ to prompts that differ, as they hold an earlier answer that does."""


@dataclass(frozen=True)
class AnswerVerdict:
    """All comparisons, and the verdict on them."""

    about: dict[str, Any]
    baseline: str
    is_exact: bool
    """The model runs in float32: every answer must be equal."""
    cases: tuple[ExplainedDiff, ...]
    effect: dict[int, float] = field(default_factory=dict)
    """Batch size -> the largest |difference| of a logit that it alone causes."""
    margins: tuple[float, ...] = ()
    """The best logit less the second, for every token of the first policy's answers that were recorded."""

    @property
    def noise(self) -> float:
        """The largest measured effect of a batch size alone on a logit."""
        return max(self.effect.values(), default=0.0)

    def beyond_rounding(self, case: ExplainedDiff) -> list[Divergence]:
        """First differences that neither a near tie nor the batch size explains."""
        return [d for d in case.divergences if not d.is_tie or d.difference > SLACK * self.noise]

    def failures(self) -> list[str]:
        """One line per failure; empty where the check passed."""
        lines = []
        for case in self.cases:
            name, diff = f"{case.policy} ({case.predictor})", case.diff
            if not diff.requests:
                lines.append(f"{name}: no request was answered on both sides: nothing to compare")
            if self.is_exact and not diff.is_equal:
                lines.append(
                    f"{name}: {len(diff.first_divergence)} of {diff.requests} answers differ from those "
                    f"under {self.baseline}, {diff.only_one} are on one side only; "
                    "in float32 all must be equal"
                )
            elif diff.only_one:
                lines.append(f"{name}: {diff.only_one} requests were answered on one side only")
            if bad := self.beyond_rounding(case):
                lines.append(
                    f"{name}: {len(bad)} first differences are not near ties that rounding turns, "
                    f"the first in request {bad[0].request} at token {bad[0].place}"
                )
        return lines

    def summary(self) -> dict[str, Any]:
        """The main numbers, for scripts."""
        compared = [case.diff for case in self.cases]
        return {
            **{key: value for key, value in self.about.items() if key != "versions"},
            "exact_match": min((c.exact_match for c in compared), default=1.0),
            "answers_compared": sum(c.requests for c in compared),
            "answers_diverged": sum(len(c.first_divergence) for c in compared),
            "divergences_explained": sum(
                len(c.divergences) - len(self.beyond_rounding(c)) for c in self.cases
            ),
            "divergences_not_reproduced": sum(c.not_reproduced for c in self.cases),
            "divergences_of_other_prompts": sum(c.other_prompts for c in self.cases),
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
                    **case.diff.to_json(),
                    "not_reproduced": case.not_reproduced,
                    "other_prompts": case.other_prompts,
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
        lines += [f"- compared with: {self.baseline}", ""]
        lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
        for case in self.cases:
            diff = case.diff
            row = diff.to_json()
            equal = diff.requests - len(diff.first_divergence)
            where = "–"
            if diff.first_divergence:
                where = f"token {row['earliest_divergence']} ({row['median_divergence']:g})"
            cells = [
                case.policy,
                case.predictor,
                f"{equal} of {diff.requests} ({diff.exact_match:.1%})",
                where,
            ]
            cells += [f"{diff.ks_statistic:.3f}", f"{diff.ks_p:.3f}"]
            cells.append(_largest([d.margin for d in case.divergences]))
            cells.append(_largest([d.difference for d in case.divergences]))
            explained = len(case.divergences) - len(self.beyond_rounding(case))
            cells.append(f"{explained} of {len(case.divergences)}" if case.divergences else "–")
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
        if self.effect:
            sizes = ", ".join(f"{size}: {value:.3g}" for size, value in self.effect.items())
            lines.append(f"Largest |logit difference| caused by each batch size, teacher-forced: {sizes}.")
        if self.margins and self.noise:
            share = float(np.mean(np.asarray(self.margins) <= 2 * self.noise))
            lines.append(
                f"Of {len(self.margins):,} tokens, {share:.2%} had a margin small enough to be turned by it."
            )
        return "\n".join(lines) + "\n"

    def figure(self) -> Figure:
        """The distribution of margins over all tokens, and over the tokens at first differences."""
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
        ax.set_xlim(left=0)
        ax.set_xlabel("Margin of the chosen token: best logit less second (symlog scale)")
        ax.set_ylabel("Share with at most this margin (%)")
        ax.set_title(style.plain(str(self.about.get("ran", ""))), fontsize=style.FONT_SIZE)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(loc="upper left", fontsize=style.FONT_SIZE)
        return fig


def _largest(values: Sequence[float]) -> str:
    return f"≤ {max(values):.3g}" if values else "–"
