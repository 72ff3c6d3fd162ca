"""Is attention over the arena right? Beside plain attention in float32, and beside the stock forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as functional

from ..engines.attention import arena_operator
from ..engines.model import LoadedModel
from ..execution.run import make_engine
from ..lengths.prompts import random_prompts

ARENA_TOKENS = 4096
TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Largest absolute error that the rounding of a type explains, for values of a standard normal."""
CAPACITY_TOKENS = 4096
PROMPT_TOKENS = (3, 70, 17, 128, 33, 1)
ANSWER_TOKENS = 12


class Work(NamedTuple):
    """Of each sequence: where its keys begin in the arena, how many it has, how many are also queries."""

    starts: Sequence[int]
    keys: Sequence[int]
    queries: Sequence[int]


CASES = {
    "decode": Work((3000, 17, 900, 2048), (700, 5, 129, 1), (1, 1, 1, 1)),
    "prefill": Work((0, 1000, 2000), (64, 257, 1), (64, 257, 1)),
    "chunk behind a history": Work((5, 1500), (300, 90), (40, 90)),
    "both": Work((3100, 0, 600), (500, 333, 80), (1, 33, 1)),
}


def attention_errors(loaded: LoadedModel, seed: int = 0) -> dict[str, float]:
    """The largest absolute error of the arena's attention by case, against attention in float32."""
    return {name: _error(work, loaded, seed) for name, work in CASES.items()}


def _error(work: Work, loaded: LoadedModel, seed: int) -> float:
    shape, device = loaded.shape, loaded.device
    rng = torch.Generator("cpu").manual_seed(seed)

    def drawn(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=rng).to(device, loaded.dtype)

    def integers(values: Sequence[int], dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.tensor(list(values), dtype=dtype, device=device)

    arena_keys, arena_values = (drawn(ARENA_TOKENS, shape.kv_heads, shape.head_dim) for _ in range(2))
    total = sum(work.queries)
    query = drawn(total, shape.heads, shape.head_dim)
    key, value = (drawn(total, shape.kv_heads, shape.head_dim) for _ in range(2))
    write_at = [
        start + keys - queries + n for start, keys, queries in zip(*work, strict=True) for n in range(queries)
    ]
    bounds = np.concatenate([[0], np.cumsum(work.queries)]).tolist()
    out = arena_operator(
        query,
        key,
        value,
        arena_keys,
        arena_values,
        integers(write_at, torch.long),
        integers(bounds),
        integers([*work.starts, 0]),
        integers(work.keys),
        max(work.queries),
        max(work.keys),
        shape.head_dim**-0.5,
    )
    worst = 0.0
    for (first, end), start, keys in zip(pairwise(bounds), work.starts, work.keys, strict=True):
        if not torch.equal(arena_keys[start + keys - (end - first) : start + keys], key[first:end]):
            return float("inf")  # what was to be written stands elsewhere
        expected = _attended(
            query[first:end], arena_keys[start : start + keys], arena_values[start : start + keys]
        )
        worst = max(worst, float((out[first:end].float() - expected).abs().max()))
    return worst


def _attended(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Causal attention in float32, from the bottom right; shapes (tokens, heads, head_dim)."""
    mask = torch.ones(len(query), len(keys), dtype=torch.bool, device=query.device)
    q, k, v = (t.float().transpose(0, 1)[None] for t in (query, keys, values))
    return functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask.tril(len(keys) - len(query)), enable_gqa=True
    )[0].transpose(0, 1)


def equal_answers(loaded: LoadedModel, release: Any, seed: int = 0) -> dict[str, float]:
    """Shares of first tokens, and of all up to a first difference, that both engines give alike.

    In float32 all; in a narrower type a near tie may fall to the other side. `release()` frees an engine.
    """
    rng = np.random.default_rng(seed)
    prompts = random_prompts(PROMPT_TOKENS, loaded.ordinary_tokens, rng)
    answers = []
    for name in ("transformers-eager", "cuda-graphs"):
        engine = make_engine(name, loaded, CAPACITY_TOKENS)
        rows = [engine.prefill(prompts, ANSWER_TOKENS + 1)]
        rows += [engine.decode() for _ in range(ANSWER_TOKENS - 1)]
        engine.release()
        del engine
        release()
        answers.append(np.array(rows))
    same = answers[0] == answers[1]
    return {"first tokens": float(same[0].mean()), "tokens": float(np.cumprod(same, axis=0).mean())}
