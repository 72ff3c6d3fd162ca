"""The protocol between executor and engine, and the errors an engine raises; runs nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from sim.work import SchedulingError

ENGINES = ("transformers-eager", "cuda-graphs")
"""Those that run what they are told; `vllm` schedules by itself (`scheduling`)."""


class KvOvercommitted(SchedulingError):
    """The work needs more KV cache than the engine was built with."""


class OutOfDeviceMemory(RuntimeError):
    """The device ran out of memory although the KV cache had room; names the work."""


class Part(NamedTuple):
    """One sequence's share of an iteration: `tokens` computed behind what it has in the cache.

    `key` names the sequence (a request id). Where `yields` is true, the token after the last is returned.
    """

    key: int
    tokens: Sequence[int]
    yields: bool


class Row(NamedTuple):
    """Whose answer a row of a padded batch continues, and how many of its tokens stand in the row already."""

    request: int
    answered: int


class Machine(Protocol):
    """What a measurement must know of any engine."""

    name: str
    capacity_tokens: int
    """Tokens whose keys and values the cache holds."""
    device: torch.device
    ragged_prefill: bool
    """A padded batch computes each row's real prompt only."""
    ragged_decode: bool
    """Decoding reads each row's real context only."""


class Engine(Machine, Protocol):
    """Runs token sequences on a model; knows nothing of requests, lengths or schedulers.

    A padded batch: `prefill`, then `decode` once per further token, then `release`. All calls return when the
    tokens are on the host.
    """

    def prefill(self, prompts: Sequence[Sequence[int]], token_limit: int) -> list[int]:
        """First token of every row; reserves rows x (longest prompt + token_limit) tokens of KV cache."""

    def decode(self) -> list[int]:
        """The next token of every row of the batch."""

    def release(self) -> None:
        """Forget the batch and free its memory."""

    def prime(self, contexts: Sequence[int]) -> None:
        """Set up a batch whose rows have so many tokens of random cache each (for calibration)."""


class StepwiseEngine(Engine, Protocol):
    """An engine that can also mix prefill chunks and decoding sequences: continuous batching."""

    def admit(self, key: int, tokens: int) -> None:
        """Reserve room for a sequence of at most `tokens`, prompt included; KvOvercommitted without room."""

    def iterate(self, parts: Sequence[Part]) -> list[int]:
        """One iteration over these sequences; the tokens of the parts that yield, in order."""

    def decode_all(self, keys: Sequence[int]) -> list[int]:
        """One decode iteration of these sequences, from the tokens they yielded last."""

    def evict(self, key: int) -> None:
        """Forget a sequence and free its memory."""


def check_padded(name: str, prompts: Sequence[Sequence[int]], token_limit: int, capacity_tokens: int) -> None:
    """KvOvercommitted for a padded batch that needs more than the capacity."""
    if not prompts or token_limit < 1:
        raise SchedulingError(
            f"{name}: a batch of {len(prompts)} rows with token_limit {token_limit} runs nothing"
        )
    need = len(prompts) * (max(map(len, prompts)) + token_limit)
    if need > capacity_tokens:
        raise KvOvercommitted(
            f"{name}: a padded batch of {len(prompts)} rows reserves {need} KV tokens, "
            f"the capacity is {capacity_tokens}"
        )


def left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, zeros before those of shorter prompts, and a mask with ones at tokens: (rows, longest)."""
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.as_tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids.to(device), mask.to(device)
