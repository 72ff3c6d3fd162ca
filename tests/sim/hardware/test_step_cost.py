"""The closed forms equal their sums, and no bad cost gets in."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.step_cost import StepCost
from traces.errors import InputError

COEFFICIENT = st.floats(0, 1e-3)


@st.composite
def curves(draw: st.DrawFn, first: float = 1e-5) -> PiecewiseLinear:
    sizes = sorted(draw(st.sets(st.integers(1, 4096), min_size=1, max_size=8)))
    rises = draw(st.lists(st.floats(0, 0.1), min_size=len(sizes) - 1, max_size=len(sizes) - 1))
    heights = [draw(st.floats(first, 1.0))]
    for rise in rises:
        heights.append(heights[-1] + rise)
    return PiecewiseLinear(tuple(map(float, sizes)), tuple(heights))


@st.composite
def costs(draw: st.DrawFn) -> StepCost:
    names = (
        "decode_per_context_s",
        "mixed_per_context_s",
        "mixed_per_attention_s",
        "mixed_per_decode_s",
        "mixed_per_longest_s",
        "mixed_per_key_s",
        "mixed_per_share_s",
        "mixed_per_reach_s",
        "mixed_per_uneven_s",
    )
    return StepCost(
        decode_base=draw(curves()),
        mixed_base=draw(curves(0.0)),
        host_ms=draw(st.floats(0, 10)),
        ragged_prefill=draw(st.booleans()),
        ragged_decode=draw(st.booleans()),
        decode_context=draw(st.none() | curves(0.0)),
        mixed_decode=draw(st.none() | curves(0.0)),
        decode_uneven=draw(st.none() | curves(0.0)),
        **{name: draw(COEFFICIENT) for name in names},
    )


SMALL = StepCost(
    decode_base=PiecewiseLinear((1, 4), (0.010, 0.016)),
    decode_per_context_s=1e-5,
    mixed_base=PiecewiseLinear((16, 32, 64), (0.02, 0.03, 0.06)),
    mixed_per_context_s=2e-5,
    mixed_per_attention_s=1e-6,
)


def test_curve_is_constant_below_and_follows_the_last_octave_beyond() -> None:
    curve = PiecewiseLinear((10, 50, 99, 100), (1.0, 2.0, 2.0, 3.0))
    assert curve(1) == 1.0
    assert curve(10) == 1.0
    assert curve(30) == 1.5
    assert curve(100) == 3.0
    # From size 50, the largest at or below half of 100, not along the step between 99 and 100.
    assert curve(200) == pytest.approx(3.0 + 100 * (3.0 - 2.0) / 50)


def test_a_curve_of_one_point_is_constant() -> None:
    curve = PiecewiseLinear((8,), (0.5,))
    assert [curve(n) for n in (1, 8, 1000)] == [0.5, 0.5, 0.5]


@given(curves(), st.floats(1, 1e4), st.floats(0, 1e4))
def test_a_curve_never_falls(curve: PiecewiseLinear, size: float, more: float) -> None:
    assert curve(size + more) >= curve(size) * (1 - 1e-12)


def test_decode_golden() -> None:
    assert SMALL.decode_s(2, 100) == pytest.approx(0.012 + 1e-3)
    assert SMALL.decode_run(2, 100) == pytest.approx((0.013, 2e-5))
    assert SMALL.decode_run_s(2, 100, 3) == pytest.approx(3 * 0.013 + 3 * 2e-5)


def test_mixed_golden() -> None:
    cost = StepCost(
        **{
            **{k: getattr(SMALL, k) for k in ("decode_base", "decode_per_context_s", "mixed_base")},
            "mixed_per_context_s": 2e-5,
            "mixed_per_attention_s": 1e-6,
            "mixed_per_decode_s": 1e-4,
            "mixed_per_longest_s": 1e-5,
            "mixed_per_key_s": 1e-7,
            "host_ms": 1.0,
        }
    )
    # T = 48, mean decode context 50 beats the 46 / 2 keys of the prefill.
    expected = 0.045 + 2e-5 * 100 + 1e-6 * 1058 + 1e-4 * 2 + 1e-5 * 50 + 1e-7 * 23 + 1e-3
    assert cost.mixed_s(2, 100, 1, 46, 1058) == pytest.approx(expected, rel=1e-12)
    # Nothing depends on how many chunks the same tokens and attention come in.
    assert cost.mixed_s(2, 100, 3, 46, 1058) == cost.mixed_s(2, 100, 1, 46, 1058)
    assert cost.mixed_s(2, 100, 0, 0, 0) == cost.decode_s(2, 100)


def test_kernels_that_are_launched_by_themselves() -> None:
    cost = replace(
        SMALL,
        mixed_per_context_s=0.0,
        mixed_per_attention_s=0.0,
        mixed_per_share_s=2e-3,
        mixed_per_reach_s=1e-5,
        mixed_decode=PiecewiseLinear((1, 8), (1e-3, 8e-3)),
    )
    base = cost.mixed_base(32)
    # Two chunks of 16 tokens without history: the whole triangle of 16 keys each.
    assert cost.mixed_s(0, 0, 2, 32, 2 * 16 * 8) == pytest.approx(base + 2e-3 + 1e-5 * 32, rel=1e-12)
    # After 48 tokens each, 1 - (48 / 64)^2 of a triangle of 64 keys.
    share = 1 - (48 / 64) ** 2
    found = cost.mixed_s(0, 0, 2, 32, 2 * 16 * (48 + 8))
    assert found == pytest.approx(base + share * (2e-3 + 1e-5 * 128), rel=1e-12)
    # Decoding sequences beside them cost a kernel, and their context what it costs elsewhere.
    beside = cost.mixed_s(2, 100, 1, 30, 30 * 15)
    assert beside == pytest.approx(base + 2e-3 + 1e-5 * 30 + 2e-3 + 1e-5 * 100, rel=1e-12)


@given(costs(), st.integers(1, 256), st.integers(1, 2048))
def test_padded_prefill_is_every_row_at_the_padded_length(cost: StepCost, rows: int, prompt: int) -> None:
    ragged = cost.mixed_s(0, 0, rows, rows * prompt, sum(prompt * prompt / 2 for _ in range(rows)))
    assert cost.padded_prefill_s(rows, prompt) == pytest.approx(ragged, rel=1e-12)


PROMPTS = st.lists(st.integers(1, 2048), min_size=1, max_size=40)


@given(costs(), PROMPTS)
def test_a_batch_is_charged_for_its_padding_or_for_its_real_tokens(
    cost: StepCost, prompts: list[int]
) -> None:
    rows, longest = len(prompts), max(prompts)
    ragged, padded = (replace(cost, ragged_prefill=flag, ragged_decode=flag) for flag in (True, False))
    assert padded.batch_prefill_s(prompts) == cost.padded_prefill_s(rows, longest)
    assert padded.batch_context_tokens(prompts) == rows * longest
    attention = sum(p * p / 2 for p in prompts)
    exact = cost.mixed_s(0, 0, rows, sum(prompts), attention)
    assert ragged.batch_prefill_s(prompts) == pytest.approx(exact, rel=1e-12)
    assert ragged.batch_context_tokens(prompts) == sum(prompts)
    # Padding never makes a batch cheaper, and without any the two agree.
    assert ragged.batch_prefill_s(prompts) <= padded.batch_prefill_s(prompts) * (1 + 1e-12)
    even = [longest] * rows
    assert ragged.batch_prefill_s(even) == pytest.approx(padded.batch_prefill_s(even), rel=1e-12)
    assert ragged.batch_context_tokens(even) == padded.batch_context_tokens(even)


def test_ragged_is_off_where_a_profile_does_not_say() -> None:
    data = SMALL.to_json()
    del data["ragged_prefill"], data["ragged_decode"]
    assert StepCost.from_json(data) == SMALL
    with pytest.raises(InputError, match="ragged_decode: 1 is not true or false"):
        StepCost.from_json({**data, "ragged_decode": 1})


def test_a_scaled_cost_keeps_what_it_is() -> None:
    changed = replace(SMALL, ragged_prefill=True).scaled(2.0).with_host(1.0)
    assert (changed.ragged_prefill, changed.ragged_decode) == (True, False)


@given(costs(), st.integers(1, 512), st.integers(0, 100_000), st.integers(0, 300))
def test_a_leap_is_the_sum_of_its_iterations(cost: StepCost, n: int, context: int, k: int) -> None:
    one_by_one = math.fsum(cost.decode_s(n, context + j * n) for j in range(k))
    assert cost.decode_run_s(n, context, k) == pytest.approx(one_by_one, rel=1e-12)
    first, slope = cost.decode_run(n, context)
    assert math.fsum(first + j * slope for j in range(k)) == pytest.approx(one_by_one, rel=1e-12)


UNEVEN = replace(SMALL, decode_uneven=PiecewiseLinear((2, 4), (3e-6, 1e-6), may_fall=True))


def test_uneven_contexts_golden() -> None:
    # Contexts of 10 and 40: 30 tokens short of the longest, which exceeds the mean by 15.
    assert UNEVEN.decode_s(2, 50, 30) == pytest.approx(SMALL.decode_s(2, 50) + 15 * 3e-6, rel=1e-12)
    assert UNEVEN.decode_s(3, 60, 30) == pytest.approx(SMALL.decode_s(3, 60) + 10 * 2e-6, rel=1e-12)
    assert UNEVEN.decode_s(2, 50) == SMALL.decode_s(2, 50)
    # Beyond the largest batch that was measured it costs what it costs there.
    assert UNEVEN.decode_s(8, 80, 160) == pytest.approx(SMALL.decode_s(8, 80) + 20 * 1e-6, rel=1e-12)
    # Beside a prefill the longest row is the longest context; without the term it is their mean.
    cost = replace(UNEVEN, mixed_per_longest_s=1e-4, mixed_per_uneven_s=1e-7)
    even = cost.mixed_s(2, 50, 1, 30, 450)
    assert cost.mixed_s(2, 50, 1, 30, 450, 30) == pytest.approx(even + (40 - 25) * 1e-4 + 30 * 1e-7, rel=1e-9)
    assert (SMALL.counts_uneven, UNEVEN.counts_uneven) == (False, True)
    assert replace(SMALL, mixed_per_uneven_s=1e-9).counts_uneven


@given(costs(), st.lists(st.integers(0, 5000), min_size=1, max_size=40), st.integers(1, 300))
def test_a_leap_over_uneven_contexts_is_the_sum_of_its_iterations(
    cost: StepCost, contexts: list[int], k: int
) -> None:
    n, total = len(contexts), 0.0
    for j in range(k):
        now = [context + j for context in contexts]
        total += cost.decode_s(n, sum(now), n * max(now) - sum(now))
    uneven = n * max(contexts) - sum(contexts)
    assert cost.decode_run_s(n, sum(contexts), k, uneven) == pytest.approx(total, rel=1e-9)


def test_a_padded_batch_is_even() -> None:
    ragged = replace(UNEVEN, ragged_decode=True)
    assert UNEVEN.batch_uneven_tokens([10, 40]) == 0
    assert ragged.batch_uneven_tokens([10, 40]) == 30
    assert replace(SMALL, ragged_decode=True).batch_uneven_tokens([10, 40]) == 0


def test_knee_is_where_doubling_stops_paying() -> None:
    # Flat to 64, then proportional: 64 sequences decode 64 / t, 128 no more per second.
    cost = StepCost(
        PiecewiseLinear((1, 64, 128), (0.01, 0.01, 0.02)), 0.0, PiecewiseLinear((1,), (0.1,)), 0.0, 0.0
    )
    assert cost.knee(0) == 64
    flat = StepCost(PiecewiseLinear((1,), (0.1,)), 0.0, PiecewiseLinear((1,), (0.1,)), 0.0, 0.0)
    assert flat.knee(0) == 1024
    # Context alone makes every doubling worthless once it outweighs the base.
    assert StepCost(flat.decode_base, 1.0, flat.mixed_base, 0.0, 0.0).knee(1000) == 1


@given(costs(), st.integers(0, 4096))
def test_knee_meets_its_definition(cost: StepCost, context: int) -> None:
    def gain(n: int) -> float:
        return 2 * cost.decode_s(n, n * context) / cost.decode_s(2 * n, 2 * n * context)

    knee = cost.knee(context)
    assert knee in [2**i for i in range(11)]
    assert all(gain(2**i) >= 1.25 for i in range(knee.bit_length() - 1))
    assert knee == 1024 or gain(knee) < 1.25


@given(costs())
def test_json_round_trip(cost: StepCost) -> None:
    assert StepCost.from_json(json.loads(json.dumps(cost.to_json()))) == cost


@given(costs(), st.floats(0.1, 10), st.integers(1, 64), st.integers(0, 5000))
def test_scaling_scales_everything(cost: StepCost, factor: float, n: int, context: int) -> None:
    scaled = cost.scaled(factor)
    assert scaled.decode_s(n, context) == pytest.approx(factor * cost.decode_s(n, context))
    assert scaled.decode_s(n, context, 7) == pytest.approx(factor * cost.decode_s(n, context, 7))
    assert scaled.mixed_s(n, context, 1, 30, 450, 7) == pytest.approx(
        factor * cost.mixed_s(n, context, 1, 30, 450, 7)
    )


def test_host_time_is_added_to_every_iteration() -> None:
    slower = SMALL.with_host(2.0)
    assert slower.decode_s(3, 50) == pytest.approx(SMALL.decode_s(3, 50) + 0.002)
    assert slower.mixed_s(1, 9, 1, 20, 200) == pytest.approx(SMALL.mixed_s(1, 9, 1, 20, 200) + 0.002)


@pytest.mark.parametrize(
    ("sizes", "seconds", "message"),
    [
        ((), (), "below 1 point"),
        ((1.0, 2.0), (1.0,), "1 values for 2 sizes"),
        ((2.0, 2.0), (1.0, 1.0), "not above the size before it, 2.0"),
        ((1.0, 2.0), (2.0, 1.0), "below the value before it, 2.0"),
        ((1.0,), (-1.0,), "-1.0 is below 0"),
        ((1.0,), (math.nan,), "nan is not finite"),
    ],
)
def test_bad_curves_are_refused(sizes: tuple[float, ...], seconds: tuple[float, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PiecewiseLinear(sizes, seconds)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("decode_per_context_s", -1e-9, "x, decode_per_context_s: -1e-09 is below 0"),
        ("mixed_per_key_s", "fast", "x, mixed_per_key_s: 'fast' is not a number"),
        ("host_ms", math.inf, "x, host_ms: inf is not finite"),
        ("decode_base", {"sizes": [1], "seconds": [0]}, r"x, decode_base, seconds\[0\]: 0.0 is not above 0"),
        ("decode_base", [1], r"x, decode_base: \[1\] is not a JSON object"),
        ("mixed_base", {"sizes": [1, 1], "seconds": [1, 1]}, r"x, mixed_base, sizes\[1\]: 1.0 is not above"),
        (
            "decode_uneven",
            {"sizes": [2], "seconds": [-1]},
            r"x, decode_uneven, seconds\[0\]: -1 is below 0",
        ),
        ("mixed_per_uneven_s", math.nan, "x, mixed_per_uneven_s: nan is not finite"),
        ("colour", 1, "x: unknown key 'colour'"),
    ],
)
def test_bad_json_names_place_key_and_value(key: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        StepCost.from_json({**SMALL.to_json(), key: value}, "x")


def test_a_missing_key_is_named() -> None:
    data = SMALL.to_json()
    del data["mixed_per_context_s"]
    with pytest.raises(InputError, match="the key 'mixed_per_context_s' is missing"):
        StepCost.from_json(data)
