"""Which requests cannot or need no longer be served; functions of a request, the limits and the clock."""

from __future__ import annotations

from collections.abc import Iterable

from ..request import Request
from ..work import Drop, Limits

EXPIRED = "expired: its deadline passed while it waited"


def rejection(request: Request, limits: Limits, *, question: bool = False) -> Drop | None:
    """A Drop where the request could never be held in the KV cache, even alone.

    With `question`, room for asking its length is needed too, where that is not known yet.
    """
    need = request.prompt_tokens + request.max_new_tokens
    if question and request.predicted_tokens is None:
        need = max(need, request.prompt_tokens + limits.perception_tokens)
    if need <= limits.kv_tokens:
        return None
    if need > request.prompt_tokens + request.max_new_tokens:
        return Drop(
            (request,), f"rejected: prompt + question ({need}) exceeds the KV capacity ({limits.kv_tokens})"
        )
    return Drop(
        (request,), f"rejected: prompt + max_new_tokens ({need}) exceeds the KV capacity ({limits.kv_tokens})"
    )


def unsplit_rejection(
    request: Request, max_num_batched_tokens: int, *, never_evicts: bool = False
) -> Drop | None:
    """A Drop where one iteration cannot hold the whole prompt, nor what is recomputed after an eviction."""
    need = request.prompt_tokens + (0 if never_evicts else request.max_new_tokens)
    if need <= max_num_batched_tokens:
        return None
    what = "prompt" if never_evicts else "prompt + max_new_tokens"
    bound = f"max_num_batched_tokens ({max_num_batched_tokens})"
    return Drop((request,), f"rejected: {what} ({need}) exceeds {bound}, chunked=off")


def expiry(waiting: Iterable[Request], now: float) -> Drop | None:
    """A Drop of those whose deadline has passed while they waited."""
    late = tuple(r for r in waiting if r.deadline_s is not None and r.deadline_s < now)
    return Drop(late, EXPIRED) if late else None
