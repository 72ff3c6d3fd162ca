"""Reads prompts and the lengths of their answers from somebody's log, whatever it is.

A trace with texts, a gateway's log, requests and responses of an OpenAI-compatible API, CSV, JSON, Parquet:
what is needed is a column (or key) of prompts, and one of token counts or of answers. Learns nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from traces import checks, completion
from traces.errors import InputError
from traces.tables import Table, open_table
from traces.trace import FloatArray, IntArray
from traces.units import arrival_column, read_times

from ..perception.learned.features import same_prompt
from .columns import (
    CAPS,
    PROMPTS,
    REASONS,
    STOPPED,
    TARGETS,
    USERS,
    Columns,
    answer_of,
    number_of,
    prompt_of,
    shown,
    text_of,
)
from .counting import BY_WORDS, Counter

LEAST_PROMPTS = 50
LEAST_WHOLE = 20
"""Different prompts that a log must have."""
PILED = 0.02
"""Share of the answers that have the largest length of all from which on that may be a cap."""


class Where(NamedTuple):
    """Which columns to look in: None is the likeliest that there is. `target`: several, or a pattern with *,
    are several answers to the same prompt. `cap`: tokens at which answers were stopped.
    """

    text: str | None = None
    target: str | None = None
    user: str | None = None
    cap: int | None = None
    time_unit: str | None = None


ANYWHERE = Where()


@dataclass(frozen=True)
class Answers:
    """Answers to prompts, one a row: arrays of shape (n,).

    `tokens`: their lengths. `is_cut`: it was stopped at its cap, and would have become longer. `caps`: in
    tokens, infinite where it is not known. `prompt`: which rows have the same prompt, and `user`, as numbers
    from 0. `time_s`: from the first on. `weight`: 1 over the number of answers to the same prompt in its row
    of the log. `prompt_tokens`: of the prompt, by the log or counted. `told`: what was read from where.
    """

    name: str
    texts: Sequence[str]
    tokens: IntArray
    is_cut: npt.NDArray[np.bool_]
    caps: FloatArray
    prompt: IntArray
    weight: FloatArray
    prompt_tokens: IntArray
    user: IntArray | None
    time_s: FloatArray | None
    columns: dict[str, str]
    told: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def num_prompts(self) -> int:
        """How many different prompts there are."""
        return int(self.prompt.max()) + 1 if len(self) else 0

    def select(self, rows: IntArray) -> Answers:
        """These rows in this order."""
        arrays = ("tokens", "is_cut", "caps", "prompt", "weight", "prompt_tokens", "user", "time_s")
        chosen = {name: values[rows] for name in arrays if (values := getattr(self, name)) is not None}
        return replace(self, texts=[self.texts[i] for i in rows.tolist()], **chosen)

    def largest(self) -> Answers:
        """One row a prompt: the longest of its answers, which is cut where that was."""
        order = np.lexsort((self.is_cut, self.tokens, self.prompt))
        last = np.append(np.diff(self.prompt[order]) != 0, True)
        told = (*self.told, "the longest answer to each prompt")
        longest = self.select(np.sort(order[last]))
        columns = {**self.columns, "answers": "largest"}
        return replace(longest, weight=np.ones(len(longest)), columns=columns, told=told)


class _Target(NamedTuple):
    """Lengths of the answers in each row, several or none, and how they were counted."""

    lengths: list[list[float]]
    told: str


def read_answers(path: str | Path, where: Where = ANYWHERE, counter: Counter = BY_WORDS) -> Answers:
    """The answers in a log; those to requests that failed are left out, and so are empty ones.

    Raises InputError, naming file and column, where there are no prompts, no lengths or too few of them, and
    for a cap below 1.
    """
    if where.cap is not None and where.cap < 1:
        raise InputError(f"cap: {where.cap} must be at least 1")
    table = open_table(path, lambda _: True)
    columns = Columns(table)
    text = _column(columns, where.text, PROMPTS, "prompt", "--text")
    target = _target_names(columns, where.target, text)
    failures = completion.failures(table)
    failed = np.zeros(table.num_rows, dtype=np.bool_) if failures is None else failures.where
    prompts = [prompt_of(value) for value in columns.values(text)]
    kept = [i for i, prompt in enumerate(prompts) if prompt is not None and not failed[i]]
    if not kept:
        raise InputError(f"{table.path}, {text}: no row has a text")
    lengths = _target(columns, target, text, kept, counter)
    user = where.user or columns.find(USERS)
    if where.user is not None and not columns.has(where.user):
        raise columns.missing(where.user)
    cut, caps = _caps(columns, where.cap)
    rows, tokens, weight = [], [], []
    for i in kept:
        given = [length for length in lengths.lengths[i] if length > 0]
        rows += [i] * len(given)
        tokens += [max(1, round(length)) for length in given]
        weight += [1 / max(len(given), 1)] * len(given)
    if not rows:
        raise InputError(f"{table.path}, {', '.join(target)}: no answer has a length above 0")
    at = np.array(rows)
    number = _numbered([same_prompt(prompts[i] or "") for i in rows])
    counted = np.array(tokens, dtype=np.int64)
    is_cut = cut[at] if cut is not None else counted >= caps[at]
    if where.cap is not None:  # the user's word beside that of the log
        is_cut = is_cut | (counted >= where.cap)
    answers = Answers(
        name=Path(path).name,
        texts=[prompts[i] or "" for i in rows],
        tokens=counted,
        is_cut=is_cut,
        caps=np.where(is_cut, np.minimum(caps[at], counted), np.maximum(caps[at], counted)),
        prompt=number,
        weight=np.array(weight),
        prompt_tokens=_prompt_tokens(columns, [prompts[i] or "" for i in rows], rows, counter),
        user=None if user is None else _numbered([str(value) for value in _at(columns.values(user), rows)]),
        time_s=_times(table, at, failed, where.time_unit),
        columns={
            "text": text,
            "target": ",".join(target),
            "lengths": lengths.told,
            **({} if user is None else {"user": user}),
        },
        told=(),
    )
    _check(answers, table.path)
    return replace(answers, told=_told(answers, table, rows, failures))


def _at(values: list[Any], rows: Sequence[int]) -> list[Any]:
    return [values[i] for i in rows]


def _column(columns: Columns, given: str | None, likely: Sequence[str], what: str, flag: str) -> str:
    if given is not None and (columns.has(given)):
        return given
    if given is None and (found := columns.find(likely)) is not None:
        return found
    if given is not None:
        raise columns.missing(given)
    raise InputError(
        f"{columns.table.path}: no column of {what}s is known in {', '.join(columns.table.columns[:12])}; "
        f"name it with {flag}"
    )


def _target_names(columns: Columns, given: str | None, text: str) -> list[str]:
    names = (
        [_column(columns, None, [name for name in TARGETS if name != text], "answer", "--target")]
        if given is None
        else columns.expand(given)
    )
    if text in names and not any(answer_of(value) for value in columns.values(text)):
        raise InputError(f"{columns.table.path}: {text} cannot be both the prompt and its answer")
    return names


def _target(
    columns: Columns, names: Sequence[str], text: str, kept: Sequence[int], counter: Counter
) -> _Target:
    """The lengths in all target columns: numbers as they are, texts counted; of conversations, in the column
    `text`, the last answers.
    """
    lengths: list[list[float]] = [[] for _ in range(columns.table.num_rows)]
    are_texts = []
    for name in names:
        values = columns.values(name)
        if name == text:
            values = [answer_of(value) for value in values]
        cells = {i: values[i] if isinstance(values[i], list) else [values[i]] for i in kept}
        is_number = columns.table.text_is_number
        numbers = {
            i: [number_of(each, text_is_number=is_number) for each in several if each not in (None, "")]
            for i, several in cells.items()
        }
        counts = all(number is not None for several in numbers.values() for number in several)
        if counts and any(numbers.values()):
            _check_numbers(columns.table, name, numbers)
            for i, several in numbers.items():
                lengths[i] += [number for number in several if number is not None]
        else:
            are_texts.append(name)
            _check_texts(columns.table, name, cells)
            for i, several in cells.items():
                texts = [text_of(each) for each in several] if not _is_chat(several) else [text_of(several)]
                lengths[i] += [counter.tokens(text) for text in texts if text]
    told = f"counted by {counter.told}" if are_texts else "token counts as in the log"
    return _Target(lengths, told)


def _is_chat(several: Sequence[Any]) -> bool:
    """Whether a list holds the parts of one answer, and not several answers."""
    return bool(several) and all(isinstance(each, dict) and "type" in each for each in several)


def _check_numbers(table: Table, name: str, numbers: dict[int, list[float | None]]) -> None:
    for i, several in numbers.items():
        for number in several:
            if number is None or number < 0 or number > checks.MAX_TOKENS or number != math.floor(number):
                bound = f"is no whole number from 0 to {checks.MAX_TOKENS}"
                raise InputError(f"{table.where(i)}, {name}: {shown(number)} {bound}")


def _check_texts(table: Table, name: str, cells: dict[int, list[Any]]) -> None:
    """Numbers among texts are a column of counts with something else in it, and no answers."""
    numbers = [i for i, several in cells.items() if any(type(each) in (int, float) for each in several)]
    if numbers:
        other = next(
            (i, each)
            for i, several in cells.items()
            for each in several
            if each is not None and type(each) not in (int, float)
        )
        raise InputError(f"{table.where(other[0])}, {name}: {shown(other[1])} is no number, as others are")


def _caps(columns: Columns, cap: int | None) -> tuple[npt.NDArray[np.bool_] | None, FloatArray]:
    """Which rows were stopped at their cap, where the log says why they ended (else None), and the caps."""
    n = columns.table.num_rows
    caps = np.full(n, math.inf if cap is None else cap)
    if (name := columns.find(CAPS)) is not None:
        is_number = columns.table.text_is_number
        own = [number_of(value, text_is_number=is_number) for value in columns.values(name)]
        caps = np.minimum(caps, [value if value is not None and value >= 1 else math.inf for value in own])
    if (name := columns.find(REASONS)) is not None:
        reasons = columns.values(name)
        return np.array([str(reason).strip().lower() in STOPPED for reason in reasons]), caps
    return None, caps


def _prompt_tokens(columns: Columns, texts: Sequence[str], rows: Sequence[int], counter: Counter) -> IntArray:
    names = ("prompt_tokens", "usage.prompt_tokens", "response.usage.prompt_tokens", "usage.input_tokens")
    name = columns.find((*names, "response.body.usage.prompt_tokens", "input_tokens"))
    found: list[float | None] = [None] * len(rows)
    if name is not None:
        is_number = columns.table.text_is_number
        found = [number_of(v, text_is_number=is_number) for v in _at(columns.values(name), rows)]
    counts = [
        number if number is not None and 1 <= number <= checks.MAX_TOKENS else counter.tokens(text)
        for number, text in zip(found, texts, strict=True)
    ]
    return np.maximum(1, np.rint(counts)).astype(np.int64)


def _times(
    table: Table, rows: IntArray, failed: npt.NDArray[np.bool_], time_unit: str | None
) -> FloatArray | None:
    column = arrival_column(table.columns)
    if column is None:
        return None
    unless = np.ones(table.num_rows, dtype=np.bool_)
    unless[rows] = False
    seconds = read_times(table, column, time_unit=time_unit, unless=unless | failed).seconds[rows]
    return np.asarray(seconds - seconds.min())


def _numbered(values: Sequence[str]) -> IntArray:
    """The same number, from 0, for the same value."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


