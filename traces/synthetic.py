"""Draws request traces from stated distributions; knows nothing of arrival times, other files or schedulers.

`alpaca-vicuna` stands in for the measured response lengths of Vicuna-7B on 10,000 Alpaca instructions, four
answers each (temperatures 0, 0.3, 0.5, 0.7). Its model has three parts, whose parameters lie in
`data/alpaca-vicuna.json` and are made by `traces.fit_alpaca`:

- a prompt has a latent score, and the scores of its answers scatter about it, by an amount that depends on
  the score and on the prompt, with heavy tails; the answer at 0.3 shares part of the scatter of the greedy
  one;
- with a probability that falls with length and temperature a sampled answer is exactly as long as the greedy
  one;
- a score becomes a length by monotone thresholds, so that each sample's own distribution is met by
  construction.

How well 400,000 drawn rows meet the measured 10,000, the worst of seven seeds (`goodness_of_fit` in the file
has every figure for one): means of the samples within 0.8 %, their percentiles from 1 to 99 within 3.2 %
(rounding to whole tokens apart), shares at the cap within 0.0005, correlations of lengths between samples
within 0.012 and of their logarithms within 0.017; the longest of the four within 0.4 % in the mean, 4.6 % in
the percentiles and 0.0005 in the share at the cap; its excess over the greedy answer within 1.2 % in the mean
and, at the 99th percentile, 11 of 276 tokens; greedy / longest within 0.001 in the mean and 0.036 in the
percentiles. The weakest point is exact equality: a sample equals the greedy answer up to 0.016 too often, and
6.4 % of the prompts give four equal lengths where 5.4 % were measured. The rows that were fitted are the rows
compared with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .generating import MAX_NUM_PROMPTS, MAX_TOKENS, Bounded, lognormal_tokens, stream
from .registry import Registry
from .session_generator import Sessions
from .trace import DEFAULT_MAX_NEW_TOKENS, FloatArray, IntArray, Trace

BoolArray = npt.NDArray[np.bool_]

DEFAULT_NUM_PROMPTS = 1000
MAX_SEED = 2**32 - 1

TEMPLATE_TOKENS = 38
INSTRUCTION_MEDIAN_TOKENS = 12.0
INSTRUCTION_SIGMA = 0.9
MAX_ALPACA_PROMPT_TOKENS = 256
ALPACA_PROMPT_NOTE = (
    f"prompt_tokens are drawn, not measured: {TEMPLATE_TOKENS} tokens of Vicuna template plus a lognormal "
    f"instruction (median {INSTRUCTION_MEDIAN_TOKENS:g}, sigma {INSTRUCTION_SIGMA:g}), clipped at "
    f"{MAX_ALPACA_PROMPT_TOKENS}, independent of the response"
)

NORMALS_PER_ROW = 10


def generate(
    spec: str, num_prompts: int | None = None, seed: int = 0, *, whole_sessions: bool = False
) -> Trace:
    """The trace that `NAME[:key=value,...]` describes: `num_prompts` rows, and no arrival times but those of
    sessions. Without `num_prompts` there are as many as the generator says, else 1000.

    The last sessions have begun by then, and not ended; with `whole_sessions` the first of them that have so
    many requests are drawn to their ends.

    NAME may be `some.module:Class`, a class with a method `generate(num_prompts, seed) -> Trace`. The same
    arguments give the same trace, and a shorter trace is the beginning of a longer one of that seed.
    Raises InputError for an unknown generator or option, for a value that is malformed or out of bounds, and
    for what a class from outside does wrong.
    """
    named = GENERATORS.resolve(spec)
    generator = named.build()
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed: {seed} is not between 0 and {MAX_SEED}")
    if num_prompts is None and isinstance(generator, Bounded):
        num_prompts = generator.num_requests(seed)
    count = DEFAULT_NUM_PROMPTS if num_prompts is None else num_prompts
    if not 1 <= count <= MAX_NUM_PROMPTS:
        raise InputError(f"num_prompts: {count} is not between 1 and {MAX_NUM_PROMPTS}")
    if whole_sessions and isinstance(generator, Sessions):
        return replace(generator.whole(count, seed), name=spec)
    trace = named.call(generator, "generate", count, seed, returns=Trace)
    if len(trace) != count:
        raise InputError(f"{named.label}: generate returned {len(trace)} requests, not {count}")
    return replace(trace, name=spec)


def alpaca_prompt_tokens(n: int, rng: np.random.Generator) -> IntArray:
    """Prompt lengths of n Alpaca instructions in the Vicuna template, in tokens, shape (n,): an assumption.

    The template (system sentence, role names, start token) counts as 38 tokens; the instruction is
    lognormal, rounded up, with median 12 and sigma 0.9, so that the whole has a median of 50; it is clipped
    at 256. The sigma was checked on the 805 instructions of alpaca_eval (0.86 at 4.3 characters a token),
    which are longer than Alpaca's own.
    """
    instruction = np.ceil(INSTRUCTION_MEDIAN_TOKENS * np.exp(INSTRUCTION_SIGMA * rng.standard_normal(n)))
    clipped: FloatArray = np.minimum(TEMPLATE_TOKENS + instruction, MAX_ALPACA_PROMPT_TOKENS)
    return clipped.astype(np.int64)


@cache
def alpaca_vicuna_model() -> dict[str, Any]:
    """The committed model of `alpaca-vicuna`: parameters, provenance, goodness of fit. Not to be changed."""
    text = resources.files("traces").joinpath("data", "alpaca-vicuna.json").read_text(encoding="utf-8")
    model: dict[str, Any] = json.loads(text)
    return model


def latent_scores(dependence: Mapping[str, Any], normals: FloatArray) -> FloatArray:
    """Scores of the four answers, shape (n, 4), from standard normals of shape (n, 10).

    Columns of `normals`: the prompt's score, the prompt's volatility, four answers, and what `copies_greedy`
    uses: three copying decisions and the prompt's own inclination to copy.
    """
    spread = dependence["spread"]
    shared = np.array([spread["shared_with_greedy"], 0.0, 0.0])
    own = shared * normals[:, 2:3] + np.sqrt(1 - shared**2) * normals[:, 3:6]
    # sinh stretches a normal's tails by one parameter and stays cheap.
    noise = np.sinh(spread["tail"] * np.column_stack([normals[:, 2], own])) / spread["tail"]
    log_scale = np.interp(normals[:, 0], spread["score_knots"], spread["log_spread"])
    scale = np.exp(log_scale + spread["volatility"] * normals[:, 1])
    scores: FloatArray = normals[:, :1] + scale[:, None] * np.exp(spread["log_sample_scale"]) * noise
    return scores


def copies_greedy(dependence: Mapping[str, Any], greedy_tokens: FloatArray, normals: FloatArray) -> BoolArray:
    """Which of the three sampled answers are exactly as long as the greedy one: booleans of shape (n, 3)."""
    copying = dependence["copying"]
    level = np.interp(np.log(greedy_tokens), np.log(copying["length_knots"]), copying["level"])
    prompt = level - copying["volatility"] * normals[:, 1] + copying["prompt_scale"] * normals[:, 9]
    copied: BoolArray = prompt[:, None] + normals[:, 6:9] > np.array(copying["penalty"])
    return copied


def lengths_of(scores: FloatArray, thresholds: FloatArray, lengths: Mapping[str, Any]) -> FloatArray:
    """Whole lengths of scores, shape (n,); threshold j lies between the lengths grid[j] and grid[j] + 1."""
    grid = np.asarray(lengths["grid_tokens"], dtype=float)
    inside = np.round(np.interp(scores, thresholds, grid + 0.5))
    drawn: FloatArray = np.where(scores > thresholds[-1], lengths["cap_tokens"], inside)
    return np.clip(drawn, lengths["floor_tokens"], None)


def draw_samples(model: Mapping[str, Any], n: int, rng: np.random.Generator) -> IntArray:
    """Lengths in tokens of four answers to each of n prompts, shape (n, 4), greedy answer first."""
    normals = rng.standard_normal((n, NORMALS_PER_ROW))
    dependence, lengths = model["dependence"], model["lengths"]
    thresholds = np.asarray(lengths["score_thresholds"])
    scores = latent_scores(dependence, normals)
    drawn = np.column_stack(
        [lengths_of(scores[:, k], thresholds[k], lengths) for k in range(scores.shape[1])]
    )
    copied = copies_greedy(dependence, drawn[:, 0], normals)
    drawn[:, 1:] = np.where(copied, drawn[:, :1], drawn[:, 1:])
    return drawn.astype(np.int64)


@dataclass(frozen=True)
class AlpacaVicuna(Bounded):
    """Response lengths of Vicuna-7B on Alpaca instructions, from a model of 10,000 measured prompts."""

    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    """Output lengths are clipped to this many tokens (1 to 512; the fitted answers end near 512)."""

    NAME: ClassVar[str] = "alpaca-vicuna"
    BOUNDS: ClassVar[Mapping[str, tuple[float, float]]] = {"max_new_tokens": (1, DEFAULT_MAX_NEW_TOKENS)}

    def generate(self, num_prompts: int, seed: int) -> Trace:
        """Four answers to each prompt as samples, the first of which is the output."""
        model = alpaca_vicuna_model()
        samples = draw_samples(model, num_prompts, stream(seed, "response lengths"))
        return Trace(
            name=self.NAME,
            request_id=np.arange(num_prompts),
            prompt_tokens=alpaca_prompt_tokens(num_prompts, stream(seed, "prompt lengths")),
            output_tokens=np.minimum(samples[:, 0], self.max_new_tokens),
            samples=samples,
            sample_names=tuple(model["sample_names"]),
            max_new_tokens=self.max_new_tokens,
            notes=(
                "response lengths are drawn from a model fitted to 10,000 measured prompts",
                ALPACA_PROMPT_NOTE,
            ),
        )


@dataclass(frozen=True)
class Lognormal(Bounded):
    """Independent lognormal prompt and output lengths."""

    prompt_median: float = 128.0
    """Median prompt length in tokens."""
    prompt_sigma: float = 0.8
    """Standard deviation of the logarithm of the prompt length; 0 makes all prompts equal."""
    output_median: float = 128.0
    """Median output length in tokens."""
    output_sigma: float = 0.8
    """Standard deviation of the logarithm of the output length; 0 makes all outputs equal."""
    max_prompt_tokens: int = 4096
    """Longer prompts are clipped to this."""
    max_output_tokens: int = 2048
    """Longer outputs are clipped to this; it becomes the trace's max_new_tokens."""

    NAME: ClassVar[str] = "lognormal"
    BOUNDS: ClassVar[Mapping[str, tuple[float, float]]] = {
        "prompt_median": (1, MAX_TOKENS),
        "prompt_sigma": (0, 5),
        "output_median": (1, MAX_TOKENS),
        "output_sigma": (0, 5),
        "max_prompt_tokens": (1, MAX_TOKENS),
        "max_output_tokens": (1, MAX_TOKENS),
    }

    def generate(self, num_prompts: int, seed: int) -> Trace:
        """Lengths rounded to whole tokens and clipped."""

        def draw(median: float, sigma: float, most: int, purpose: str) -> IntArray:
            return lognormal_tokens(stream(seed, purpose), num_prompts, median, sigma, most)

        return Trace(
            name=self.NAME,
            request_id=np.arange(num_prompts),
            prompt_tokens=draw(
                self.prompt_median, self.prompt_sigma, self.max_prompt_tokens, "prompt lengths"
            ),
            output_tokens=draw(
                self.output_median, self.output_sigma, self.max_output_tokens, "response lengths"
            ),
            max_new_tokens=self.max_output_tokens,
            notes=("prompt and response lengths are drawn from independent lognormal distributions",),
        )


