"""Splits answers for cross-validation: no prompt, user or later time is learned from where it is judged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import numpy as np

from traces.errors import InputError
from traces.trace import IntArray

from .answers import Answers

By = Literal["auto", "user", "time", "prompt"]
FOLDS = 5
LARGEST_SHARE = 0.5
"""Share of the answers above which a user is too large for a fold of their own."""


class Fold(NamedTuple):
    """Rows to learn from, and rows to be judged by."""

    train: IntArray
    test: IntArray


class Split(NamedTuple):
    """The folds, and what they are split by, for people."""

    folds: list[Fold]
    told: str


def split(answers: Answers, by: By = "auto", num_folds: int = FOLDS, seed: int = 0) -> Split:
    """Folds by user where users are known and many, else by time where that is known, else by prompt.

    By time, each part but the first is judged after learning from those before it. Rows of a prompt that is
    judged are never learned from. InputError where it cannot be split as asked.
    """
    if by not in get_args(By):
        raise InputError(f"by: {by!r} is not one of {', '.join(get_args(By))}")
    if not 2 <= num_folds <= 50:
        raise InputError(f"folds: {num_folds} is not between 2 and 50")
    chosen = _chosen(answers, num_folds) if by == "auto" else by
    if chosen == "time":
        return Split(_by_time(answers, num_folds), "time, each part after those before it")
    if chosen == "user":
        if answers.user is None:
            raise InputError(f"{answers.name}: has no column of users to split by; name it with --user")
        if (users := int(answers.user.max()) + 1) < num_folds:
            raise InputError(f"{answers.name}: has {users} users, {num_folds} folds need as many")
        return Split(grouped(answers.user, answers.prompt, num_folds, seed), "user")
    return Split(grouped(answers.prompt, answers.prompt, num_folds, seed), "prompt")


def _chosen(answers: Answers, num_folds: int) -> By:
    if answers.user is not None:
        sizes = np.bincount(answers.user)
        if len(sizes) >= 2 * num_folds and sizes.max() <= LARGEST_SHARE * len(answers):
            return "user"
    if answers.time_s is not None and len(np.unique(answers.time_s)) > 10 * num_folds:
        return "time"
    return "prompt"


def grouped(group: IntArray, prompt: IntArray, num_folds: int, seed: int) -> list[Fold]:
    """Folds of about as many rows, each group whole in one of them."""
    rng = np.random.default_rng(seed)
    sizes = np.bincount(group)
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled, fold_of = np.zeros(num_folds), np.zeros(len(sizes), dtype=np.int64)
    for each in order.tolist():
        fold_of[each] = int(filled.argmin())
        filled[fold_of[each]] += sizes[each]
    folds = fold_of[group]
    return list(_folds(folds, prompt, [np.flatnonzero(folds != k) for k in range(num_folds)]))


def _by_time(answers: Answers, num_folds: int) -> list[Fold]:
    """Parts of as many rows one after another; requests of the same time are in the same part."""
    if answers.time_s is None:
        raise InputError(f"{answers.name}: has no column of times to split by")
    edges = np.quantile(answers.time_s, np.linspace(0, 1, num_folds + 2)[1:-1])
    part = np.searchsorted(edges, answers.time_s, side="left") - 1
    earlier = [np.flatnonzero(part < k) for k in range(num_folds)]
    folds = [fold for fold in _folds(part, answers.prompt, earlier) if len(fold.test)]
    if len(folds) < 2 or min(len(fold.train) for fold in folds) < 10:
        raise InputError(f"{answers.name}: too few different times to split it into {num_folds} parts")
    return folds


def _folds(part: IntArray, prompt: IntArray, learned: list[IntArray]) -> Iterator[Fold]:
    for k, train in enumerate(learned):
        test = np.flatnonzero(part == k)
        is_judged = np.zeros(int(prompt.max()) + 1, dtype=np.bool_)
        is_judged[prompt[test]] = True
        yield Fold(train[~is_judged[prompt[train]]], test)
