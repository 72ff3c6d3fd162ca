"""Length bins that stay open while requests arrive: a batch leaves when full or when it has waited."""

from __future__ import annotations

from collections.abc import Callable

from ..request import Request
from ..work import Limits
from .binning import Batch, BatchSize, batches_by_rank, bin_edge, capped, expected_tokens


class OpenBins:
    """Requests with a predicted length, kept by bin in order of arrival.

    `size_of` is None where there are no bins (no VBS): one pool then, from which the oldest request leaves
    together with its neighbours in predicted length.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        width: int,
        size_of: BatchSize | None,
        batch_size: int,
        group_size: int,
        fcr: bool,
        margin: float,
        max_wait_s: float,
        important: Callable[[Request], bool],
    ) -> None:
        self.limits, self.width, self.size_of = limits, width, size_of
        self.batch_size, self.group_size = batch_size, group_size
        self.fcr, self.margin, self.max_wait_s, self.important = fcr, margin, max_wait_s, important
        self.bins: dict[int, list[Request]] = {}

    def add(self, request: Request) -> None:
        """Put a perceived request into its bin."""
        edge = 0 if self.size_of is None else bin_edge(expected_tokens(request, self.margin), self.width)
        self.bins.setdefault(edge, []).append(request)

    def take(self, now: float) -> Batch | None:
        """The batch that must leave now: with the most important request, overdue, or full; else None."""
        edge = self.leaving(now)
        if edge is None:
            return None
        members = self.bins.pop(edge)
        by_urgency = sorted(members, key=lambda r: (r.priority, r.arrival_s))
        if self.size_of is None:
            group = by_urgency[: self.group_size]
            ranked = batches_by_rank(self._by_length(group), self.batch_size, self.fcr, self.limits.kv_tokens)
            batch = next(b for b in ranked if group[0] in b.requests)
        else:
            rows = by_urgency[: self.size_of(edge, members)]
            batch = Batch([r for _, r in self._by_length(rows)], capped(rows, edge if self.fcr else None))
        taken = {r.id for r in batch.requests}
        left = [r for r in members if r.id not in taken]
        if left:
            self.bins[edge] = left
        return batch

    def wake_at(self) -> float | None:
        """When the oldest request will have waited long enough (seconds); None where all bins are empty."""
        oldest = [r.arrival_s for members in self.bins.values() for r in members]
        return min(oldest) + self.max_wait_s if oldest else None

    def requests(self) -> list[Request]:
        """Everything that waits here, bin by bin."""
        return [r for members in self.bins.values() for r in members]

    def drain(self) -> list[Request]:
        """Everything that waited here; nothing does any more."""
        left = self.requests()
        self.bins.clear()
        return left

    def leaving(self, now: float) -> int | None:
        """The edge of the bin from which a batch must leave now; None where all can wait."""
        urgent = [
            (r.priority, r.arrival_s, e) for e, rows in self.bins.items() for r in rows if self.important(r)
        ]
        if urgent:
            return min(urgent)[-1]
        oldest, edge = min(
            ((min(r.arrival_s for r in rows), e) for e, rows in self.bins.items()), default=(0.0, -1)
        )
        if edge >= 0 and oldest + self.max_wait_s <= now:
            return edge
        full = [
            (min(r.arrival_s for r in rows), e)
            for e, rows in self.bins.items()
            if len(rows) >= self._full_size(e, rows)
        ]
        return min(full)[-1] if full else None

    def _by_length(self, requests: list[Request]) -> list[tuple[int, Request]]:
        pairs = [(expected_tokens(r, self.margin), r) for r in requests]
        return sorted(pairs, key=lambda pair: (pair[0], pair[1].arrival_s))

    def _full_size(self, edge: int, members: list[Request]) -> int:
        return self.batch_size if self.size_of is None else self.size_of(edge, members)
