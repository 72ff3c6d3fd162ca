"""The model that runs as a predictor of lengths: `model[:key=value,...]` beside the simulator's predictors.

It is asked in one of two ways: `po`, perception only (the number alone), and `pia`, perception in advance
(the length first, then the answer), of which a scheduler waits for the length only (arXiv 2305.13144).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sim.perception.accuracy import error_report
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
from .prompts import ADVANCE_QUESTION, QUESTION, Prompts, made_up_texts, prompts_of, question, turn_of
from .read_length import Fallback, ReadLengths, read_lengths

MODEL = "model"
"""The predictor of this name on the command line is the model that runs."""

Way = Literal["po", "pia"]
QUESTIONS: dict[str, str] = {"po": QUESTION, "pia": ADVANCE_QUESTION}


@dataclass(frozen=True)
class ModelPredictor:
    """Options of the predictor `model`."""

    way: Way = "po"
    """Asked for the number alone (po), or for the number and then the answer (pia)."""
    adapter: bool = True
    """Ask with the adapter, where one is given."""
    fallback: str = "median"
    """Where no length is stated: median of those that were, max (the most new tokens), or a number."""

    def __post_init__(self) -> None:
        Fallback.of(self.fallback)


def asks_the_model(predictor: str) -> bool:
    """Whether this predictor's numbers come from the model itself."""
    return predictor.partition(":")[0].strip() == MODEL


def model_predictor(predictor: str) -> ModelPredictor:
    """The options in `model[:key=value,...]`; InputError for bad ones."""
    return build(ModelPredictor, parse(predictor, "predictor")[1], f"predictor {MODEL}")


@dataclass(frozen=True, eq=False)
class CollectedLengths:
    """A predictor that says what the model said of this very trace, and charges what the asking computes."""

    lengths: IntArray
    question_tokens: int
    answer_tokens: int
    slowdown: float = 1.0
    charge: bool = True

    def predict(self, trace: Trace, rng: np.random.Generator) -> IntArray:
        """As collected."""
        return self.lengths


class Asker:
    """All that is needed to ask a loaded model: its tokenizer and template, its adapter where there is one.

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
        """Whether the weights are random and nothing was or `will_learn` to be on top of them."""
        return self.loaded.weights == "random" and self.adapter is None and not self.will_learn

    def warnings(self) -> list[str]:
        """What a user must know of the numbers, one line each."""
        said = list(self.adapter.warnings) if self.adapter is not None else []
        if self.is_nonsense:
            said.append(
                "RANDOM WEIGHTS: the model's answers are nonsense and hold no lengths. What is measured is "
                "the time of asking; the predictions are the fallback's."
            )
        return said

    def prompts_of(self, trace: Trace) -> tuple[Trace, Prompts]:
        """The trace as it is put to the model, with made-up texts where it has none and the model reads."""
        rng = np.random.default_rng(self.seed)
        if self.tokenizer is not None and not self.is_nonsense:
            trace = made_up_texts(trace, np.random.default_rng((self.seed, 1)))
        return prompts_of(trace, self.tokenizer, self.loaded.shape.vocab, rng, self.conversation)

    def asking(self, predictor: str | ModelPredictor) -> Asking:
        """The way of asking that the predictor's options say."""
        options = model_predictor(predictor) if isinstance(predictor, str) else predictor
        if self.tokenizer is None:
            rng = np.random.default_rng(self.seed)
            ids, turn = question(None, QUESTION_TOKENS, self.loaded.shape.vocab, rng), 0
        else:
            ids = self.tokenizer(QUESTIONS[options.way], add_special_tokens=False)["input_ids"]
            turn = len(turn_of(self.tokenizer, self.conversation))
        adapter = self.adapter if options.adapter else None
        return Asking(ids, turn, ANSWER_TOKENS, self.tokenizer, self.loaded.eos_tokens, adapter)

    def informed(
        self,
        made: Scenario,
        predictor: str,
        engine: Engine,
        prompts: Prompts,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Scenario:
        """The scenario with what the model says of every request as its predictions; asks it now."""
        options = model_predictor(predictor)
        asking = self.asking(predictor)
        heard = asking.collect(engine, prompts, clock=clock)
        read = read_lengths(heard.stated, made.max_new_tokens, Fallback.of(options.fallback))
        self.askings[predictor] = asking
        slowdown = asking.slowdown(engine, prompts, clock)
        self.reports[predictor] = {
            **self.report(options, heard, read, made.trace),
            "slowdown": slowdown,
        }
        collected = CollectedLengths(read.predicted, len(asking.question), asking.answer_tokens, slowdown)
        limits = replace(made.limits, perception_tokens=asking_tokens(collected))
        labels = {**made.labels, "predictor": predictor}
        return replace(made, predictor=collected, limits=limits, labels=labels)

    def question_tokens(self, predictors: Sequence[str]) -> int:
        """Tokens of the longest question that any of these predictors asks."""
        return max((len(self.asking(p).question) for p in predictors if asks_the_model(p)), default=0)

    def report(
        self, options: ModelPredictor, heard: Statements, read: ReadLengths, trace: Trace
    ) -> dict[str, Any]:
        """What was asked, how much of it came back readable, how far it is off, and what it cost."""
        asking, n, truth = self.asking(options), len(heard.rows), trace.perceived_truth
        judged, understood = error_report(read.predicted, truth), ~read.fell_back
        any_read = bool(understood.any())
        fallback = options.fallback
        if fallback == "median" and not any_read:
            fallback = "max, for not one answer stated a length"
        return {
            "way": options.way,
            "adapter": None if asking.adapter is None else asking.adapter.path,
            "is_nonsense": self.loaded.weights == "random" and asking.adapter is None,
            "requests": n,
            "fell_back": int(read.fell_back.sum()),
            "fallback": fallback,
            "fallback_tokens": read.fallback_tokens,
            "error": judged.error,
            "bias": judged.bias,
            "acc_50": judged.acc_50,
            "acc_100": judged.acc_100,
            "error_of_those_read": error_report(read.predicted[understood], truth[understood]).error
            if any_read
            else None,
            "question_tokens": len(asking.question),
            "answer_tokens": asking.answer_tokens,
            "batches": heard.num_batches,
            "seconds": heard.seconds,
            "seconds_per_request": heard.seconds / n,
        }


def tokenizer_of(loaded: LoadedModel) -> Any:
    """The model's own tokenizer, bytes for the tiny model, None where neither is there."""
    if loaded.tokenizer is None and loaded.shape.name == TINY.name:
        return ByteTokenizer()
    return loaded.tokenizer
