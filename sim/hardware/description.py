"""A profile as rows for people, beginning with its provenance; knows nothing of files or tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from sim.hardware.host import NO_HOST, Host
from sim.hardware.kv_memory import GIB
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.profile import Profile
from sim.hardware.step_cost import StepCost

TYPICAL_CONTEXT_TOKENS = 512
"""Context per sequence at which times are shown."""


def describe(profile: Profile) -> list[tuple[str, str]]:
    """(label, value) rows for people, the kind of provenance first."""
    cost, provenance = profile.iteration_cost, profile.provenance
    rows = [
        ("provenance", provenance.kind),
        ("name", profile.name),
        ("description", provenance.description),
        ("date", provenance.date),
    ]
    if provenance.source:
        rows.append(("source", provenance.source))
    rows.append(("engine", profile.engine))
    if profile.async_scheduling:
        rows.append(("scheduling", "asynchronous: an iteration is decided while the one before it runs"))
    rows += _model_rows(profile)
    if profile.gpu:
        gpu = profile.gpu
        several = f"{profile.num_gpus} × " if profile.num_gpus > 1 else ""
        bandwidth, peak = gpu.bandwidth_bytes_per_s / 1e12, gpu.peak_flops / 1e12
        numbers = f"{gpu.memory_bytes / GIB:.0f} GiB, {bandwidth:.2f} TB/s, {peak:.0f} TFLOP/s"
        rows.append(("GPU", f"{several}{gpu.name}, {numbers}"))
    if profile.memory:
        memory = profile.memory
        rows.append(
            (
                "KV cache",
                f"{memory.kv_bytes / GIB:.1f} GiB, {memory.capacity_tokens:,} tokens of "
                f"{memory.bytes_per_token:,} bytes ({memory.capacity_blocks():,} blocks of 16)",
            )
        )
    else:
        rows.append(("KV cache", "unknown; --kv-blocks N supplies it"))
    context = TYPICAL_CONTEXT_TOKENS
    for n in (1, 16, 64, 256):
        label = f"decode iteration, batch {n}"
        rows.append((label, f"{cost.decode_s(n, n * context) * 1e3:.2f} ms at {context} context tokens each"))
    rows.append(("prefill of 512 tokens", f"{cost.padded_prefill_s(1, 512) * 1e3:.2f} ms"))
    if cost.decode_context is not None:
        rows.append(("context", _per_context(cost.decode_context, cost)))
    if cost.decode_uneven is not None:
        rows.append(("uneven contexts", _alpha(cost.decode_uneven, cost)))
    rows.append(("knee", f"batch {cost.knee(context)}, beyond which a doubling adds under 25 % tokens/s"))
    real = {"prefill": cost.ragged_prefill, "decode": cost.ragged_decode}
    free = " and ".join(name for name, is_free in real.items() if is_free)
    rows.append(("padding of batches", f"not computed in {free}" if free else "computed"))
    if cost.host_ms or profile.host == NO_HOST:  # else the terms of the host say all
        rows.append(("host time", f"{cost.host_ms:.3f} ms an iteration"))
    rows.extend(_host_rows(profile.host))
    if profile.price_per_hour is not None:
        rows.append(("price", f"{profile.price_per_hour:g} an hour, as the user states it"))
    for group, values in (("versions", provenance.versions), ("grid", provenance.grid)):
        if values:
            rows.append((group, ", ".join(f"{key} {_plain(value)}" for key, value in values.items())))
    rows.extend(_residual_rows(provenance.residuals))
    rows.extend((f"uncertainty, {key}", _range(value)) for key, value in provenance.uncertainty.items())
    return rows


def _model_rows(profile: Profile) -> list[tuple[str, str]]:
    """The row about the model, if it is known."""
    if profile.model:
        parameters = profile.model.num_parameters / 1e9
        return [("model", f"{profile.model.name}, {parameters:.2f} billion parameters")]
    if profile.model_name:
        return [("model", f"{profile.model_name}, without a shape that what-ifs could start from")]
    return []


def _host_rows(host: Host) -> list[tuple[str, str]]:
    """The terms of the host that change anything."""
    if host == NO_HOST:
        return []
    origin = f"{host.name}, fitted on {host.fitted_on}" if host.name else "terms of your own"
    rows = [("host", origin)]
    if host.changes_iterations:
        text = f"{host.iteration_ms:+g} ms, {host.per_seq_ms:+g} ms for each sequence that decodes"
        factors = host.kernel_factor, host.kernel_factor * host.prefill_factor
        if factors != (1.0, 1.0):
            text = f"{factors[0]:g} of the kernels ({factors[1]:g} with prefill), {text}"
        rows.append(("host, an iteration", text))
    for label, constant, each in (
        ("before scheduling", host.before_ms, host.before_per_request_ms),
        ("after an iteration", host.after_ms, host.after_per_request_ms),
    ):
        if constant or each:
            rows.append((f"host, {label}", f"{constant:g} ms, {each:+g} ms for each request under way"))
    return rows


def _per_context(curve: PiecewiseLinear, cost: StepCost) -> str:
    """What a context token costs, which depends on how many sequences decode."""
    costs = [1e6 * cost.decode_context_s(max(1, int(n))) for n in curve.sizes]
    return f"a token costs a decode iteration {min(costs):.3g} to {max(costs):.3g} µs, by how many decode"


def _alpha(curve: PiecewiseLinear, cost: StepCost) -> str:
    """What uneven contexts cost, as shares of what a context token costs."""
    shares = [cost.decode_uneven_s(int(n)) / (cost.decode_context_s(int(n)) or 1.0) for n in curve.sizes]
    return (
        f"a token short of the longest context costs {min(shares):.2f} to {max(shares):.2f} of a context "
        f"token (batch {curve.sizes[0]:g} to {curve.sizes[-1]:g})"
    )


def _residual_rows(residuals: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One row per regime and kind of error; residuals of another structure as they are."""
    rows: list[tuple[str, str]] = []
    for regime, ways in residuals.items():
        if not isinstance(ways, Mapping):
            rows.append((f"residuals, {regime}", _plain(ways)))
            continue
        for way, errors in ways.items():
            text = _errors(errors) if isinstance(errors, Mapping) else _plain(errors)
            rows.append((f"error, {regime}, {way}".replace("_", " "), text))
    return rows


def _errors(errors: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {100 * value:.2f} %" if _is_fraction(value) else f"{key} {_plain(value)}"
        for key, value in errors.items()
    )


def _range(value: object) -> str:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value):
        return f"{round(100 * value[0]):+d} % to {round(100 * value[1]):+d} % of its time"
    return _plain(value)


def _is_fraction(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
