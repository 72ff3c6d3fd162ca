"""The engine `transformers-eager`: plain Hugging Face transformers, as in the paper.

Left padding, a DynamicCache that grows by concatenation, the stock forward pass. Padded batches only.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from transformers import DynamicCache

from .engine import check_padded, left_padded
from .model import LoadedModel


class EagerEngine:
    """Runs padded batches on the unmodified model; see `real.engines.engine.Engine`."""

    name = "transformers-eager"
    ragged_prefill = ragged_decode = False

    def __init__(self, loaded: LoadedModel, capacity_tokens: int) -> None:
        self.model, self.capacity_tokens, self.device = loaded.model, capacity_tokens, loaded.device
        self.shape, self.dtype = loaded.shape, loaded.dtype
        self.model.set_attn_implementation("sdpa")
        takes = signature(type(self.model).forward).parameters
        self.cache_argument = "cache" if "cache" in takes else "past_key_values"  # the older name
        self._prove_capacity()
        self.cache: Any = None
        self.release()

    def prefill(self, prompts: Sequence[Sequence[int]], token_limit: int) -> list[int]:
        """First token of every row."""
        check_padded(self.name, prompts, token_limit, self.capacity_tokens)
        ids, self.mask = left_padded(prompts, self.device)
        self.positions = self.mask.sum(-1, keepdim=True)
        self.cache = DynamicCache(config=self.model.config)
        return self._forward(ids, (self.mask.cumsum(-1) - 1).clamp(min=0))

    def decode(self) -> list[int]:
        """The next token of every row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=-1)
        tokens = self._forward(self.tokens[:, None], self.positions)
        self.positions = self.positions + 1
        return tokens

    def release(self) -> None:
        """Forget the batch."""
        empty = torch.empty(0, 0, dtype=torch.long, device=self.device)
        self.cache = None
        self.mask, self.positions, self.tokens = empty, empty, empty

    def prime(self, contexts: Sequence[int]) -> None:
        """Set up a batch, padded to the longest context; all rows but the first have some padding."""
        rows, context_tokens = len(contexts), max(contexts)
        shape = (rows, self.shape.kv_heads, context_tokens, self.shape.head_dim)
        self.cache = DynamicCache(config=self.model.config)
        for layer in range(self.shape.layers):
            keys, values = (torch.randn(shape, dtype=self.dtype, device=self.device) for _ in range(2))
            self.cache.update(keys, values, layer)
        padding = torch.arange(rows, device=self.device) % max(1, context_tokens // 2)
        place = torch.arange(context_tokens, device=self.device)
        self.mask = (place[None] >= padding[:, None]).long()
        self.positions = self.mask.sum(-1, keepdim=True)
        self.tokens = torch.randint(self.shape.vocab, (rows,), device=self.device)

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> list[int]:
        with torch.no_grad():
            logits = self.model(
                input_ids=ids,
                attention_mask=self.mask,
                position_ids=positions,
                use_cache=True,
                logits_to_keep=1,
                **{self.cache_argument: self.cache},
            ).logits
        self.tokens = logits[:, -1].argmax(-1)
        tokens: list[int] = self.tokens.tolist()
        return tokens

    def _prove_capacity(self) -> None:
        """Allocate the whole KV cache once, layer by layer, and free it: proof that it fits."""
        size = (self.capacity_tokens, self.shape.kv_heads, self.shape.head_dim)
        pieces = [
            torch.empty(size, dtype=self.dtype, device=self.device) for _ in range(2 * self.shape.layers)
        ]
        del pieces
