"""Cutting a sorted group of requests into batches of similar predicted length: bins, variable batch sizes,
limits.

Pure functions of requests and options (arXiv 2305.13144, section 4); knows nothing of queues or clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import inf
from typing import NamedTuple

from ..kv_blocks import split_to_fit
from ..request import Request
from ..work import Limits

PUBLISHED_BATCH_SIZES = {50: 256, 100: 128, 150: 64, 200: 32}
"""The published table of variable batch sizes: bin edge in tokens -> requests; every longer bin has 16."""

SMALLEST_BATCH = 16
"""A remainder below this joins the next bin, however small that bin's batches are (published)."""

KNEE_COST = 2.0
"""An iteration with as many rows as the knee takes so much longer than one with none, in units of the latter:
by the definition of the knee, between 1.5 and 3.
"""

BatchSize = Callable[[int, Sequence[Request]], int]
"""(bin edge, the bin's requests) -> how many of them make a full batch."""


class Batch(NamedTuple):
    """Requests that run together, in order, and how many tokens each may generate there."""

    requests: list[Request]
    token_limit: int


def expected_tokens(request: Request, margin: float) -> int:
    """The response length to plan for: the prediction with its safety margin.

    `margin` from 1 up (or 0) adds that many tokens; a margin between 0 and 1 is a quantile, and the plan is
    the length that the answer stays below with that probability, though never less than the prediction
    itself.
    """
    if request.predicted_tokens is None:
        raise ValueError(f"request {request.id}: predicted_tokens is None; perception must come first")
    if 0.0 < margin < 1.0:
        upper = request.predicted_upper_tokens
        return request.predicted_tokens if upper is None else max(request.predicted_tokens, upper)
    return request.predicted_tokens + int(margin)


def rest_of(request: Request, num_tokens: int, now: float) -> Request:
    """What is left of a request after `num_tokens` more of its answer, queued again at `now`: they join the
    prompt. The rest is expected to be as long as all of the answer so far.
    """
    answered = request.answered_tokens + num_tokens
    return replace(
        request,
        arrival_s=now,
        prompt_tokens=request.prompt_tokens + num_tokens,
        max_new_tokens=request.max_new_tokens - num_tokens,
        largest_cap=None if request.largest_cap is None else request.largest_cap - num_tokens,
        predicted_tokens=answered,
        predicted_upper_tokens=None,
        answered_tokens=answered,
    )


