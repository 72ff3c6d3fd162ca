"""Attention over a flat KV arena, registered with transformers under the name `seqsched-arena`.

Sequences are packed without padding; each reads only the keys it has. Knows nothing of batches or slots.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from transformers import AttentionInterface

NAME = "seqsched-arena"

KERNEL_TYPES = (torch.float16, torch.bfloat16)
"""Types that the ragged CUDA kernel takes; others are computed as on the processor, synchronising with the
host.
"""


def has_kernel(values: torch.Tensor) -> bool:
    """Whether one kernel, without synchronising, reads each row's real keys among values of this type."""
    return values.is_cuda and values.dtype in KERNEL_TYPES


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    arena_keys: torch.Tensor,
    arena_values: torch.Tensor,
    write_at: torch.Tensor,
    query_starts: torch.Tensor,
    key_starts: torch.Tensor,
    key_counts: torch.Tensor,
    max_queries: int,
    max_keys: int,
    scale: float,
) -> torch.Tensor:
    """Write the packed keys and values, then attend, causal from the bottom right.

    query, key, value: shape (T, heads, head_dim). arena_*: (tokens, kv_heads, head_dim). Sequence i has the
    query rows query_starts[i] : query_starts[i + 1]; its keys are key_counts[i] arena rows from
    key_starts[i] on (key_starts has one entry more, unused).
    """
    arena_keys.index_copy_(0, write_at, key)
    arena_values.index_copy_(0, write_at, value)
    if has_kernel(query):
        # The kernel takes key_starts where it expects cumulative lengths; seqused_k says how many are real.
        out: torch.Tensor = torch.ops.aten._flash_attention_forward(
            query,
            arena_keys,
            arena_values,
            query_starts,
            key_starts,
            max_queries,
            max_keys,
            0.0,
            True,
            False,
            scale=scale,
            seqused_k=key_counts,
        )[0]
        return out.contiguous()
    if max_queries == 1:
        return _decode_by_gathering(query, arena_keys, arena_values, key_starts, key_counts, scale)
    return _prefill_one_by_one(query, arena_keys, arena_values, query_starts, key_starts, key_counts, scale)


def _decode_by_gathering(
    query: torch.Tensor,
    arena_keys: torch.Tensor,
    arena_values: torch.Tensor,
    key_starts: torch.Tensor,
    key_counts: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    place = torch.arange(int(key_counts.max()), device=query.device)
    rows = (key_starts[:-1, None] + place).clamp_(max=arena_keys.shape[0] - 1)
    mask = (place < key_counts[:, None])[:, None, None]
    out = functional.scaled_dot_product_attention(
        query[:, :, None],
        arena_keys[rows].transpose(1, 2),
        arena_values[rows].transpose(1, 2),
        attn_mask=mask,
        scale=scale,
        enable_gqa=True,
    )
    return out[:, :, 0].contiguous()


def _prefill_one_by_one(
    query: torch.Tensor,
    arena_keys: torch.Tensor,
    arena_values: torch.Tensor,
    query_starts: torch.Tensor,
    key_starts: torch.Tensor,
    key_counts: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    out = query.new_zeros(query.shape)
    bounds, starts, counts = query_starts.tolist(), key_starts.tolist(), key_counts.tolist()
    for first, end, start, count in zip(bounds, bounds[1:], starts, counts, strict=False):
        if end == first:
            continue
        mask = torch.ones(end - first, count, dtype=torch.bool, device=query.device)
        mask = mask.tril(count - (end - first))
        keys, values = (
            arena[start : start + count].transpose(0, 1)[None] for arena in (arena_keys, arena_values)
        )
        rows = query[first:end].transpose(0, 1)[None]
        attended = functional.scaled_dot_product_attention(
            rows, keys, values, attn_mask=mask, scale=scale, enable_gqa=True
        )
        out[first:end] = attended[0].transpose(0, 1)
    return out


def _like_query(query: torch.Tensor, *others: Any) -> torch.Tensor:
    return query.new_empty(query.shape)


# An operator of its own, so that torch.compile sees neither a break nor a copy of the arena.
arena_operator = torch.library.custom_op(
    "seqsched::arena_attention", _attend, mutates_args=("arena_keys", "arena_values")
)
arena_operator.register_fake(_like_query)


def arena_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any = None,
    scaling: float | None = None,
    *,
    write_at: torch.Tensor,
    query_starts: torch.Tensor,
    key_starts: torch.Tensor,
    key_counts: torch.Tensor,
    max_queries: int,
    max_keys: int,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it in every layer; query, key, value: (1, heads, T, head_dim)."""
    query, key, value = (t[0].transpose(0, 1) for t in (query, key, value))
    out = arena_operator(
        query,
        key,
        value,
        module.arena_keys,
        module.arena_values,
        write_at,
        query_starts,
        key_starts,
        key_counts,
        max_queries,
        max_keys,
        module.head_dim**-0.5 if scaling is None else scaling,
    )
    return out[None], None


def register() -> None:
    """Register `NAME` as an attention implementation, without a mask function: the model builds no mask."""
    AttentionInterface.register(NAME, arena_attention)
