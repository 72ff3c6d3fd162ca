"""Which model runs on which GPUs, under which engine and in which number formats, as one text.

Knows nothing of times. The text is `MODEL@GPU,key=value,…`, as in `llama-3.1-8b@h200,tp=1,dtype=fp8`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sim.hardware.datasheets import gpu_key
from sim.hardware.host import NONE, named, names
from traces.errors import InputError
from traces.spec import nearest

ENGINES = ("vllm", "sglang", "trtllm")
DTYPES = ("bf16", "fp8", "fp8-block", "nvfp4")
"""Formats of the weights and of what they are multiplied with."""
KV_DTYPES = ("bf16", "fp8")
MOST_GPUS = 64


@dataclass(frozen=True)
class Deployment:
    """One replica of a model as an engine runs it.

    Raises `InputError` for an engine, a format or a number of GPUs that is not one of those known, and for
    experts that cannot be divided so.
    """

    model: str
    """A known name, the name of a model whose configuration the kernels' package has, or a `config.json`."""
    gpu: str
    engine: str = "vllm"
    """Its name, or `NAME:VERSION` for the tables of another version than the package's present one."""
    tp: int = 1
    """GPUs of the replica, among which every layer is divided."""
    ep: int = 1
    """Groups among which whole experts are divided; every expert is divided among the tp / ep GPUs of one."""
    dp_attention: int = 1
    """Groups each of which computes the attention of sequences of its own, divided among its GPUs."""
    dtype: str = ""
    """Format of the weights; empty: that of the checkpoint."""
    kv: str = "bf16"
    """Format of the KV cache."""
    host: str = ""
    """The named set of the host's terms, or `none`; empty: that of the engine, if it has one."""
    utilization: float | None = None
    """The share of memory of the engine's own rule; None: its default."""

    def __post_init__(self) -> None:
        for key, value, known in (
            ("engine", self.engine_name, ENGINES),
            ("dtype", self.dtype, ("", *DTYPES)),
            ("kv", self.kv, KV_DTYPES),
        ):
            if value not in known:
                raise InputError(
                    f"{key}: {value!r} is not one of {', '.join(filter(None, known))}{nearest(value, known)}"
                )
        if self.host not in ("", NONE, *names()):
            named(self.host, None)
        if not self.model or not self.gpu:
            raise InputError(f"profile: {self.model}@{self.gpu} is not MODEL@GPU")
        if self.tp not in range(1, MOST_GPUS + 1):
            raise InputError(f"tp: {self.tp} is not between 1 and {MOST_GPUS}")
        if self.ep < 1 or self.tp % self.ep:
            raise InputError(f"ep: {self.ep} does not divide tp, {self.tp}")
        if self.dp_attention < 1 or self.tp % self.dp_attention:
            raise InputError(f"dp_attention: {self.dp_attention} does not divide tp, {self.tp}")
        if self.utilization is not None and not 0 < self.utilization <= 1:
            raise InputError(f"utilization: {self.utilization} is not above 0 and at most 1")

    @classmethod
    def parse(cls, text: str) -> Deployment:
        """The deployment of `MODEL@GPU,key=value,…`; `InputError` naming the part that is no such thing."""
        first, *settings = [part.strip() for part in text.split(",")]
        model, _, gpu = first.rpartition("@")
        values: dict[str, Any] = {}
        for part in settings:
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or key not in _SETTINGS:
                known = ", ".join(_SETTINGS)
                raise InputError(
                    f"profile {text}: {part!r} is not KEY=VALUE with one of {known}{nearest(key, _SETTINGS)}"
                )
            if key in values:
                raise InputError(f"profile {text}: {key} is given twice")
            values[key] = _read(key, value, text)
        try:
            return cls(model.strip(), gpu_key(gpu.strip()), **values)
        except InputError as error:
            raise InputError(f"profile {text}: {error}") from None

    @property
    def engine_name(self) -> str:
        """The engine without its version."""
        return self.engine.partition(":")[0]

    @property
    def engine_version(self) -> str | None:
        """The version that is asked for; None: the present one of the tables."""
        return self.engine.partition(":")[2] or None

    @property
    def attention_tp(self) -> int:
        """GPUs among which the attention of a sequence is divided."""
        return self.tp // self.dp_attention

    @property
    def host_name(self) -> str:
        """The set of the host's terms that it runs with, or `none`."""
        return self.host or (self.engine_name if self.engine_name in names() else NONE)

    @property
    def text(self) -> str:
        """The text of it that every equal deployment has: all settings but the default ones."""
        settings = [
            f"{f.name}={getattr(self, f.name)}"
            for f in fields(self)
            if f.name in ("engine", "tp", "kv")
            or (f.name in _SETTINGS and getattr(self, f.name) != f.default)
        ]
        return ",".join([f"{self.model}@{self.gpu}", *settings])


def _read(key: str, value: str, text: str) -> str | int | float:
    kind = {"tp": int, "ep": int, "dp_attention": int, "utilization": float}.get(key, str)
    try:
        read: str | int | float = kind(value)
    except ValueError:
        raise InputError(f"profile {text}: {key}={value} is not a number") from None
    return read


_SETTINGS = tuple(f.name for f in fields(Deployment) if f.name not in ("model", "gpu"))
