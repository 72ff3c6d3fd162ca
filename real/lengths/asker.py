"""The model that runs as a predictor of lengths: `model[:key=value,...]` beside the simulator's predictors.

There are two ways to ask: `po`, perception only (the number alone), and `pia`, perception in advance (the
length first, then the answer; a scheduler waits for the length only) (arXiv 2305.13144).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median_high
from typing import Any, Literal

import numpy as np

from sim.perception.accuracy import error_report, rank_report
from sim.perception.predictions import asking_tokens
from sim.perception.predictors import ANSWER_TOKENS, QUESTION_TOKENS
from sim.scenario.scenario import Scenario
from traces.spec import build, parse
from traces.trace import IntArray, Trace

from ..engines.engine import Engine
from ..engines.model import TINY, LoadedModel
from .adapter import Adapter
from .asking import Asking, Statements
from .byte_tokenizer import ByteTokenizer
from .conversation import Conversation, conversation_of
from .progress import silent
from .prompts import ADVANCE_QUESTION, QUESTION, Prompts, made_up_texts, prompts_of, question, turn_of
from .read_length import Fallback, History, ReadLengths, read_lengths

MODEL = "model"
"""Name of this predictor on the command line."""

Way = Literal["po", "pia"]
MOST_ANSWER_TOKENS = 256
"""More than this is no statement of a length."""

MEDIAN_LEARNT = "median_length"
"""Key in an adapter's note: the median of the lengths that it learnt from."""

QUESTIONS: dict[str, str] = {"po": QUESTION, "pia": ADVANCE_QUESTION}


@dataclass(frozen=True)
class ModelPredictor:
    """Options of the predictor `model`."""

    way: Way = "po"
    """Ask for the number alone (po), or for the number and then the answer (pia)."""
    adapter: bool = True
    """Ask with the adapter, if there is one."""
    fallback: str = "median"
    """Where no length is stated: median (of the stated ones, or where few are, of past answers), max (the
    most new tokens), or a number.
    """

    answer_tokens: int = ANSWER_TOKENS
    """Tokens that it has to state a length in; a model that was not taught to may need words around it."""

    def __post_init__(self) -> None:
        Fallback.of(self.fallback)
        if not 1 <= self.answer_tokens <= MOST_ANSWER_TOKENS:
            raise ValueError(
                f"answer_tokens: {self.answer_tokens} must be between 1 and {MOST_ANSWER_TOKENS}"
            )


def asks_the_model(predictor: str) -> bool:
    """Whether this predictor's numbers come from the model itself."""
    return predictor.partition(":")[0].strip() == MODEL


def model_predictor(predictor: str) -> ModelPredictor:
    """The options in `model[:key=value,...]`; InputError for bad ones."""
    return build(ModelPredictor, parse(predictor, "predictor")[1], f"predictor {MODEL}")


@dataclass(frozen=True, eq=False)
class CollectedLengths:
    """A predictor with the lengths that the model stated for this trace; asking is charged as computed."""

    lengths: IntArray
    question_tokens: int
    answer_tokens: int
    slowdown: float = 1.0
    charge: bool = True

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        """The collected lengths."""
        return self.lengths


