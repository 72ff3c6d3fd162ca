"""The tables of one run, from which its metrics are computed: per request, per replica, per Work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .batch_record import BatchRecord
from .own_slos import Bound, bounds_of
from .session_table import SessionTable, session_table

Columns = Mapping[str, npt.NDArray[Any]]


class TokenUse(NamedTuple):
    """Decoded positions of a run by what they were good for (tokens; prompts excluded)."""

    useful: int
    padding: int
    recomputed: int
    perception: int


@dataclass(frozen=True, eq=False)
class RunTables:
    """What one run left behind.

    `requests`: per-request columns, each of shape (n,), in trace order; `replicas`: per-replica columns;
    `batches`: every Work in the order in which it ran; `token_gaps_ms`: statistics of the gaps between
    tokens, pooled over all answers; `goodput_ms`: what a good request meets, by latency; `warmup`: so many
    requests, by arrival, have no part in latencies, and rates count from the next arrival on.
    """

    requests: Columns
    replicas: Columns
    batches: Sequence[BatchRecord]
    tokens: TokenUse
    token_gaps_ms: Mapping[str, float | None]
    goodput_ms: Mapping[str, float] = field(default_factory=dict)
    warmup: int = 0

    @cached_property
    def bounds_ms(self) -> Mapping[str, Bound]:
        """What each request has to meet to be a good one: what it states itself, else `goodput_ms`."""
        return bounds_of(self.requests, self.goodput_ms)

    @cached_property
    def done(self) -> npt.NDArray[np.bool_]:
        """Which requests completed, of shape (n,)."""
        return ~np.isnan(self.requests["finish_s"])

    @cached_property
    def steady(self) -> npt.NDArray[np.bool_]:
        """Which requests completed and are no warm-up, of shape (n,)."""
        return self.done & counted(self.requests, self.warmup) if self.warmup else self.done

    @cached_property
    def sessions(self) -> SessionTable:
        """One row per session; only where `requests` says which each is of."""
        return session_table(self.requests, self.done, self.steady)

    @cached_property
    def since_s(self) -> float:
        """When the first request arrives that is no warm-up."""
        return start_of(self.requests, self.warmup)

    @cached_property
    def ended(self) -> npt.NDArray[np.bool_]:
        """Which requests completed after the warm-up, whenever they came, of shape (n,)."""
        return self.done & (self.requests["finish_s"] >= self.since_s) if self.warmup else self.done

    @cached_property
    def completed(self) -> int:
        """Requests that completed."""
        return int(self.done.sum())

    @cached_property
    def duration_s(self) -> float | None:
        """From the first arrival to the last finish; None where nothing completed or no time passed."""
        return self._until_the_last_finish_s(float(self.requests["arrival_s"].min()))

    @cached_property
    def window_s(self) -> float | None:
        """The part of `duration_s` that rates are of, which a warm-up makes shorter."""
        return self._until_the_last_finish_s(self.since_s)

    def _until_the_last_finish_s(self, start: float) -> float | None:
        if not self.completed:
            return None
        end = float(self.requests["finish_s"][self.done].max())
        return end - start if end > start else None

    def rate_of(self, *columns: str) -> float | None:
        """The sum of per-request columns over what `ended`, per second; None where no time passed."""
        total = sum(int(self.requests[column][self.ended].sum()) for column in columns)
        return total / self.window_s if self.window_s else None

    def total(self, column: str) -> int:
        """The sum of a per-request column over the completed requests."""
        return int(self.requests[column][self.done].sum())

    def replica_total(self, column: str) -> int:
        """The sum of a per-replica column of counts."""
        return int(self.replicas[column].sum())


def start_of(requests: Columns, number: int) -> float:
    """When the first request arrives that is not among the first `number`."""
    arrival_s = requests["arrival_s"]
    return float(np.partition(arrival_s, number)[number] if number else arrival_s.min())


def counted(requests: Columns, number: int) -> npt.NDArray[np.bool_]:
    """Which requests are left, of shape (n,), without the first `number` by arrival."""
    left = np.ones(len(requests["arrival_s"]), dtype=bool)
    left[np.argsort(requests["arrival_s"], kind="stable")[:number]] = False
    return left
