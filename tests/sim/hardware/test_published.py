"""One published number sets one constant, and the shipped profiles are what the command makes."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.hardware.catalogue import load
from sim.hardware.published import (
    KERNELS,
    NAME,
    ON_KERNELS,
    host_ms,
    main,
    padded_seconds,
    throughput_scale,
    vanilla_batches,
)
from sim.hardware.roofline import estimate
from traces.errors import InputError

LENGTHS = "alpaca-val-10k-length.json"
PURE = estimate("vicuna-7b", "A100-80GB", efficiency=1.0, date="2026-01-01")
BATCHES = st.lists(
    st.tuples(st.integers(1, 64), st.integers(1, 512), st.integers(1, 512)), min_size=1, max_size=20
)


def trace_of(prompts: list[int], outputs: list[int]) -> Any:
    class Columns(SimpleNamespace):
        def __len__(self) -> int:
            return len(prompts)

    return Columns(prompt_tokens=np.array(prompts), output_tokens=np.array(outputs))


def numbers(value: Any) -> list[float]:
    """All numbers of a step cost, whatever they are nested in."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [n for part in value for n in numbers(part)]
    return [math.inf if value is None else value]  # a curve that a profile does not have


def test_the_shipped_profile_is_the_roofline_and_a_scale() -> None:
    shipped = load(NAME)
    pure = estimate("vicuna-7b", "A100-80GB", efficiency=1.0, utilization=0.9)
    scaled = pure.with_scale(shipped.provenance.grid["scale"])
    assert numbers(asdict(shipped.step_cost)) == pytest.approx(numbers(asdict(scaled.step_cost)), rel=1e-13)
    assert shipped.memory == pure.memory and shipped.provenance.kind == "published"


def test_the_shipped_profile_on_kernels_is_these_and_a_constant() -> None:
    shipped, kernels = load(ON_KERNELS).step_cost, load(KERNELS).step_cost
    assert shipped == kernels.with_host(shipped.host_ms) and 15 < shipped.host_ms < 25
    assert load(ON_KERNELS).provenance.kind == "published" and load(ON_KERNELS).memory == load(NAME).memory


def test_batches_are_consecutive_and_as_long_as_their_longest() -> None:
    trace = trace_of([5, 9, 3, 4, 7], [10, 2, 30, 4, 1])
    assert vanilla_batches(trace, batch_size=2) == [(2, 9, 10), (2, 4, 30), (1, 7, 1)]


def test_padded_seconds_is_the_sum_over_iterations() -> None:
    cost = PURE.step_cost
    one_by_one = cost.mixed_s(0, 0, 2, 18, 2 * 81 / 2) + sum(cost.decode_s(2, 18 + 2 * j) for j in range(9))
    assert padded_seconds(PURE, [(2, 9, 10)]) == pytest.approx(one_by_one, rel=1e-12)


@given(BATCHES, st.floats(0.01, 1000))
def test_the_scaled_profile_has_the_published_throughput(
    batches: list[tuple[int, int, int]], published: float
) -> None:
    requests = sum(rows for rows, _, _ in batches)
    scaled = PURE.with_scale(throughput_scale(PURE, batches, requests, published))
    assert requests / padded_seconds(scaled, batches) == pytest.approx(published, rel=1e-9)
    # Only the scale moves: ratios between iterations are the roofline's.
    ratio = PURE.step_cost.decode_s(16, 9000) / PURE.step_cost.decode_s(1, 10)
    assert scaled.step_cost.decode_s(16, 9000) / scaled.step_cost.decode_s(1, 10) == pytest.approx(ratio)


@given(BATCHES, st.floats(0.01, 0.99))
def test_with_the_host_time_the_profile_has_the_published_throughput(
    batches: list[tuple[int, int, int]], share: float
) -> None:
    requests = sum(rows for rows, _, _ in batches)
    published = share * requests / padded_seconds(PURE, batches)
    slower = PURE.with_host(host_ms(PURE, batches, requests, published))
    assert requests / padded_seconds(slower, batches) == pytest.approx(published, rel=1e-9)
    # Only a constant is added: what more rows or context cost is what the kernels say.
    grown, before = (p.step_cost.decode_s(16, 9000) - p.step_cost.decode_s(1, 10) for p in (slower, PURE))
    assert grown == pytest.approx(before)


@pytest.mark.parametrize(
    ("batches", "requests", "published", "message"),
    [
        ([], 1, 1.0, "batches: 0 is below 1"),
        ([(1, 1, 1)], 0, 1.0, "num_requests: 0 is below 1"),
        ([(1, 1, 1)], 1, 0.0, "published throughput: 0.0 is not above 0"),
        ([(1, 1, 1)], 1, float("nan"), "published throughput: nan"),
        ([(1, 1, 1)], 1, 1e9, "published throughput: 1000000000.0 is above that of the kernels alone"),
    ],
)
def test_what_cannot_set_a_constant_is_refused(
    batches: list[tuple[int, int, int]], requests: int, published: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        host_ms(PURE, batches, requests, published)
    if "kernels alone" not in message:
        with pytest.raises(InputError, match=message):
            throughput_scale(PURE, batches, requests, published)


def test_bad_input_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.json"), "--out", str(tmp_path / "p.json")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    not (Path(os.environ.get("SEQSCHED_DATA", "/nowhere")) / LENGTHS).exists(),
    reason=f"SEQSCHED_DATA names no folder with {LENGTHS}",
)
@pytest.mark.parametrize(
    ("name", "option", "constant", "value"),
    [(NAME, [], "scale", 4.05), (ON_KERNELS, ["--kernels"], "host_ms", 20.2)],
)
def test_the_shipped_profiles_are_what_the_command_makes(
    name: str, option: list[str], constant: str, value: float, tmp_path: Path
) -> None:
    out = tmp_path / "p.json"
    assert main([str(Path(os.environ["SEQSCHED_DATA"]) / LENGTHS), "--out", str(out), *option]) == 0
    made, shipped = load(out), load(name)
    # Since Python 3.12 sum() of floats rounds once at the end, so the last bits depend on the version.
    assert numbers(asdict(made.step_cost)) == pytest.approx(numbers(asdict(shipped.step_cost)), rel=1e-13)
    assert made.memory == shipped.memory
    assert made.provenance.grid[constant] == pytest.approx(value, abs=0.1)
    assert made.provenance.description == shipped.provenance.description
