"""The tables of one run, from which its metrics are computed: per request, per replica, per Work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .batch_record import BatchRecord

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
    requests, by arrival, have no part in latencies.
    """

    requests: Columns
    replicas: Columns
    batches: Sequence[BatchRecord]
    tokens: TokenUse
    token_gaps_ms: Mapping[str, float | None]
    goodput_ms: Mapping[str, float] = field(default_factory=dict)
    warmup: int = 0

    @cached_property
    def done(self) -> npt.NDArray[np.bool_]:
        """Which requests completed, of shape (n,)."""
        return ~np.isnan(self.requests["finish_s"])

    @cached_property
    def steady(self) -> npt.NDArray[np.bool_]:
        """Which requests completed and are no warm-up, of shape (n,)."""
        return self.done & counted(self.requests, self.warmup) if self.warmup else self.done

    @cached_property
    def completed(self) -> int:
        """Requests that completed."""
        return int(self.done.sum())

    @cached_property
    def duration_s(self) -> float | None:
        """From the first arrival to the last finish; None where nothing completed or no time passed."""
        if not self.completed:
            return None
        start = float(self.requests["arrival_s"].min())
        end = float(self.requests["finish_s"][self.done].max())
        return end - start if end > start else None

    def total(self, column: str) -> int:
        """The sum of a per-request column over the completed requests."""
        return int(self.requests[column][self.done].sum())

    def replica_total(self, column: str) -> int:
        """The sum of a per-replica column of counts."""
        return int(self.replicas[column].sum())


def counted(requests: Columns, number: int) -> npt.NDArray[np.bool_]:
    """Which requests are left, of shape (n,), without the first `number` by arrival."""
    left = np.ones(len(requests["arrival_s"]), dtype=bool)
    left[np.argsort(requests["arrival_s"], kind="stable")[:number]] = False
    return left