def _check(answers: Answers, path: str) -> None:
    if answers.num_prompts < LEAST_PROMPTS:
        raise InputError(
            f"{path}: {answers.num_prompts} different prompts have an answer, {LEAST_PROMPTS} are needed"
        )
    if (whole := int((~answers.is_cut).sum())) < LEAST_WHOLE:
        raise InputError(
            f"{path}: {whole} of {len(answers)} answers ended before their cap, {LEAST_WHOLE} are needed: of "
            "the others no length is known"
        )
    if np.ptp(answers.tokens) == 0:
        raise InputError(f"{path}: all answers have {answers.tokens[0]} tokens: there is nothing to learn")


def _told(
    answers: Answers, table: Table, rows: Sequence[int], failures: completion.Failures | None
) -> tuple[str, ...]:
    """What was read, of which rows, and what was assumed."""
    columns, num_failed = answers.columns, 0
    told = [
        f"{table.path}: {answers.num_prompts:,} prompts ({columns['text']}) with {len(answers):,} answers "
        f"({columns['target']}), {columns['lengths']}"
    ]
    told += list(table.notes)
    if failures is not None:
        told.append(failures.note)
        num_failed = int(failures.where.sum())
    if empty := table.num_rows - num_failed - len(set(rows)):
        told.append(f"{empty:,} of {table.num_rows:,} rows have no prompt or no answer, and are left out")
    if answers.is_cut.any():
        told.append(
            f"{answers.is_cut.mean():.1%} of the answers were stopped at their cap: they are known to be at "
            "least that long"
        )
    else:
        top = int(answers.tokens.max())
        share = float((answers.tokens == top).mean())
        if share >= PILED and (answers.tokens == top).sum() > 5:
            told.append(
                f"{share:.1%} of the answers have {top} tokens, and none more: if that is their cap, say so "
                f"with --cap {top}"
            )
    if "user" in columns:
        told.append(f"users by {columns['user']}")
    return tuple(told)
