"""The architecture numbers of a LLaMA-shaped model and what follows from them; knows nothing of GPUs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sim.hardware.json_fields import Fields
from traces.errors import InputError


@dataclass(frozen=True)
class ModelShape:
    """A decoder of LLaMA's shape: grouped-query attention, a gated MLP of three matrices, RMS norms.

    Sizes are counts; every one is at least 1 and `heads` is a multiple of `kv_heads` (`InputError`).
    """

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    bytes_per_element: int = 2
    tied_embeddings: bool = False
    """The output matrix is the input embedding."""
    qkv_bias: bool = False
    """The query, key and value projections have biases (Qwen2)."""
    weight_bits: int | None = None
    """Bits of a stored weight; None: those of an element."""
    kv_bits: int | None = None
    """Bits of a number in the KV cache; None: those of an element."""

    def __post_init__(self) -> None:
        for key in _COUNTS:
            if getattr(self, key) < 1:
                raise InputError(f"model {self.name}, {key}: {getattr(self, key)!r} is below 1")
        for key in _BITS:
            bits = getattr(self, key)
            if bits is not None and not 1 <= bits <= 64:
                raise InputError(f"model {self.name}, {key}: {bits!r} is not between 1 and 64")
        if self.heads % self.kv_heads:
            raise InputError(
                f"model {self.name}, heads: {self.heads} is not a multiple of kv_heads, {self.kv_heads}"
            )

    @property
    def num_parameters(self) -> int:
        """Parameters, embeddings included."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (2 * queries + 2 * keys) + self.qkv_bias * (queries + 2 * keys)
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        embeddings = self.vocab * self.hidden * (1 if self.tied_embeddings else 2)
        return self.layers * layer + self.hidden + embeddings

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights in memory."""
        return self._bytes(self.num_parameters, self.weight_bits)

    @property
    def read_parameters(self) -> int:
        """Parameters that every iteration reads: all but the input embedding, which it only looks up."""
        return self.num_parameters - (0 if self.tied_embeddings else self.vocab * self.hidden)

    @property
    def read_bytes(self) -> int:
        """Bytes of the weights that every iteration reads."""
        return self._bytes(self.read_parameters, self.weight_bits)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of a token's keys and values over all layers."""
        return self._bytes(2 * self.layers * self.kv_heads * self.head_dim, self.kv_bits)

    @property
    def flops_per_token(self) -> int:
        """Operations of one token's matrix products, attention left out: 2 per parameter read."""
        return 2 * self.read_parameters

    @property
    def flops_per_attended_key(self) -> int:
        """Operations of one query token on one key, over all layers: 2 for the score, 2 for the value."""
        return 4 * self.layers * self.heads * self.head_dim

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values; bits that are those of an element are left out."""
        return {key: value for key, value in asdict(self).items() if key not in _BITS or value is not None}

    @classmethod
    def from_json(cls, fields: Fields) -> ModelShape:
        """The shape that `to_json` wrote; `InputError` naming place, key, value and bound otherwise."""
        name = fields.text("name")
        counts = {key: fields.integer(key, 1) for key in _COUNTS}
        tied_embeddings, qkv_bias = fields.flag("tied_embeddings"), fields.flag("qkv_bias")
        weight_bits, kv_bits = (fields.integer_or_none(key, 1) for key in _BITS)
        fields.end()
        try:
            return cls(
                name,
                **counts,
                tied_embeddings=tied_embeddings,
                qkv_bias=qkv_bias,
                weight_bits=weight_bits,
                kv_bits=kv_bits,
            )
        except InputError as error:
            raise InputError(f"{fields.where}: {error}") from None

    def _bytes(self, numbers: int, bits: int | None) -> int:
        return numbers * self.bytes_per_element if bits is None else -(-numbers * bits // 8)


_COUNTS = (
    "layers",
    "hidden",
    "intermediate",
    "heads",
    "kv_heads",
    "head_dim",
    "vocab",
    "bytes_per_element",
)
_BITS = ("weight_bits", "kv_bits")

MODELS = {
    shape.name: shape
    for shape in (
        ModelShape("vicuna-7b", 32, 4096, 11008, 32, 32, 128, 32000),
        ModelShape("llama-2-13b", 40, 5120, 13824, 40, 40, 128, 32000),
        ModelShape("llama-3.1-8b", 32, 4096, 14336, 32, 8, 128, 128256),
        ModelShape("llama-3.1-70b", 80, 8192, 28672, 64, 8, 128, 128256),
        ModelShape("qwen2.5-7b", 28, 3584, 18944, 28, 4, 128, 152064, qkv_bias=True),
    )
}
"""Shapes by name, from the models' published configurations, at two bytes per element."""


def known_model(name: str) -> ModelShape:
    """The shape called `name`; `InputError` listing the known names otherwise."""
    if name not in MODELS:
        raise InputError(f"model: {name!r} is unknown; the known models are {', '.join(MODELS)}")
    return MODELS[name]
