"""Trains a predictor of lengths on a log, judged by rows that it has not learned from; and judges it anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from traces.errors import InputError
from traces.trace import FloatArray

from ..perception.learned.linear import LEVELS, MEDIAN
from ..perception.learned.model import LearnedPredictor
from ..version import __version__
from .answers import Answers
from .baselines import medians_of, prompt_lengths_of
from .fitting import Columns, Fit, columns_of, fit, predictor_of
from .folds import FOLDS, By, Split, split
from .report import Report, report

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Trained:
    """A predictor, how good it is on rows held out, what the folds were split by, and the quantiles that were
    predicted of each row without it, shape (n, levels); `judged`: rows that the report is of.
    """

    predictor: LearnedPredictor
    report: Report
    split_by: str
    num_folds: int
    held_out: FloatArray
    judged: Answers


def train(
    answers: Answers,
    *,
    by: By = "auto",
    num_folds: int = FOLDS,
    embeddings: str | Path | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Trained:
    """Learn from all answers, and judge by folds.

    `embeddings`: folder of a model whose mean hidden states are looked at too. `on_progress(done, fits)`.
    Raises InputError where the log cannot be split as asked, for a negative seed, and where what learns is
    not installed.
    """
    if seed < 0:
        raise InputError(f"seed: {seed} must be at least 0")
    _check_installed()
    described, embed = None, None
    if embeddings is not None:
        from ..perception.learned.embedding import embedder, fingerprint

        described = {"folder": str(Path(embeddings).resolve()), "sha256": fingerprint(embeddings)}
        embed = embedder(described["folder"])
    folds = split(answers, by, num_folds, seed)
    columns = columns_of(answers, embed)
    by_user = folds.told == "user"
    fits = len(folds.folds) + 1
    held_out = np.full((len(answers), len(LEVELS)), np.nan)
    medians, by_prompt = np.full(len(answers), np.nan), np.full(len(answers), np.nan)
    for done, fold in enumerate(folds.folds):
        learned = answers.select(fold.train)
        fitted = fit(learned, columns.select(fold.train), by_user=by_user, seed=seed)
        held_out[fold.test] = fitted.quantiles(columns.select(fold.test))
        medians[fold.test] = medians_of(learned)
        by_prompt[fold.test] = prompt_lengths_of(learned, answers.select(fold.test))
        if on_progress is not None:
            on_progress(done + 1, fits)
    rows = np.flatnonzero(np.isfinite(medians))
    judged = answers.select(rows)
    found = report(judged, held_out[rows], medians[rows], by_prompt[rows])
    final = fit(answers, columns, by_user=by_user, seed=seed)
    _fill(held_out, answers, columns, seed)
    if on_progress is not None:
        on_progress(fits, fits)
    about = _about(answers, folds, found, described)
    return Trained(
        predictor_of(final, answers, held_out, about, embed),
        found,
        folds.told,
        len(folds.folds),
        held_out[rows],
        judged,
    )


def _check_installed() -> None:
    from .fitting import MISSING

    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise InputError(MISSING) from None


def _fill(held_out: FloatArray, answers: Answers, columns: Columns, seed: int) -> None:
    """Predict what was in no fold, as the first part of a split by time, by all that was in one."""
    missing = np.flatnonzero(np.isnan(held_out[:, 0]))
    if not len(missing):
        return
    is_missing = np.zeros(int(answers.prompt.max()) + 1, dtype=np.bool_)
    is_missing[answers.prompt[missing]] = True
    others = np.flatnonzero(np.isfinite(held_out[:, 0]) & ~is_missing[answers.prompt])
    if len(others):
        fitted: Fit = fit(answers.select(others), columns.select(others), seed=seed)
        held_out[missing] = fitted.quantiles(columns.select(missing))


def _about(
    answers: Answers, folds: Split, found: Report, embeddings: dict[str, str] | None
) -> dict[str, Any]:
    return {
        "log": answers.name,
        "columns": answers.columns,
        "seqsched": __version__,
        "folds": len(folds.folds),
        "split_by": folds.told,
        "report": found.to_json(),
        **({} if embeddings is None else {"embeddings": embeddings}),
    }


@dataclass(frozen=True)
class Drift:
    """A predictor on newer answers, beside what it was at training, and the sentence about it."""

    now: Report
    then: dict[str, Any]
    is_worse: bool
    verdict: str


WORSE_BY, SURE = 0.05, 2.33
"""The relative rise of the error, and the number of its standard errors, above which a predictor is worse."""
COVERAGE_LOST = 0.05
"""The same of the share of the answers that its interval holds."""


def check(predictor: LearnedPredictor, answers: Answers) -> Drift:
    """The report of training on other answers, and whether it is worse: whether the error is larger by more
    than 5 % and than chance explains, or intervals hold fewer answers by 5 points and than chance explains.
    """
    quantiles = predictor.predict_texts(answers.texts)
    then = predictor.about["report"]
    held_out = predictor.held_out
    median = np.full(len(answers), float(np.median(held_out.actual)))
    by_prompt = prompt_lengths_of(answers, answers)
    now = report(answers, quantiles, median, by_prompt)
    old = np.abs(held_out.predicted - held_out.actual)[~held_out.is_cut]
    new = np.abs(np.minimum(np.rint(quantiles[:, MEDIAN]), answers.caps) - answers.tokens)
    chance = SURE * float(np.sqrt(np.var(old) / max(len(old), 1) + np.var(new) / len(new)))
    rise = now.error - then["error"]
    share = now.nominal_coverage
    lost = then["coverage"] - now.coverage
    coverage_chance = SURE * float(np.sqrt(share * (1 - share) * (1 / len(new) + 1 / then["n"])))
    is_worse = (rise > chance and rise > WORSE_BY * then["error"]) or (
        lost > COVERAGE_LOST and lost > coverage_chance
    )
    verdict = (
        f"{'worse' if is_worse else 'no worse'} than at training: error {now.error:.4g} tokens against "
        f"{then['error']:.4g}, {now.coverage:.1%} of the answers within the {share:.0%} interval against "
        f"{then['coverage']:.1%}"
    )
    return Drift(now, then, is_worse, verdict)