def bin_edge(tokens: int, width: int) -> int:
    """The smallest multiple of `width` not below `tokens`, at least one width."""
    return max(1, -(-tokens // width)) * width


def table_size(batch_size: int) -> BatchSize:
    """Batch sizes from the published table; `batch_size` beyond its end."""
    return lambda edge, requests: next(
        (n for top, n in PUBLISHED_BATCH_SIZES.items() if edge <= top), batch_size
    )


def memory_size(limits: Limits, fcr: bool = True) -> BatchSize:
    """Batch sizes from the machine: as many rows as its KV cache holds at the bin's edge, but no more than
    still pay. Their own caps are no predictions, and make no batch larger.
    """

    def size(edge: int, requests: Sequence[Request]) -> int:
        prompt = max(r.prompt_tokens for r in requests)
        bound = max(r.bound_tokens for r in requests)
        limit = min(edge, bound) if fcr else bound
        return max(1, min(limits.kv_tokens // (prompt + limit), limits.knee_at(prompt + limit // 2)))

    return size


def batches_by_bin(
    ordered: Iterable[tuple[int, Request]], width: int, size_of: BatchSize, fcr: bool
) -> list[Batch]:
    """Batches of `(expected tokens, request)` pairs that come by rising expectation, ties by arrival.

    A bin's full batches leave in order; a remainder smaller than half a batch (or than 16) goes behind the
    requests of the next bin that is not empty. With `fcr` a batch stops at the edge of the bin in which it
    was formed.
    """
    bins: dict[int, list[Request]] = {}
    for tokens, request in ordered:
        bins.setdefault(bin_edge(tokens, width), []).append(request)
    batches: list[Batch] = []
    carried: list[Request] = []
    for position, (edge, own) in enumerate(bins.items(), start=1):
        members, carried = own + carried, []
        size = size_of(edge, members)
        for start in range(0, len(members), size):
            rows = members[start : start + size]
            if len(rows) < min(size, max(size // 2, SMALLEST_BATCH)) and position < len(bins):
                carried = rows
            else:
                batches.append(Batch(rows, capped(rows, edge if fcr else None)))
    return batches


def batches_of_least_time(
    ordered: Iterable[tuple[int, Request]], width: int, fcr: bool, limits: Limits
) -> list[Batch]:
    """Batches of pairs as in `batches_by_bin`, cut where the group then decodes for the least time, as far as
    predictions and the knee of the limits tell (dynamic programming over all cuts that fit the memory).

    With `fcr` a batch stops at the multiple of `width` that is not below its largest expectation.
    """
    pairs = list(ordered)
    least, begins = [0.0], [0]  # for the first n: how long they take, and where their last batch begins
    for end in range(1, len(pairs) + 1):
        edge, bound = bin_edge(pairs[end - 1][0], width), pairs[end - 1][1].bound_tokens
        prompt, knee, best, begin = -1, 1, inf, end - 1
        for start in range(end - 1, -1, -1):
            rows, request = end - start, pairs[start][1]
            if request.prompt_tokens > prompt:
                prompt = request.prompt_tokens
                knee = limits.knee_at(prompt + edge // 2)
            if rows > 1 and rows * (prompt + (edge if fcr else bound)) > limits.kv_tokens:
                break
            time = least[start] + edge * (1.0 + KNEE_COST * rows / knee)
            if time < best:
                best, begin = time, start
        least.append(best)
        begins.append(begin)
    batches, end = list[Batch](), len(pairs)
    while end:
        rows_of = [request for _, request in pairs[begins[end] : end]]
        edge = bin_edge(pairs[end - 1][0], width)
        batches.append(Batch(rows_of, capped(rows_of, edge if fcr else None)))
        end = begins[end]
    return batches[::-1]


def batches_by_rank(
    ordered: Iterable[tuple[int, Request]], batch_size: int, fcr: bool, kv_tokens: int
) -> list[Batch]:
    """Consecutive batches of `batch_size` that fit the memory; with `fcr` each stops at its largest
    expectation.
    """
    pairs = list(ordered)
    batches = []
    for start in range(0, len(pairs), batch_size):
        cut = pairs[start : start + batch_size]
        expected = {request.id: tokens for tokens, request in cut}

        def limit(rows: Sequence[Request], expected: dict[int, int] = expected) -> int:
            return capped(rows, max(1, *(expected[r.id] for r in rows)) if fcr else None)

        requests = [request for _, request in cut]
        batches += [Batch(rows, limit(rows)) for rows in split_to_fit(requests, limit(requests), kv_tokens)]
    return batches


def capped(rows: Sequence[Request], limit: int | None) -> int:
    """A batch's token limit: `limit` where there is one, never beyond the rows' own `max_new_tokens`."""
    cap = max(r.max_new_tokens for r in rows)
    return cap if limit is None else min(limit, cap)


def stopped_by_quantile(batches: Iterable[Batch]) -> list[Batch]:
    """The same batches, each stopped at the largest `predicted_upper_tokens` of its requests instead."""
    return [
        Batch(rows, capped(rows, max(1, *(r.predicted_upper_tokens or limit for r in rows))))
        for rows, limit in batches
    ]


def fitted(batches: Iterable[Batch], limits: Limits) -> list[Batch]:
    """The same batches, those that the KV cache cannot hold split into consecutive ones that it can."""
    return [
        Batch(rows, capped(rows, batch.token_limit))
        for batch in batches
        for rows in split_to_fit(batch.requests, batch.token_limit, limits.kv_tokens)
    ]
