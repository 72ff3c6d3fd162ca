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
        fcr: bool,
        margin: float,
        max_wait_s: float,
        important: Callable[[Request], bool],
    ) -> None:
        self.limits, self.width, self.size_of, self.batch_size = limits, width, size_of, batch_size
        self.fcr, self.margin, self.max_wait_s, self.important = fcr, margin, max_wait_s, important
        self.bins: dict[int, list[Request]] = {}

    def add(self, request: Request) -> None:
        """Put a perceived request into its bin."""
        edge = 0 if self.size_of is None else bin_edge(expected_tokens(request, self.margin), self.width)
        self.bins.setdefault(edge, []).append(request)

    def take(self, now: float) -> Batch | None:
        """The batch that must leave now: with the most important request, overdue, or full; else None."""
        edge = self._leaving(now)
        if edge is None:
            return None
        members = self.bins.pop(edge)
        size = self._full_size(edge, members)
        by_urgency = sorted(members, key=lambda r: (r.priority if self.important(r) else 0, r.arrival_s))
        if self.size_of is None:
            ordered = sorted(
                ((expected_tokens(r, self.margin), r) for r in members),
                key=lambda pair: (pair[0], pair[1].arrival_s),
            )
            batch = next(b for b in batches_by_rank(ordered, size, self.fcr) if by_urgency[0] in b.requests)
        else:
            rows = by_urgency[:size]
            batch = Batch(rows, capped(rows, edge if self.fcr else None))
        left = [r for r in members if r not in batch.requests]
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

    def _leaving(self, now: float) -> int | None:
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

    def _full_size(self, edge: int, members: list[Request]) -> int:
        return self.batch_size if self.size_of is None else self.size_of(edge, members)
