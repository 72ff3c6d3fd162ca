"""A calibrated machine as one JSON file: times, memory, provenance; knows nothing of how they were got."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from sim.hardware.gpu import Gpu
from sim.hardware.json_fields import Fields
from sim.hardware.kv_memory import GIB, KvMemory
from sim.hardware.model_shape import ModelShape
from sim.hardware.step_cost import StepCost
from traces.errors import InputError

SHIPPED = Path(__file__).parent / "profiles"
"""The folder of the profiles that come with the package."""

TYPICAL_CONTEXT_TOKENS = 512
"""Context per sequence at which `describe` shows times."""

Kind = Literal["measured", "published", "roofline estimate"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Provenance:
    """Where a profile's numbers come from, as its user sees it.

    versions, grid and residuals are plain JSON objects: software versions; what was varied and how far;
    errors of the fit as fractions of the measured time.
    """

    kind: Kind
    date: str
    description: str
    source: str = ""
    versions: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Any] = field(default_factory=dict)
    residuals: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"kind: {self.kind!r} is not one of {', '.join(KINDS)}")

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values."""
        return {
            "kind": self.kind,
            "date": self.date,
            "description": self.description,
            "source": self.source,
            "versions": dict(self.versions),
            "grid": dict(self.grid),
            "residuals": dict(self.residuals),
        }

    @classmethod
    def from_json(cls, taken: Fields) -> Provenance:
        """The provenance that `to_json` wrote; `InputError` naming place, key and value for anything else."""
        kind = taken.text("kind")
        date, description = taken.text("date"), taken.text("description")
        source = taken.text("source", "")
        versions, grid, residuals = (taken.plain(key) for key in ("versions", "grid", "residuals"))
        taken.end()
        try:
            return cls(cast(Kind, kind), date, description, source, versions, grid, residuals)
        except InputError as error:
            raise InputError(f"{taken.where}, {error}") from None


@dataclass(frozen=True)
class Profile:
    """One machine as the simulator needs it: how long an iteration takes and how many tokens fit."""

    name: str
    model: ModelShape | None
    gpu: Gpu | None
    engine: str
    """What ran the iterations: `transformers-eager`, `cuda-graphs`, `vllm-0.19`, …"""
    step_cost: StepCost
    memory: KvMemory | None
    provenance: Provenance

    def kv_tokens(self, kv_blocks: int | None = None, block_size: int = 16) -> int:
        """Tokens of KV cache that fit: `kv_blocks` blocks of `block_size` where given, else what the memory
        holds.

        Raises `InputError` for fewer than one block, or where the profile has no memory part and nothing is
        given.
        """
        if kv_blocks is not None:
            if kv_blocks < 1:
                raise InputError(f"--kv-blocks: {kv_blocks} is below 1")
            return kv_blocks * block_size
        if self.memory is None:
            raise InputError(
                f"profile {self.name}: it has no memory part (it comes from step times alone); --kv-blocks N "
                "supplies the number of KV blocks"
            )
        return self.memory.capacity_tokens

    def with_scale(self, scale: float) -> Profile:
        """The same machine with every time multiplied by `scale`; the provenance stays as it is."""
        return replace(self, step_cost=self.step_cost.scaled(scale))

    def with_host(self, host_ms: float) -> Profile:
        """The same machine with `host_ms` milliseconds added to every iteration on the host."""
        return replace(self, step_cost=self.step_cost.with_host(host_ms))

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values; `from_json` reads it back to an equal profile."""
        return {
            "name": self.name,
            "model": self.model.to_json() if self.model else None,
            "gpu": self.gpu.to_json() if self.gpu else None,
            "engine": self.engine,
            "step_cost": self.step_cost.to_json(),
            "memory": self.memory.to_json() if self.memory else None,
            "provenance": self.provenance.to_json(),
        }

    @classmethod
    def from_json(cls, data: object, where: str = "profile") -> Profile:
        """The profile that `to_json` wrote.

        Raises `InputError` naming `where` (a file), key, value and bound; unknown keys are refused.
        """
        taken = Fields(data, where)
        model, gpu, memory = (taken.section_or_none(key) for key in ("model", "gpu", "memory"))
        profile = cls(
            name=taken.text("name"),
            model=ModelShape.from_json(model) if model else None,
            gpu=Gpu.from_json(gpu) if gpu else None,
            engine=taken.text("engine"),
            step_cost=StepCost.from_json(taken.section("step_cost")),
            memory=KvMemory.from_json(memory) if memory else None,
            provenance=Provenance.from_json(taken.section("provenance")),
        )
        taken.end()
        return profile

    def save(self, path: str | Path) -> None:
        """Writes the profile as JSON, complete or not at all."""
        from traces.files import atomic_write

        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        with atomic_write(path) as file:
            file.write(text + "\n")


def names() -> list[str]:
    """The shipped profiles, sorted."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