class Asker:
    """Asks a loaded model: holds its tokenizer, its chat template, and its adapter if there is one.

    Raises InputError where `adapter` cannot be used.
    """

    def __init__(self, loaded: LoadedModel, adapter: Path | str | None = None, seed: int = 0) -> None:
        self.loaded, self.seed = loaded, seed
        self.tokenizer = tokenizer_of(loaded)
        self.conversation: Conversation = conversation_of(self.tokenizer, loaded.shape.name)
        self.adapter = Adapter(loaded, adapter) if adapter is not None else None
        self.will_learn = False
        self.askings: dict[str, Asking] = {}
        self.reports: dict[str, dict[str, Any]] = {}

    @property
    def is_nonsense(self) -> bool:
        """Whether the weights are random, without an adapter trained or about to be (`will_learn`)."""
        return self.loaded.weights == "random" and self.adapter is None and not self.will_learn

    def warnings(self) -> list[str]:
        """What a user must know about the numbers, one line each."""
        lines = list(self.adapter.warnings) if self.adapter is not None else []
        if self.is_nonsense:
            lines.append(
                "RANDOM WEIGHTS: the model's answers are nonsense and state no lengths. Only the time of "
                "asking is measured; the predictions are the fallback's."
            )
        return lines

    def prompts_of(self, trace: Trace) -> tuple[Trace, Prompts]:
        """The trace and the prompts as the model gets them, with made-up texts where it has none."""
        if self.tokenizer is not None and not self.is_nonsense:
            trace = made_up_texts(trace, np.random.default_rng((self.seed, 1)))
        return put(trace, self.loaded, self.seed)

    def asking(self, predictor: str | ModelPredictor) -> Asking:
        """The way of asking that the predictor's options select."""
        options = model_predictor(predictor) if isinstance(predictor, str) else predictor
        if self.tokenizer is None:
            rng = np.random.default_rng(self.seed)
            ids, turn = question(None, QUESTION_TOKENS, self.loaded.ordinary_tokens, rng), 0
        else:
            ids = self.tokenizer(QUESTIONS[options.way], add_special_tokens=False)["input_ids"]
            turn = len(turn_of(self.tokenizer, self.conversation))
        adapter = self.adapter if options.adapter else None
        return Asking(ids, turn, options.answer_tokens, self.tokenizer, self.loaded.eos_tokens, adapter)

    def history(self, trace: Trace) -> History:
        """The median length of past answers: those that the adapter learnt from, else those of the trace."""
        learnt = self.adapter.note.get(MEDIAN_LEARNT) if self.adapter is not None else None
        if isinstance(learnt, int):
            return History(learnt, "the lengths that the adapter learnt from")
        return History(median_high(trace.perceived_truth.tolist()), "the lengths of the trace")

    def with_predictions(
        self,
        scenario: Scenario,
        predictor: str,
        engine: Engine,
        prompts: Prompts,
        clock: Callable[[], float] = time.perf_counter,
        say: Callable[[str], None] = silent,
    ) -> Scenario:
        """The scenario with the lengths that the model states as its predictions; asks the model now."""
        options = model_predictor(predictor)
        asking = self.asking(predictor)
        statements = asking.collect(engine, prompts, clock=clock, say=say)
        history = self.history(scenario.trace)
        readings = read_lengths(
            statements.stated, scenario.max_new_tokens, Fallback.of(options.fallback), history
        )
        self.askings[predictor] = asking
        slowdown = asking.slowdown(engine, prompts, clock)
        self.reports[predictor] = {
            **self.report(options, statements, readings, scenario.trace, history),
            "slowdown": slowdown,
        }
        collected = CollectedLengths(readings.predicted, len(asking.question), asking.answer_tokens, slowdown)
        limits = replace(scenario.limits, perception_tokens=asking_tokens(collected))
        labels = {**scenario.labels, "predictor": predictor}
        return replace(scenario, predictor=collected, limits=limits, labels=labels)

    def asking_tokens(self, predictors: Sequence[str]) -> tuple[int, int]:
        """Tokens of the longest question that any of these predictors asks, and of the longest answer."""
        askings = [self.asking(predictor) for predictor in predictors if asks_the_model(predictor)]
        question = max((len(asking.question) for asking in askings), default=0)
        return question, max((asking.answer_tokens for asking in askings), default=0)

    def report(
        self,
        options: ModelPredictor,
        statements: Statements,
        readings: ReadLengths,
        trace: Trace,
        history: History,
    ) -> dict[str, Any]:
        """How the model was asked, how many answers were readable, their errors, and the time taken.

        Beside them stand the errors of a predictor that always says the median of `history`.
        """
        asking, n, truth = self.asking(options), len(statements.rows), trace.perceived_truth
        errors, understood = error_report(readings.predicted, truth), ~readings.fell_back
        constant = error_report(np.full(n, history.tokens), truth)
        any_read = bool(understood.any())
        return {
            "way": options.way,
            "adapter": None if asking.adapter is None else asking.adapter.path,
            "is_nonsense": self.loaded.weights == "random" and asking.adapter is None,
            "requests": n,
            "fell_back": int(readings.fell_back.sum()),
            "fallback": readings.fallback.source,
            "fallback_tokens": readings.fallback.tokens,
            "error": errors.error,
            "bias": errors.bias,
            "acc_50": errors.acc_50,
            "acc_100": errors.acc_100,
            **rank_report(readings.predicted, truth)._asdict(),
            "always_the_median": {"tokens": history.tokens, "whose": history.whose, **constant._asdict()},
            "error_of_those_read": error_report(readings.predicted[understood], truth[understood]).error
            if any_read
            else None,
            "question_tokens": len(asking.question),
            "answer_tokens": asking.answer_tokens,
            "batches": statements.num_batches,
            "seconds": statements.seconds,
            "seconds_per_request": statements.seconds / n,
        }


def put(trace: Trace, loaded: LoadedModel, seed: int) -> tuple[Trace, Prompts]:
    """The trace with the lengths of its prompts, and the prompts as every command puts them to the model:
    texts in its chat template, random ids where there are none.
    """
    tokenizer = tokenizer_of(loaded)
    conversation = conversation_of(tokenizer, loaded.shape.name)
    return prompts_of(trace, tokenizer, loaded.ordinary_tokens, np.random.default_rng(seed), conversation)


def lacks_texts(trace: Trace, loaded: LoadedModel) -> str | None:
    """What a user must know of a trace without texts that is put to a model with real weights."""
    if trace.prompt is not None or loaded.weights == "random":
        return None
    return f"{trace.name} has no texts: the model gets random tokens, and its answers mean nothing"


def tokenizer_of(loaded: LoadedModel) -> Any:
    """The model's own tokenizer, bytes for the tiny model, otherwise None."""
    if loaded.tokenizer is None and loaded.shape.name == TINY.name:
        return ByteTokenizer()
    return loaded.tokenizer
