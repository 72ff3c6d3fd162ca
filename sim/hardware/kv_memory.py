"""How many tokens of KV cache an accelerator holds; knows nothing of block allocation or of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sim.hardware.json_fields import Fields
from sim.hardware.model_shape import ModelShape
from traces.errors import InputError

GIB = 2**30


def kv_bytes_per_token(model: ModelShape) -> int:
    """Bytes of a token's keys and values: 2 * layers * kv_heads * head_dim * bytes of a number."""
    return model.kv_bytes_per_token


@dataclass(frozen=True)
class KvMemory:
    """The memory that an engine divides between weights, workspace and KV cache.

    Capacity = gpu_bytes * utilization - weight_bytes - workspace_bytes, in whole tokens.
    Raises `InputError` where a size is negative, the utilization is outside (0, 1] or not one token fits.
    """

    gpu_bytes: int
    """Memory of the accelerator."""
    utilization: float
    """The share of it that the engine may take, above 0 and at most 1."""
    weight_bytes: int
    """The model's weights."""
    workspace_bytes: int
    """Everything else: activations, library workspaces, the CUDA context."""
    bytes_per_token: int
    """KV cache of one token."""

    def __post_init__(self) -> None:
        for name, minimum in (
            ("gpu_bytes", 1),
            ("weight_bytes", 0),
            ("workspace_bytes", 0),
            ("bytes_per_token", 1),
        ):
            if getattr(self, name) < minimum:
                raise InputError(f"{name}: {getattr(self, name)!r} is below {minimum}")
        if not 0 < self.utilization <= 1:
            raise InputError(f"utilization: {self.utilization!r} is not above 0 and at most 1")
        if self.capacity_tokens < 1:
            raise InputError(
                f"memory: {self.gpu_bytes / GIB:.1f} GiB at utilization {self.utilization:g} leaves no room "
                f"for KV cache beside {self.weight_bytes / GIB:.1f} GiB of weights and "
                f"{self.workspace_bytes / GIB:.1f} GiB of workspace{self._what_would_fit()}"
            )

    def _what_would_fit(self) -> str:
        """More GPUs, or smaller weights, that leave room, as the keys of `--set` that have them."""
        per_gpu = int(self.gpu_bytes * self.utilization) - self.workspace_bytes
        need = self.weight_bytes + self.bytes_per_token
        times = next((n for n in (2, 4, 8) if n * per_gpu >= need), None)
        ways = [f"{times} times as many GPUs (tensor_parallel)"] if times else []
        if per_gpu >= self.weight_bytes // 2 + self.bytes_per_token:
            ways.append("weights of half as many bits (weight_bits)")
        text = " or ".join(ways)
        return (
            f"; {text} would fit: `seqsched profile what-if PROFILE --set`, gpu and model too" if ways else ""
        )

    @property
    def kv_bytes(self) -> int:
        """Bytes left for KV cache."""
        return int(self.gpu_bytes * self.utilization) - self.weight_bytes - self.workspace_bytes

    @property
    def capacity_tokens(self) -> int:
        """Tokens whose keys and values fit."""
        return self.kv_bytes // self.bytes_per_token

    def capacity_blocks(self, block_size: int = 16) -> int:
        """Whole blocks of `block_size` tokens that fit."""
        return self.capacity_tokens // block_size

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values, sizes in bytes."""
        return {
            "gpu_bytes": self.gpu_bytes,
            "utilization": self.utilization,
            "weight_bytes": self.weight_bytes,
            "workspace_bytes": self.workspace_bytes,
            "kv_bytes_per_token": self.bytes_per_token,
        }

    @classmethod
    def from_json(cls, fields: Fields) -> KvMemory:
        """The memory that `to_json` wrote; `InputError` naming place, key, value and bound otherwise."""
        values = {
            "gpu_bytes": fields.integer("gpu_bytes", 1),
            "weight_bytes": fields.integer("weight_bytes"),
            "workspace_bytes": fields.integer("workspace_bytes"),
            "bytes_per_token": fields.integer("kv_bytes_per_token", 1),
        }
        utilization = fields.number("utilization")
        fields.end()
        try:
            return cls(utilization=utilization, **values)
        except InputError as error:
            raise InputError(f"{fields.where}, {error}") from None