def load(name_or_path: str | Path) -> Profile:
    """The shipped profile of that name, or the profile in that JSON file.

    Raises `InputError` with one line: the shipped names where nothing has that name, or the file, key, value
    and bound where the file is no profile.
    """
    shipped = names()
    if str(name_or_path) in shipped:
        path = SHIPPED / f"{name_or_path}.json"
        shown = path.name
    else:
        path = Path(name_or_path)
        shown = str(name_or_path)
        if not _exists(path):
            raise InputError(
                f"profile: {shown!r} is neither a file nor a shipped profile ({', '.join(shipped)})"
            )
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except IsADirectoryError:
        raise InputError(f"{shown}: it is a directory, not a JSON file") from None
    except OSError as error:
        raise InputError(f"{shown}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{shown}: byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{shown}, line {error.lineno}: not JSON ({error.msg})") from None
    except InputError as error:
        raise InputError(f"{shown}: {error}") from None
    except (RecursionError, ValueError):
        raise InputError(f"{shown}: not JSON that a profile could be in") from None
    return Profile.from_json(data, shown)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # A name too long for a file is no file.
        return False


def _refuse_constant(constant: str) -> None:
    raise InputError(f"{constant} is not a finite number")


def describe(profile: Profile) -> list[tuple[str, str]]:
    """(label, value) rows for people, the kind of provenance first."""
    cost, provenance = profile.step_cost, profile.provenance
    rows = [
        ("provenance", provenance.kind),
        ("name", profile.name),
        ("description", provenance.description),
        ("date", provenance.date),
    ]
    if provenance.source:
        rows.append(("source", provenance.source))
    rows.append(("engine", profile.engine))
    if profile.model:
        parameters = profile.model.num_parameters / 1e9
        rows.append(("model", f"{profile.model.name}, {parameters:.2f} billion parameters"))
    if profile.gpu:
        gpu = profile.gpu
        rows.append(
            (
                "GPU",
                f"{gpu.name}, {gpu.memory_bytes / GIB:.0f} GiB, {gpu.bandwidth_bytes_per_s / 1e12:.2f} TB/s, "
                f"{gpu.peak_flops / 1e12:.0f} TFLOP/s",
            )
        )
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
    rows.append(("knee", f"batch {cost.knee(context)}, beyond which a doubling adds under 25 % tokens/s"))
    real = {"prefill": cost.ragged_prefill, "decode": cost.ragged_decode}
    free = " and ".join(name for name, is_free in real.items() if is_free)
    rows.append(("padding of batches", f"not computed in {free}" if free else "computed"))
    rows.append(("host time", f"{cost.host_ms:.3f} ms an iteration"))
    for group, values in (("versions", provenance.versions), ("grid", provenance.grid)):
        if values:
            rows.append((group, ", ".join(f"{key} {_plain(value)}" for key, value in values.items())))
    rows.extend(_residual_rows(provenance.residuals))
    return rows


def _residual_rows(residuals: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One row per regime and way of judging; anything of another shape as it stands."""
    rows: list[tuple[str, str]] = []
    for regime, ways in residuals.items():
        if not isinstance(ways, Mapping):
            rows.append((f"residuals, {regime}", _plain(ways)))
            continue
        for way, errors in ways.items():
            shown = _errors(errors) if isinstance(errors, Mapping) else _plain(errors)
            rows.append((f"error, {regime}, {way}".replace("_", " "), shown))
    return rows


def _errors(errors: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {100 * value:.2f} %" if _is_fraction(value) else f"{key} {_plain(value)}"
        for key, value in errors.items()
    )


def _is_fraction(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
