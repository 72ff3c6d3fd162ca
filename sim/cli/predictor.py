"""`seqsched predictor train | check | limit`: learn the lengths of answers from a log, and judge that."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from traces.errors import InputError

from ..scenario.settings import DEFAULT_PROFILE
from . import show
from .tokenizers import counter
from .trace import SourceArgument

if TYPE_CHECKING:
    from ..learning.answers import Answers
    from ..learning.counting import Counter
    from ..learning.report import Report
    from ..learning.training import Trained
    from ..studies.prediction_gain import Gain, Worth

MOST_PRICE = 1e9
JsonFlag = Annotated[bool, Parameter(name="--json", negative="")]


def train(
    log: Path,
    /,
    *,
    out: Path,
    text: str | None = None,
    target: str | None = None,
    answers: Literal["all", "largest"] = "all",
    user: str | None = None,
    cap: int | None = None,
    tokenizer: str | None = None,
    embeddings: Path | None = None,
    by: Literal["auto", "user", "time", "prompt"] = "auto",
    folds: int = 5,
    time_unit: str | None = None,
    seed: int = 0,
    profile: str = DEFAULT_PROFILE,
    price: float | None = None,
    json_: JsonFlag = False,
) -> None:
    """Learn how long answers will be from a log of prompts and answers, and print how well, on rows held out.

    Needs scikit-learn: pip install "seqsched[predict]".

    Parameters
    ----------
    log
        CSV, JSON, JSON lines or Parquet: a row a request. Keys within objects are named with points, such as
        request.messages.
    out
        File to write; `--predictor learned:file=OUT` predicts by it. It holds arrays and JSON and runs
        nothing; it has words of the prompts in it, those that are in two of them.
    text
        Column of the prompts, texts or lists of messages; default: the likeliest.
    target
        Column of the answers: numbers of tokens, or texts, which are counted; default: the likeliest. Several
        columns (a,b or a*), or lists, are several answers to the same prompt.
    answers
        Of several answers to a prompt learn the distribution of all, or the largest.
    user
        Column of users: no user is learned from who is judged; default: the likeliest, if any.
    cap
        Tokens at which answers were stopped; default: as max_tokens and finish_reason of the log say.
    tokenizer
        Hugging Face tokenizer, a name or a folder, that counts texts (needs seqsched[real]); default: words
        × 4/3.
    embeddings
        Folder of a model whose mean hidden states are looked at too (needs seqsched[real]).
    by
        What folds are split by; auto: user where there are many, else time where it is known, else prompt.
        The same prompt is never in two folds.
    folds
        How many folds.
    time_unit
        Unit of the times in the log: s, ms, us or ns; default: told by the name or the values.
    seed
        Seed of the folds.
    profile
        Machine on which the worth of the predictions is simulated, with their errors on the rows held out.
    price
        What one GPU costs an hour, to state their worth in money.
    json_
        Print the report alone, as one JSON object.
    """
    from ..hardware import catalogue
    from ..learning import training
    from ..learning.answers import Where

    show.check_file(out)
    catalogue.load(profile)  # a wrong name is told before anything is learned
    if price is not None and not 0 <= price < MOST_PRICE:
        raise InputError(f"price: {price:g} is not at least 0 and below {MOST_PRICE:g} an hour")
    given = _answers(log, Where(text, target, user, cap, time_unit), tokenizer, answers)
    with show.bar("learning") as progress:
        trained = training.train(
            given, by=by, num_folds=folds, embeddings=embeddings, seed=seed, on_progress=progress
        )
    trained.predictor.save(out)
    gain, why_not = _gain(trained, profile)
    about = {
        "log": given.name,
        **given.columns,
        "folds": trained.num_folds,
        "split_by": trained.split_by,
        "notes": list(given.told),
    }
    if json_:
        worth = None if gain is None else gain.to_json() | {"price_per_gpu_hour": price}
        _print_json({**trained.report.to_json(), **about, "gain": worth})
    else:
        _print(given.told)
        _print_report(trained.report, f"{trained.num_folds} folds, split by {trained.split_by}")
        _print(() if gain is None else worth_lines(gain, price))
    if why_not:
        print(f"seqsched: note: {why_not}", file=sys.stderr)
    show.wrote([out])


def check(
    predictor: Path,
    log: Path,
    /,
    *,
    text: str | None = None,
    target: str | None = None,
    answers: Literal["all", "largest"] | None = None,
    user: str | None = None,
    cap: int | None = None,
    tokenizer: str | None = None,
    time_unit: str | None = None,
    json_: JsonFlag = False,
) -> None:
    """Judge a learned predictor by a newer log; the exit status is 1 where it is worse than at training.

    Parameters
    ----------
    predictor
        File that `seqsched predictor train` wrote.
    log
        As for `train`.
    text
        Column of the prompts; default: that of the training.
    target
        Column of the answers; default: that of the training.
    answers
        Judge by all answers to a prompt, or by the largest; default: as in the training.
    user
        Column of users.
    cap
        Tokens at which answers were stopped; default: as max_tokens and finish_reason of the log say.
    tokenizer
        Counts texts; give that of the training.
    time_unit
        Unit of the times in the log.
    json_
        Print the report alone, as one JSON object.
    """
    from ..learning import training
    from ..learning.answers import Where
    from ..perception.learned import LearnedPredictor

    learned = LearnedPredictor.load(predictor)
    columns = learned.about.get("columns", {})
    where = Where(text or columns.get("text"), target or columns.get("target"), user, cap, time_unit)
    given = _answers(log, where, tokenizer, answers or columns.get("answers", "all"))
    drift = training.check(learned, given)
    if (then := columns.get("lengths")) != given.columns["lengths"]:
        how = f"{given.columns['lengths']} here, and {then} at training"
        print(f"seqsched: note: {log}: {how}; is it the same --tokenizer?", file=sys.stderr)
    if json_:
        _print_json(
            {
                **drift.now.to_json(),
                "at_training": drift.then,
                "is_worse": drift.is_worse,
                "verdict": drift.verdict,
                "notes": list(given.told),
            }
        )
    else:
        _print(given.told)
        _print_report(drift.now, f"trained on {learned.about.get('log')}")
        print(drift.verdict)
    if drift.is_worse:
        sys.exit(1)


def limit(source: SourceArgument, /, *, time_unit: str | None = None, json_: JsonFlag = False) -> None:
    """How well a predictor that sees the prompt alone can do, by a trace with several answers to each prompt.

    Parameters
    ----------
    time_unit
        Unit of the arrival times: s, ms, us or ns.
    json_
        Print the figures alone, as one JSON object.
    """
    import traces

    from ..learning import limits

    trace = traces.load(source, time_unit=time_unit)
    if trace.samples is None:
        raise InputError(f"{trace.name}: has no samples of the same prompt (columns L_t0.0, L_t0.3, ...)")
    found = limits.limit(trace.samples, trace.name)
    if json_:
        _print_json(found.to_json())
        return
    print(f"{found.n:,} prompts of {trace.name}, {found.answers} answers to each")
    print(
        f"by another answer to the same prompt: error {found.error:.1f} tokens, {found.acc_50:.1%} within "
        f"50, {found.acc_100:.1%} within 100, Spearman {found.spearman:.3f}, Kendall tau {found.kendall:.3f}"
    )
    print(
        f"by the median of the others: error {found.error_of_others:.1f}; always the median of all: "
        f"{found.error_of_median:.1f}"
    )
    print(
        f"no predictor that sees the prompt alone errs by less than {found.least_error:.1f} tokens in the "
        f"mean, or has a Spearman correlation above {found.most_spearman:.3f}"
    )


def _gain(trained: Trained, profile: str) -> tuple[Gain | None, str]:
    """What the held-out predictions are worth on a machine; or why that cannot be said."""
    import numpy as np

    from ..learning.report import in_tokens
    from ..studies.prediction_gain import prediction_gain

    answers = trained.judged
    actual = answers.tokens
    predictions = {
        "learned": in_tokens(trained.held_out),
        "always the median": np.full(len(actual), max(1, round(float(np.median(actual))))),
        "perfect": actual,
    }
    try:
        return prediction_gain(answers.prompt_tokens, actual, predictions, profile=profile), ""
    except InputError as error:
        return None, f"what the predictions are worth is not known: {error}"


def worth_lines(gain: Gain, price: float | None) -> tuple[str, ...]:
    """What predictions are worth, in GPU time and, with a price of a GPU hour, in money."""
    learned, first = gain.worth["learned"], gain.base

    def beside(change: Callable[[Worth], float]) -> str:
        others = [f"{name} {change(w):+.1%}" for name, w in gain.worth.items() if name != "learned"]
        return f"{change(learned):+.1%} ({', '.join(others)})"

    money = ""
    if price is not None:
        before, now = (seconds / 3600 * price for seconds in (first.gpu_s, learned.gpu_s))
        money = f", {now:.4g} instead of {before:.4g} in money"
    return (
        f"worth on {gain.profile}, in padded batches: {learned.gpu_s:,.0f} GPU seconds per 1,000 answers "
        f"instead of {first.gpu_s:,.0f}{money}: {beside(lambda w: -w.gpu_saved)}",
        f"in continuous batching, in a rush of {gain.load:.0%} of what it serves, shortest first: "
        f"mean E2EL {beside(lambda w: w.mean_e2el_ms / first.mean_e2el_ms - 1)}, "
        f"p99 {beside(lambda w: w.p99_e2el_ms / first.p99_e2el_ms - 1)}; "
        f"GPUs for the same mean {beside(lambda w: -w.cost_saved)}",
    )


def _answers(log: Path, where: Any, tokenizer: str | None, which: str) -> Answers:
    from ..learning.answers import read_answers

    answers = read_answers(log, where, _counter(tokenizer))
    return answers.largest() if which == "largest" else answers


def _counter(tokenizer: str | None) -> Counter:
    from ..learning.counting import BY_WORDS, Counter

    count = counter(tokenizer)
    return BY_WORDS if count is None else Counter(count, f"tokenizer {tokenizer}")


def _print(lines: tuple[str, ...]) -> None:
    for line in lines:
        print(line)


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


def _print_report(report: Report, how: str) -> None:
    """A table of the predictor beside what needs no learning, then its intervals."""
    from rich.table import Table

    table = Table(title=f"{report.n:,} answers to {report.prompts:,} prompts; {how}", title_justify="left")
    for heading in ("", "learned", "always the median", "by the prompt's length"):
        table.add_column(heading, justify="right" if heading else "left")
    rows: list[tuple[str, float | None, float | None, float | None, str]] = [
        ("error, tokens", report.error, report.error_of_median, report.error_of_prompt_length, ".1f"),
        ("within 50 tokens", report.acc_50, None, None, ".1%"),
        ("within 100 tokens", report.acc_100, None, None, ".1%"),
        ("Kendall tau", report.kendall, None, None, ".3f"),
        ("Spearman", report.spearman, None, report.spearman_of_prompt_length, ".3f"),
        (f"in the {report.nominal_coverage:.0%} interval", report.coverage, None, None, ".1%"),
        ("in the 80% interval", report.coverage_80, None, None, ".1%"),
    ]
    for name, *values, form in rows:
        table.add_row(name, *("–" if value is None else format(value, form) for value in values))
    show.console().print(table)
    levels = ", ".join(f"{level} {share:.1%}" for level, share in report.calibration.items())
    print(f"share of the answers at or below each quantile: {levels}")