@dataclass(frozen=True)
class Fixed(Bounded):
    """The same lengths for every request."""

    prompt_tokens: int = 128
    """Length of every prompt in tokens."""
    output_tokens: int = 128
    """Length of every output in tokens; it becomes the trace's max_new_tokens."""

    NAME: ClassVar[str] = "fixed"
    BOUNDS: ClassVar[Mapping[str, tuple[float, float]]] = {
        "prompt_tokens": (1, MAX_TOKENS),
        "output_tokens": (1, MAX_TOKENS),
    }

    def generate(self, num_prompts: int, seed: int) -> Trace:
        """Nothing is drawn."""
        return Trace(
            name=self.NAME,
            request_id=np.arange(num_prompts),
            prompt_tokens=np.full(num_prompts, self.prompt_tokens, dtype=np.int64),
            output_tokens=np.full(num_prompts, self.output_tokens, dtype=np.int64),
            max_new_tokens=self.output_tokens,
            notes=("every request is the same",),
        )


GENERATORS = Registry(
    "trace",
    {"alpaca-vicuna": AlpacaVicuna, "fixed": Fixed, "lognormal": Lognormal, "sessions": Sessions},
    fields_are_options=True,
)
"""Called as `Class(**options)`, where the fields of the dataclass are the options."""
