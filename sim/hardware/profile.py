"""A calibrated machine as one JSON file: times, memory, provenance; knows nothing of how they were got."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

from sim.hardware.ceilings import Ceilings
from sim.hardware.datasheets import Gpu
from sim.hardware.host import NO_HOST, Host
from sim.hardware.json_fields import Fields, checked_number
from sim.hardware.kv_memory import KvMemory
from sim.hardware.model_shape import ModelShape
from sim.hardware.step_cost import StepCost
from traces.errors import InputError

Kind = Literal["measured", "composed from measured kernels", "published", "what-if", "roofline estimate"]
KINDS: tuple[str, ...] = get_args(Kind)
"""Where numbers come from, from best to worst. `composed from measured kernels`: sums of measured times of
single kernels. `what-if`: numbers of a better kind in which a user changed something."""


@dataclass(frozen=True)
class Provenance:
    """Where a profile's numbers come from, as its user sees it.

    versions, grid and residuals are plain JSON objects: software versions; what was varied and how far;
    errors of the fit as fractions of the measured time. changes: what was changed in the numbers, as
    `key=value`, in that order. uncertainty: quantity → [lowest, highest] as fractions of its estimate.
    """

    kind: Kind
    date: str
    description: str
    source: str = ""
    versions: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Any] = field(default_factory=dict)
    residuals: Mapping[str, Any] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    uncertainty: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind: {self.kind!r} is not one of {', '.join(KINDS)}")

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values; changes and uncertainty stand in it where there are any."""
        return {
            "kind": self.kind,
            "date": self.date,
            "description": self.description,
            "source": self.source,
            "versions": dict(self.versions),
            "grid": dict(self.grid),
            "residuals": dict(self.residuals),
            **({"changes": list(self.changes)} if self.changes else {}),
            **({"uncertainty": dict(self.uncertainty)} if self.uncertainty else {}),
        }

    @classmethod
    def from_json(cls, fields: Fields) -> Provenance:
        """The provenance that `to_json` wrote; `InputError` naming place, key and value for anything else."""
        kind = fields.text("kind")
        date, description = fields.text("date"), fields.text("description")
        source = fields.text("source", "")
        versions, grid, residuals = (fields.plain(key) for key in ("versions", "grid", "residuals"))
        changes, uncertainty = fields.texts("changes"), fields.plain("uncertainty")
        fields.end()
        try:
            return cls(
                cast(Kind, kind), date, description, source, versions, grid, residuals, changes, uncertainty
            )
        except InputError as error:
            raise InputError(f"{fields.where}, {error}") from None


