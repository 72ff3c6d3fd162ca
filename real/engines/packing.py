"""Arranges the parts of an iteration as flat columns for one packed forward pass; computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from .engine import Part


class Columns(NamedTuple):
    """The inputs of a pass over T tokens of n sequences, as integer tensors."""

    ids: torch.Tensor
    """Token ids, shape (T,)."""
    positions: torch.Tensor
    """Their positions in their sequences, shape (T,)."""
    write_at: torch.Tensor
    """The arena rows of their keys and values, shape (T,)."""
    query_starts: torch.Tensor
    """Where each sequence's tokens begin, shape (n + 1,)."""
    key_starts: torch.Tensor
    """Where each sequence's keys begin in the arena, shape (n + 1,)."""
    key_counts: torch.Tensor
    """How many keys each has, shape (n,)."""
    last: torch.Tensor
    """The tokens whose successors are returned, shape (n,)."""
    slots: torch.Tensor
    """The slots of their sequences, shape (n,)."""
    lengths: torch.Tensor
    """Tokens in the cache after the pass, shape (n,)."""
    regions: torch.Tensor
    """Where their regions begin, shape (n,)."""


class PackedColumns(NamedTuple):
    """All columns in one tensor, so that one copy takes them to the device."""

    flat: torch.Tensor
    sizes: list[int]
    num_yields: int

    @property
    def num_tokens(self) -> int:
        """T, padding included."""
        return self.sizes[0]

    @property
    def num_parts(self) -> int:
        """n, padding included."""
        return self.sizes[5]

    def split(self, flat: torch.Tensor) -> Columns:
        """The columns of a tensor with the layout of `flat`."""
        return Columns(*torch.split(flat, self.sizes))


def pack(
    parts: Sequence[Part],
    *,
    starts: Sequence[int],
    lengths: Sequence[int],
    slots: Sequence[int],
    padded_tokens: int,
    padded_parts: int,
    scratch_slot: int,
    scratch_row: int,
) -> PackedColumns:
    """The columns of these parts, given where their sequences begin, how long they are and their slots.

    Padding tokens belong to no sequence and are written to `scratch_row`; padding yields go to
    `scratch_slot`.
    """
    ids, positions, write_at, bounds, counts, yields = [], [], [], [0], [], []
    for part, start, done, slot in zip(parts, starts, lengths, slots, strict=True):
        n = len(part.tokens)
        ids.append(np.asarray(part.tokens, dtype=np.int64))
        positions.append(np.arange(done, done + n))
        write_at.append(np.arange(start + done, start + done + n))
        bounds.append(bounds[-1] + n)
        counts.append(done + n)
        if part.yields:
            yields.append((bounds[-1] - 1, slot, done + n, start))
    columns = [
        _padded(np.concatenate(ids), padded_tokens, 0),
        _padded(np.concatenate(positions), padded_tokens, 0),
        _padded(np.concatenate(write_at), padded_tokens, scratch_row),
        _padded(bounds, padded_parts + 1, bounds[-1]),
        _padded(starts, padded_parts + 1, scratch_row),
        _padded(counts, padded_parts, 0),
    ]
    for k, filler in enumerate((0, scratch_slot, 0, scratch_row)):
        columns.append(_padded([entry[k] for entry in yields], padded_parts, filler))
    return PackedColumns(torch.from_numpy(np.concatenate(columns)), [len(c) for c in columns], len(yields))


def _padded(values: Any, size: int, filler: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    row = np.full(size, filler, dtype=np.int64)
    row[: len(values)] = values
    return row
