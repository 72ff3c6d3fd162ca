"""How long one iteration of an engine takes, in two regimes; knows nothing of schedulers, clocks or GPUs by
name.

    decode-only iteration:  decode_base(n) + c_d(n) * S + v(n) * U / n
    any prefill in it:      mixed_base(T) + c_m * S + q * Q + the further terms that `StepCost` lists

n sequences decode, S is the sum of their context tokens, U = n * longest - S what they fall short of the
longest, T counts every token computed and Q = sum of chunk * (history + chunk / 2) over the prefill chunks.
c_d is one number, or a curve over n; v is a curve, or nothing. One line for both regimes would be wrong by
tens of percent where they mix. The decode-only regime is affine in S so that many iterations have a closed
form; U stays as it is while all contexts grow by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sim.hardware.json_fields import Fields, checked_number
from sim.hardware.piecewise_linear import MOST_SECONDS, PiecewiseLinear
from traces.errors import InputError

KNEE_GAIN = 1.25
"""Doubling a batch pays while it multiplies the tokens per second by at least this."""

LARGEST_KNEE = 1024
_LARGEST_CACHED = 16_384


@dataclass(frozen=True)
class StepCost:
    """Predicted time of one iteration, and of a run of decode-only iterations in closed form.

    All times are in seconds, `host_ms` excepted. Every coefficient is finite and not negative (`InputError`),
    so no iteration is cheaper than its base. `decode_base` is above 0: an iteration that takes no time would
    never let the clock move.
    """

    decode_base: PiecewiseLinear
    """Seconds of a decode-only iteration over the number of sequences, context left out."""
    decode_per_context_s: float
    """c_d: seconds per context token in a decode-only iteration."""
    mixed_base: PiecewiseLinear
    """Seconds of an iteration with prefill over all tokens it computes, attention left out."""
    mixed_per_context_s: float
    """c_m: seconds per context token of the decoding sequences in an iteration with prefill."""
    mixed_per_attention_s: float
    """q: seconds per unit of prefill attention Q."""
    mixed_per_decode_s: float = 0.0
    """Seconds per decoding sequence in an iteration with prefill: each has an attention tile of its own."""
    mixed_per_longest_s: float = 0.0
    """Seconds per key of the longest row, which attention has to wait for: the longest context (their mean,
    S / n, where uneven contexts cost nothing), or Q / prefill tokens if that is more."""
    mixed_per_key_s: float = 0.0
    """Seconds per key that a prefill token reads on average, Q / prefill tokens."""
    mixed_per_share_s: float = 0.0
    """Seconds times the share of its chunks' attention that an iteration computes: 1 without history, and
    1 - (h / (h + t))^2 for chunks of t tokens after h each.
    """
    mixed_per_reach_s: float = 0.0
    """Seconds per token of the chunks' contexts, h + t each, times that share."""
    mixed_per_uneven_s: float = 0.0
    """Seconds per token of U in an iteration with prefill."""
    host_ms: float = 0.0
    """Milliseconds that the engine adds to every iteration on the host."""
    ragged_prefill: bool = False
    """A padded batch computes each row's real prompt only; else every row counts at the padded length."""
    ragged_decode: bool = False
    """Decoding reads each row's real context only; else every row counts as long as the longest."""
    decode_context: PiecewiseLinear | None = None
    """Seconds per context token of a decode-only iteration beyond c_d, over the number of sequences."""
    mixed_decode: PiecewiseLinear | None = None
    """Seconds that n decoding sequences add to an iteration with prefill, over n, where their attention is a
    kernel of its own. Their context tokens then cost what they cost in a decode-only iteration.
    """
    decode_uneven: PiecewiseLinear | None = None
    """v: seconds per token by which the longest context exceeds the mean, U / n, in a decode-only iteration,
    over the number of sequences; constant beyond the largest. v = alpha * c_d * n, where U tokens that are
    missing cost as much as alpha * U that are there."""
    _decode_cache: dict[int, tuple[float, float]] = field(
        default_factory=dict, init=False, repr=False, compare=False, hash=False
    )
    _mixed_cache: dict[int, float] = field(
        default_factory=dict, init=False, repr=False, compare=False, hash=False
    )
    _mixed_decode_cache: dict[int, float] = field(
        default_factory=dict, init=False, repr=False, compare=False, hash=False
    )
    _has_launches: bool = field(default=False, init=False, repr=False, compare=False, hash=False)
    _has_longest: bool = field(default=False, init=False, repr=False, compare=False, hash=False)
    _uneven_cache: dict[int, float] = field(
        default_factory=dict, init=False, repr=False, compare=False, hash=False
    )

    def __post_init__(self) -> None:
        for name in (*_COEFFICIENTS, "host_ms"):
            most = MOST_SECONDS * 1e3 if name == "host_ms" else MOST_SECONDS
            checked_number(getattr(self, name), name, maximum=most)
        if self.decode_base.seconds[0] <= 0:
            raise InputError(f"decode_base, seconds[0]: {self.decode_base.seconds[0]!r} is not above 0")
        launches = self.mixed_decode is not None or self.mixed_per_share_s > 0 or self.mixed_per_reach_s > 0
        object.__setattr__(self, "_has_launches", launches)
        longest = self.mixed_per_uneven_s > 0 or self.mixed_per_longest_s > 0
        object.__setattr__(self, "_has_longest", longest)

    @property
    def host_s(self) -> float:
        """`host_ms` in seconds."""
        return self.host_ms / 1e3

    @property
    def counts_uneven(self) -> bool:
        """Whether contexts that differ cost more than their sum tells."""
        return self.decode_uneven is not None or self.mixed_per_uneven_s > 0

    def decode_s(self, num_seqs: int, context_tokens: float, uneven_tokens: float = 0.0) -> float:
        """One decode-only iteration of `num_seqs` sequences with `context_tokens` in all; uneven: U."""
        base, per_token_s = self._decode_cache.get(num_seqs) or self._decode_terms_s(num_seqs)
        if uneven_tokens:
            base += (self._uneven_cache.get(num_seqs) or self.decode_uneven_s(num_seqs)) * uneven_tokens
        return base + per_token_s * context_tokens

    def decode_context_s(self, num_seqs: int) -> float:
        """Seconds per context token in a decode-only iteration of `num_seqs` sequences."""
        _, per_token_s = self._decode_cache.get(num_seqs) or self._decode_terms_s(num_seqs)
        return per_token_s

    def decode_uneven_s(self, num_seqs: int) -> float:
        """Seconds per token of U in a decode-only iteration of `num_seqs` sequences."""
        curve = self.decode_uneven
        if curve is None:
            return 0.0
        seconds = self._uneven_cache.get(num_seqs)
        if seconds is None:
            seconds = curve(min(num_seqs, curve.sizes[-1])) / num_seqs
            if num_seqs <= _LARGEST_CACHED:
                self._uneven_cache[num_seqs] = seconds
        return seconds

    def decode_run(
        self, num_seqs: int, context_tokens: float, uneven_tokens: float = 0.0
    ) -> tuple[float, float]:
        """(first_s, slope_s): iteration j = 0, 1, … of a decode-only run costs first_s + j * slope_s.

        `context_tokens` is the sum before the run's first iteration; it grows by `num_seqs` an iteration,
        while `uneven_tokens`, U, stays.
        """
        base, per_token_s = self._decode_cache.get(num_seqs) or self._decode_terms_s(num_seqs)
        if uneven_tokens:
            base += (self._uneven_cache.get(num_seqs) or self.decode_uneven_s(num_seqs)) * uneven_tokens
        return base + per_token_s * context_tokens, per_token_s * num_seqs

    def decode_run_s(
        self, num_seqs: int, context_tokens: float, iterations: int, uneven_tokens: float = 0.0
    ) -> float:
        """`iterations` decode-only iterations: k * first + slope * k * (k - 1) / 2."""
        first, slope = self.decode_run(num_seqs, context_tokens, uneven_tokens)
        return iterations * first + slope * (iterations * (iterations - 1) / 2)

    def mixed_s(
        self,
        num_decode: int,
        decode_context_tokens: float,
        num_prefill: int,
        prefill_tokens: int,
        prefill_attention: float,
        uneven_tokens: float = 0.0,
    ) -> float:
        """One iteration that computes `prefill_tokens` prompt tokens beside `num_decode` decoding sequences.

        decode_context_tokens: S. prefill_attention: Q. uneven_tokens: U. `num_prefill` chunks share the
        prefill tokens; of the terms only those of `mixed_per_share_s` and `mixed_per_reach_s` depend on their
        number, the others (T, Q, mean keys) see the chunks' sizes. Without prefill tokens it is a decode-only
        iteration.
        """
        if prefill_tokens <= 0:
            return self.decode_s(num_decode, decode_context_tokens, uneven_tokens)
        tokens = num_decode + prefill_tokens
        base = self._mixed_cache.get(tokens)
        if base is None:
            base = self._mixed_base_s(tokens)
        keys = prefill_attention / prefill_tokens
        seconds = (
            base
            + self.mixed_per_context_s * decode_context_tokens
            + self.mixed_per_attention_s * prefill_attention
            + self.mixed_per_decode_s * num_decode
        )
        if self._has_longest:
            longest = keys
            if num_decode and decode_context_tokens > keys * num_decode:
                longest = decode_context_tokens / num_decode
            seconds += self.mixed_per_longest_s * longest
        seconds += self.mixed_per_key_s * keys
        if uneven_tokens and self._has_longest:
            row = (decode_context_tokens + uneven_tokens) / num_decode
            seconds += self.mixed_per_uneven_s * uneven_tokens
            seconds += self.mixed_per_longest_s * (max(row, keys) - longest)
        if not self._has_launches:
            return seconds
        reach = keys + prefill_tokens / num_prefill / 2
        new = 2 * prefill_attention / reach  # reach * share, of all chunks
        seconds += new * (self.mixed_per_reach_s + self.mixed_per_share_s / (num_prefill * reach))
        if num_decode and self.mixed_decode is not None:
            seconds += self._mixed_decode_cache.get(num_decode) or self._mixed_decode_s(num_decode)
            _, per_token_s = self._decode_cache.get(num_decode) or self._decode_terms_s(num_decode)
            seconds += per_token_s * decode_context_tokens
        return seconds

    def padded_prefill_s(self, rows: int, padded_prompt_tokens: int) -> float:
        """Prefill of `rows` rows, every one at the padded length (what Hugging Face computes)."""
        tokens = rows * padded_prompt_tokens
        return self.mixed_s(0, 0, rows, tokens, tokens * padded_prompt_tokens / 2)

    def batch_prefill_s(self, prompts: Sequence[int]) -> float:
        """Prefill of a batch of these prompt lengths; their padding counts unless `ragged_prefill`."""
        if not self.ragged_prefill:
            return self.padded_prefill_s(len(prompts), max(prompts))
        return self.mixed_s(0, 0, len(prompts), sum(prompts), sum([p * p for p in prompts]) / 2)

    def batch_context_tokens(self, prompts: Sequence[int]) -> int:
        """The context with which such a batch begins to decode: each row's own, or all at the longest."""
        return sum(prompts) if self.ragged_decode else len(prompts) * max(prompts)

    def batch_uneven_tokens(self, prompts: Sequence[int]) -> int:
        """U of such a batch: none where all its rows count at the longest."""
        if not (self.ragged_decode and self.counts_uneven):
            return 0
        return len(prompts) * max(prompts) - sum(prompts)

    def knee(self, context_tokens: float) -> int:
        """The batch beyond which a larger one stops paying, at `context_tokens` per sequence.

        It is the smallest power of two n, at most 1024, for which 2 n sequences decode less than 25 % more
        tokens per second than n do.
        """
        n = 1
        while n < LARGEST_KNEE:
            gain = 2 * self.decode_s(n, n * context_tokens) / self.decode_s(2 * n, 2 * n * context_tokens)
            if gain < KNEE_GAIN:
                break
            n *= 2
        return n

    def scaled(self, factor: float) -> StepCost:
        """Every time, host time included, multiplied by `factor` (> 0)."""
        if not (math.isfinite(factor) and factor > 0):
            raise InputError(f"scale: {factor!r} is not a finite number above 0")
        changes: dict[str, Any] = {name: factor * getattr(self, name) for name in _COEFFICIENTS}
        return replace(
            self,
            decode_base=self.decode_base.scaled(factor),
            mixed_base=self.mixed_base.scaled(factor),
            host_ms=factor * self.host_ms,
            decode_context=self.decode_context and self.decode_context.scaled(factor),
            mixed_decode=self.mixed_decode and self.mixed_decode.scaled(factor),
            decode_uneven=self.decode_uneven and self.decode_uneven.scaled(factor),
            **changes,
        )

    def with_host(self, host_ms: float) -> StepCost:
        """The same iterations with `host_ms` as their host time."""
        return replace(self, host_ms=host_ms)

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values."""
        return {
            "decode_base": self.decode_base.to_json(),
            "mixed_base": self.mixed_base.to_json(),
            **{n: v for n in _COEFFICIENTS if (v := getattr(self, n)) or n not in _LEFT_OUT},
            "host_ms": self.host_ms,
            **{name: getattr(self, name) for name in _FLAGS},
            **{name: curve.to_json() for name in _CURVES if (curve := getattr(self, name))},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | Fields, where: str = "step_cost") -> StepCost:
        """The cost that `to_json` wrote; `InputError` naming `where`, key, value and bound otherwise."""
        fields = data if isinstance(data, Fields) else Fields(data, where)
        decode_base = PiecewiseLinear.from_json(fields.section("decode_base"))
        mixed_base = PiecewiseLinear.from_json(fields.section("mixed_base"))
        numbers: dict[str, Any] = {
            name: fields.number(name, default=0.0 if name in _OPTIONAL else None) for name in _COEFFICIENTS
        }
        host_ms = fields.number("host_ms", default=0.0)
        ragged_prefill, ragged_decode = (fields.flag(name) for name in _FLAGS)
        curves: dict[str, Any] = {
            name: PiecewiseLinear.from_json(section)
            for name in _CURVES
            if (section := fields.section_or_none(name))
        }
        fields.end()
        try:
            return cls(
                decode_base=decode_base,
                mixed_base=mixed_base,
                host_ms=host_ms,
                ragged_prefill=ragged_prefill,
                ragged_decode=ragged_decode,
                **curves,
                **numbers,
            )
        except InputError as error:
            raise InputError(f"{fields.where}, {error}") from None

    # What depends on a size alone is cached: the inner loop asks for the same few sizes.

    def _decode_terms_s(self, num_seqs: int) -> tuple[float, float]:
        """The base with host time, and seconds per context token."""
        base, per_token_s = self.decode_base(num_seqs) + self.host_s, self.decode_per_context_s
        if self.decode_context is not None:
            per_token_s += self.decode_context(num_seqs)
        if num_seqs <= _LARGEST_CACHED:
            self._decode_cache[num_seqs] = base, per_token_s
        return base, per_token_s

    def _mixed_decode_s(self, num_decode: int) -> float:
        """What decoding sequences add to an iteration with prefill, context left out."""
        assert self.mixed_decode is not None
        seconds = self.mixed_decode(num_decode)
        if num_decode <= _LARGEST_CACHED:
            self._mixed_decode_cache[num_decode] = seconds
        return seconds

    def _mixed_base_s(self, tokens: int) -> float:
        base = self.mixed_base(tokens) + self.host_s
        if tokens <= _LARGEST_CACHED:
            self._mixed_cache[tokens] = base
        return base


_COEFFICIENTS = tuple(f.name for f in fields(StepCost) if f.name.endswith("_s"))
_LEFT_OUT = ("mixed_per_share_s", "mixed_per_reach_s", "mixed_per_uneven_s")
"""Not written where they are 0."""
_OPTIONAL = ("mixed_per_decode_s", "mixed_per_longest_s", "mixed_per_key_s", *_LEFT_OUT)
_CURVES = ("decode_context", "mixed_decode", "decode_uneven")
_FLAGS = ("ragged_prefill", "ragged_decode")