@dataclass(frozen=True)
class Profile:
    """One machine as the simulator needs it: how long an iteration takes and how many tokens fit.

    Raises `InputError` where `num_gpus` is below 1, or the price is negative or not finite.
    """

    name: str
    model: ModelShape | None
    gpu: Gpu | None
    engine: str
    """What ran the iterations: `transformers-eager`, `cuda-graphs`, `vllm-0.19`, …"""
    step_cost: StepCost
    memory: KvMemory | None
    provenance: Provenance
    num_gpus: int = 1
    """GPUs that run the model together; `gpu` is one of them, times and memory are those of all."""
    price_per_hour: float | None = None
    """What all its GPUs cost an hour, in the user's currency: an assumption of the user, never shipped."""
    host: Host = NO_HOST
    """What the engine's host adds to iterations and requests, and how far its kernels overlap."""
    async_scheduling: bool = False
    """The engine decides an iteration of continuous batching while the one before it runs."""

    def __post_init__(self) -> None:
        if self.num_gpus < 1:
            raise InputError(f"num_gpus: {self.num_gpus} is below 1")
        if self.price_per_hour is not None:
            checked_number(self.price_per_hour, "price_per_hour")

    def kv_tokens(self, kv_blocks: int | None = None, block_size: int = 16) -> int:
        """Tokens of KV cache that fit: `kv_blocks` blocks of `block_size` where given, else what the memory
        holds.

        Raises `InputError` for fewer than one block, or where the profile has no memory part and nothing is
        given.
        """
        if kv_blocks is not None:
            if kv_blocks < 1:
                raise InputError(f"kv_blocks: {kv_blocks} is below 1")
            return kv_blocks * block_size
        if self.memory is None:
            raise InputError(
                f"profile {self.name}: it has no memory part (it comes from step times alone); kv_blocks "
                "supplies the number of KV blocks"
            )
        return self.memory.capacity_tokens

    @property
    def model_name(self) -> str | None:
        """What the model is called, also where its shape is none that what-ifs could start from."""
        return self.model.name if self.model else self.provenance.grid.get("model")

    @cached_property
    def iteration_cost(self) -> StepCost:
        """How long iterations take: the step cost, with the terms of the host on it."""
        if not self.host.changes_iterations:
            return self.step_cost
        floor = None
        if self.model is not None and self.gpu is not None:
            floor = Ceilings.of(self.model, self.gpu, self.num_gpus)
            bits = self.model.weight_bits or 8 * self.model.bytes_per_element
            # Tensor cores may multiply narrower numbers that much faster than the datasheet's 16 bits.
            floor = replace(floor, token_s=floor.token_s * min(1.0, bits / 16))
        return self.host.cost(self.step_cost, floor)

    def with_scale(self, scale: float) -> Profile:
        """The same machine with every time multiplied by `scale`; the provenance stays as it is."""
        return replace(self, step_cost=self.step_cost.scaled(scale), host=self.host.scaled(scale))

    def with_host(self, host_ms: float) -> Profile:
        """The same machine with `host_ms` milliseconds added to every iteration on the host."""
        return replace(self, step_cost=self.step_cost.with_host(host_ms))

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values; `from_json` reads it back to an equal profile.

        The number of GPUs stands in it where it is above 1, the price and terms of a host where there are
        any, asynchronous scheduling where it is on.
        """
        return {
            "name": self.name,
            "model": self.model.to_json() if self.model else None,
            "gpu": self.gpu.to_json() if self.gpu else None,
            "engine": self.engine,
            "step_cost": self.step_cost.to_json(),
            "memory": self.memory.to_json() if self.memory else None,
            "provenance": self.provenance.to_json(),
            **({"num_gpus": self.num_gpus} if self.num_gpus > 1 else {}),
            **({"price_per_hour": self.price_per_hour} if self.price_per_hour is not None else {}),
            **({"host": self.host.to_json()} if self.host != NO_HOST else {}),
            **({"async_scheduling": True} if self.async_scheduling else {}),
        }

    @classmethod
    def from_json(cls, data: object, where: str = "profile") -> Profile:
        """The profile that `to_json` wrote.

        Raises `InputError` naming `where` (a file), key, value and bound; unknown keys are refused.
        """
        fields = Fields(data, where)
        model, gpu, memory, host = (fields.section_or_none(key) for key in ("model", "gpu", "memory", "host"))
        profile = cls(
            name=fields.text("name"),
            model=ModelShape.from_json(model) if model else None,
            gpu=Gpu.from_json(gpu) if gpu else None,
            engine=fields.text("engine"),
            step_cost=StepCost.from_json(fields.section("step_cost")),
            memory=KvMemory.from_json(memory) if memory else None,
            provenance=Provenance.from_json(fields.section("provenance")),
            num_gpus=fields.integer_or_none("num_gpus", 1) or 1,
            price_per_hour=fields.number_or_none("price_per_hour"),
            host=Host.from_json(host) if host else NO_HOST,
            async_scheduling=fields.flag("async_scheduling"),
        )
        fields.end()
        return profile

    def save(self, path: str | Path) -> None:
        """Writes the profile as JSON, complete or not at all."""
        from traces.files import atomic_write

        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        with atomic_write(path) as file:
            file.write(text + "\n")
