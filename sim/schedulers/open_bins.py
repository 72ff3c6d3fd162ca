"""Length bins that stay open while requests arrive: a batch leaves when full or when it has waited."""

from __future__ import annotations

from ..request import Request
from ..work import Limits
from .binning import Batch, BatchSize, batches_by_rank, bin_edge, capped, expected_tokens
from .sequence_options import SequenceOptions


class Bin:
    """Requests of like expected length, and what decides when they leave; kept up to date as they join."""

    __slots__ = ("largest", "members", "oldest_s", "priority", "widest")

    def __init__(self, members: list[Request]) -> None:
        self.members = members
        self.oldest_s = min(r.arrival_s for r in members)
        self.priority = min(r.priority for r in members)
        self.widest = max(members, key=lambda r: r.prompt_tokens)
        self.largest = max(members, key=lambda r: r.bound_tokens)

    def add(self, request: Request) -> None:
        """One more."""
        self.members.append(request)
        self.oldest_s = min(self.oldest_s, request.arrival_s)
        self.priority = min(self.priority, request.priority)
        if request.prompt_tokens > self.widest.prompt_tokens:
            self.widest = request
        if request.bound_tokens > self.largest.bound_tokens:
            self.largest = request


class OpenBins:
    """Requests with a known expected length, by the edge of their bin.

    `size_of` is None where there are no bins (no VBS): one pool then, from which the oldest request leaves
    together with its neighbours in expected length. A request is important when its priority number is below
    `least_priority`.
    """

    def __init__(self, options: SequenceOptions, size_of: BatchSize | None, limits: Limits) -> None:
        self.options, self.size_of, self.limits = options, size_of, limits
        self.bins: dict[int, Bin] = {}

    def __len__(self) -> int:
        return sum(len(b.members) for b in self.bins.values())

    def add(self, request: Request) -> None:
        """Put a perceived request into its bin."""
        o = self.options
        edge = 0 if self.size_of is None else bin_edge(expected_tokens(request, o.margin), o.bin_width)
        if edge in self.bins:
            self.bins[edge].add(request)
        else:
            self.bins[edge] = Bin([request])

    def leaving(self, now: float, least_priority: int) -> int | None:
        """The edge of the bin from which a batch must leave now; None where all can wait.

        First the bin of the most important request, then the one that has waited too long, then the oldest
        full one.
        """
        if not self.bins:
            return None
        important = [(b.priority, b.oldest_s, e) for e, b in self.bins.items() if b.priority < least_priority]
        if important:
            return min(important)[-1]
        oldest_s, edge = min((b.oldest_s, e) for e, b in self.bins.items())
        if oldest_s + self.options.max_wait_s <= now:
            return edge
        full = [(b.oldest_s, e) for e, b in self.bins.items() if len(b.members) >= self._full_size(e, b)]
        return min(full)[-1] if full else None

    def take(self, now: float, least_priority: int) -> Batch | None:
        """The batch that must leave now, if any; rows by expected length, ties by arrival."""
        edge = self.leaving(now, least_priority)
        if edge is None:
            return None
        o, taken_from = self.options, self.bins.pop(edge)
        first = sorted(taken_from.members, key=lambda r: (r.priority, r.arrival_s))
        if self.size_of is None:
            group = first[: o.group_size]
            ranked = batches_by_rank(self._by_length(group), o.batch_size, o.fcr, self.limits.kv_tokens)
            batch = next(b for b in ranked if group[0] in b.requests)
        else:
            rows = [r for _, r in self._by_length(first[: self._full_size(edge, taken_from)])]
            batch = Batch(rows, capped(rows, edge if o.fcr else None))
        taken = {r.id for r in batch.requests}
        left = [r for r in taken_from.members if r.id not in taken]
        if left:
            self.bins[edge] = Bin(left)
        return batch

    def due(self) -> float | None:
        """When the oldest request will have waited long enough (seconds); None where all bins are empty."""
        oldest_s = min((b.oldest_s for b in self.bins.values()), default=None)
        return None if oldest_s is None else oldest_s + self.options.max_wait_s

    def any_below(self, least_priority: int) -> bool:
        """Whether anything important waits here."""
        return any(b.priority < least_priority for b in self.bins.values())

    def drain(self) -> list[Request]:
        """Everything that waited here; nothing does any more."""
        left = [r for b in self.bins.values() for r in b.members]
        self.bins.clear()
        return left

    def _full_size(self, edge: int, of: Bin) -> int:
        if self.size_of is None:
            return self.options.batch_size
        return self.size_of(edge, (of.widest, of.largest))

    def _by_length(self, requests: list[Request]) -> list[tuple[int, Request]]:
        pairs = [(expected_tokens(r, self.options.margin), r) for r in requests]
        return sorted(pairs, key=lambda pair: (pair[0], pair[1].arrival_s))
