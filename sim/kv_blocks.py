"""Counting KV memory in tokens, for schedulers; bytes and capacities live in hardware/."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .request import Request


def padded_tokens(requests: Sequence[Request], token_limit: int) -> int:
    """KV tokens that a padded batch reserves: rows x (longest prompt + token limit)."""
    return len(requests) * (max(r.prompt_tokens for r in requests) + token_limit)


def split_to_fit(requests: Iterable[Request], token_limit: int, kv_tokens: int) -> Iterator[list[Request]]:
    """Cut a batch into consecutive batches, each as large as `kv_tokens` can hold when padded.

    A single request that is too large alone comes out alone: reject those before
    (`sim.schedulers.admission`).
    """
    batch: list[Request] = []
    longest = 0
    for request in requests:
        longest = max(longest, request.prompt_tokens)
        if batch and (len(batch) + 1) * (longest + token_limit) > kv_tokens:
            yield batch
            batch, longest = [], request.prompt_tokens
        batch.append(request)
    if batch:
        yield batch
