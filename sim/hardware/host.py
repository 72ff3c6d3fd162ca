"""What the host adds to the kernels, and where they overlap: terms of a profile, and named sets of them.

Knows nothing of profiles, queues or clocks. A set is a JSON file in `hosts`, fitted on the rows it names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from sim.hardware.ceilings import Ceilings
from sim.hardware.json_fields import MOST, Fields, checked_number
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.step_cost import StepCost
from traces.errors import InputError
from traces.spec import nearest

SETS = Path(__file__).parent / "hosts"
"""The folder of the named sets."""

LEAST_SHARE = 0.5
"""Where model or GPU is not known, an iteration takes at least this share of its kernels' time."""

NONE = "none"
"""The name under which a profile has no terms."""


@dataclass(frozen=True)
class Host:
    """Terms that a profile adds to its step cost and to every request. Without any it changes nothing.

    All are finite and, `iteration_ms` excepted, not negative; the two factors are above 0 (`InputError`).
    """

    kernel_factor: float = 1.0
    """Every time of the step cost is multiplied by it; below 1 where kernels overlap."""
    prefill_factor: float = 1.0
    """Times that only iterations with prefill have are multiplied by it as well; the context of sequences
    that decode beside the prefill costs what it does without.
    """
    iteration_ms: float = 0.0
    """Added to every iteration; below 0 where launches overlap. No iteration falls below its roofline."""
    per_seq_ms: float = 0.0
    """Added to every iteration for each sequence that decodes in it."""
    before_ms: float = 0.0
    """From the sending of a request until it can be scheduled: HTTP, tokenising."""
    before_per_request_ms: float = 0.0
    """The same, for each request of the replica that has not ended as it is sent, itself included."""
    after_ms: float = 0.0
    """From the end of an iteration until its tokens are with the client: detokenising, HTTP."""
    after_per_request_ms: float = 0.0
    """The same, for each request of the replica that had not ended as this one was sent."""
    name: str = ""
    """The set that these terms come from."""
    fitted_on: str = ""
    """The measured rows that the set was fitted on."""

    def __post_init__(self) -> None:
        for key in TERMS:
            least = -MOST if key == "iteration_ms" else 0.0
            checked_number(getattr(self, key), f"host, {key}", least)
        for key in ("kernel_factor", "prefill_factor"):
            if getattr(self, key) <= 0:
                raise InputError(f"host, {key}: {getattr(self, key)!r} is not above 0")

    @property
    def changes_iterations(self) -> bool:
        """Whether any term changes how long an iteration takes."""
        return any(getattr(self, key) != default for key, default in TERMS.items() if key not in DELAYS)

    @property
    def delays_requests(self) -> bool:
        """Whether any term changes when a request can be scheduled or its tokens arrive."""
        return any(getattr(self, key) for key in DELAYS)

    def cost(self, kernels: StepCost, floor: Ceilings | None) -> StepCost:
        """The step cost with the terms on it.

        A base falls neither below that of the roofline `floor`, attention left out, nor, where there is none,
        below `LEAST_SHARE` of itself. In iterations with prefill, too, `per_seq_ms` counts the sequences that
        decode.
        """
        if not self.changes_iterations:
            return kernels
        scaled = _with_prefill(
            kernels.scaled(self.kernel_factor).with_host(kernels.host_ms), self.prefill_factor
        )

        def changed(base: PiecewiseLinear, per_seq_s: float) -> PiecewiseLinear:
            # Two points at least, for one alone has no slope for the sizes beyond it.
            sizes = base.sizes if len(base.sizes) > 1 else (base.sizes[0], 2 * max(base.sizes[0], 1.0))
            seconds = []
            for size in sizes:
                least = LEAST_SHARE * base(size) if floor is None else floor.base_s(size)
                with_host = base(size) + self.iteration_ms / 1e3 + per_seq_s * size
                seconds.append(max(with_host, min(least, base(size))))
            return PiecewiseLinear(sizes, tuple(seconds), base.may_fall)

        per_seq_s = self.per_seq_ms / 1e3
        return replace(
            scaled,
            decode_base=changed(scaled.decode_base, per_seq_s),
            mixed_base=changed(scaled.mixed_base, 0.0),
            mixed_per_decode_s=scaled.mixed_per_decode_s + per_seq_s,
        )

    def scaled(self, factor: float) -> Host:
        """Every time multiplied by `factor`; that of kernels is the step cost's."""
        times = {key: factor * getattr(self, key) for key in TERMS if key.endswith("_ms")}
        return replace(self, **times)

    def to_json(self) -> dict[str, Any]:
        """A dict of the terms that are not at their defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    @classmethod
    def from_json(cls, data: Fields) -> Host:
        """The terms that `to_json` wrote; `InputError` naming place, key, value and bound otherwise."""
        numbers = {
            key: data.number(key, -MOST if key == "iteration_ms" else 0.0, default)
            for key, default in TERMS.items()
        }
        name, fitted_on = data.text("name", ""), data.text("fitted_on", "")
        data.end()
        try:
            return cls(**numbers, name=name, fitted_on=fitted_on)
        except InputError as error:
            raise InputError(f"{data.where}, {error}") from None


TERMS: dict[str, float] = {f.name: f.default for f in fields(Host) if isinstance(f.default, float)}
"""The names of the terms, and the value that changes nothing."""

DELAYS = ("before_ms", "before_per_request_ms", "after_ms", "after_per_request_ms")

NO_HOST = Host()


def _with_prefill(cost: StepCost, factor: float) -> StepCost:
    """The cost with every time that only iterations with prefill have multiplied by `factor`."""
    changes: dict[str, Any] = {}
    for field in fields(cost):
        if field.name.startswith("mixed_"):
            value = getattr(cost, field.name)
            changes[field.name] = (
                value.scaled(factor) if isinstance(value, PiecewiseLinear) else value and factor * value
            )
    return replace(cost, **changes)


def names() -> list[str]:
    """The named sets, sorted."""
    return sorted(path.stem for path in SETS.glob("*.json"))


def named(name: str, layers: int | None, weight_bits: int = 16) -> Host:
    """The terms of a set, for a model of so many layers with weights of so many bits; none for `none`.

    A set may have `per_layer_us`, microseconds that every layer adds to an iteration, and
    `per_quantised_layer_us`, what a layer with weights of fewer than 16 bits adds beside that. Raises
    `InputError` for an unknown name, and for such a set where the number of layers is not known.
    """
    if name == NONE:
        return NO_HOST
    if name not in names():
        known = (NONE, *names())
        raise InputError(f"host: {name!r} is not one of {', '.join(known)}{nearest(name, known)}")
    data = json.loads((SETS / f"{name}.json").read_text(encoding="utf-8"))
    layer_us, quantised_us = (data.pop(key, 0.0) for key in ("per_layer_us", "per_quantised_layer_us"))
    if layers is None and (layer_us or quantised_us):
        raise InputError(f"host: {name} adds time for every layer, and the profile does not say how many")
    host = Host.from_json(Fields({"name": name, **data}, f"{name}.json"))
    of_layers_ms = (layer_us + quantised_us * (weight_bits < 16)) * (layers or 0) / 1e3
    return replace(host, iteration_ms=round(host.iteration_ms + of_layers_ms, 6))
