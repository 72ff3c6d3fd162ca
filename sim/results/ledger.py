"""What executors write down while they run, simulated or real; knows nothing of what is made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .token_gaps import GapPool


class BatchRecord(NamedTuple):
    """One Work as it was carried out: what was decided, and when it ran.

    `limit` is its token limit (a Perceive: the tokens of an answer), `prompt_tokens` the padded prompt. The
    decode iteration j = 0, 1, ... after the prefill took `first_step_s + j * step_slope_s`. `replica` is the
    accelerator that ran it, `num_waiting` the requests that waited there meanwhile.
    """

    kind: str
    request_ids: tuple[int, ...]
    limit: int
    iterations: int
    start_s: float
    prefill_end_s: float
    end_s: float
    prompt_tokens: int = 0
    first_step_s: float = 0.0
    step_slope_s: float = 0.0
    kv_tokens: int = 0
    chunks: tuple[tuple[int, bool], ...] = ()
    evicted: tuple[int, ...] = ()
    replica: int = 0
    num_waiting: int = 0

    def decision(self) -> dict[str, Any]:
        """The entry of the decision log: what was decided, and how many iterations it ran."""
        entry: dict[str, Any] = {"kind": self.kind, "requests": list(self.request_ids), "limit": self.limit}
        if self.kind == "Iterations":
            entry |= {"chunks": [list(chunk) for chunk in self.chunks], "evicted": list(self.evicted)}
        return {**entry, "iterations": self.iterations}


@dataclass
class ReplicaUse:
    """What one accelerator did: sums over its iterations of continuous batching, its memory, its outages.

    Padded batches are not in `iterations` and `busy_s`: their records are (`Ledger.batches`).
    """

    profile: str = ""
    kv_capacity_tokens: int = 0
    iterations: int = 0
    busy_s: float = 0.0
    kv_peak_tokens: int = 0
    preemptions: int = 0
    failures: int = 0
    down_s: float = 0.0


def column(values: npt.NDArray[Any]) -> memoryview[Any]:
    """An array's buffer: it takes single numbers sooner than the array does, or an `array.array`."""
    return values.data


class Ledger:
    """What executors write down while they run: entries by request id, by Work, and by replica.

    Continuous batching is only summed up (`gaps` between tokens, `replicas`); its Works are recorded one by
    one where `log` is set, all of them or those that overlap the seconds in `window`. A request that finished
    outside of padded batches has no `row_length` here: it is its answer's.
    """

    def __init__(
        self,
        num_requests: int,
        arrival_s: npt.ArrayLike,
        *,
        log: bool = False,
        window: tuple[float, float] = (-math.inf, math.inf),
        replicas: Sequence[ReplicaUse] = (),
    ) -> None:
        n = num_requests
        self.num_requests, self.log, self.window = n, log, window
        self.replicas = list(replicas) or [ReplicaUse()]
        self.batches: list[BatchRecord] = []
        self.gaps = GapPool()
        self.arrival_s = column(np.array(arrival_s, dtype=np.float64))
        self.scheduled_s, self.first_token_s, self.finish_s = (column(np.full(n, math.nan)) for _ in range(3))
        self.attempts = column(np.zeros(n, dtype=np.int64))
        self.row_length = column(np.zeros(n, dtype=np.int64))  # positions decoded in its last attempt
        # Positions decoded in attempts that outlived their prediction.
        self.failed_tokens = column(np.zeros(n, dtype=np.int64))
        self.final_batch = column(np.full(n, -1))  # in `batches`: the padded batch in which it finished
        self.predicted = column(np.full(n, -1))
        self.replica = column(np.zeros(n, dtype=np.int32))  # where it finished
        self.reason: dict[int, str] = {}  # id -> why it was given up
        self.reroutes: dict[int, int] = {}  # id -> how often its replica failed
        self.lost_tokens: dict[int, int] = {}  # id -> tokens that were lost with failed replicas

    def ended(self, request_id: int) -> bool:
        """Whether the request has finished or was dropped."""
        return self.finish_s[request_id] == self.finish_s[request_id] or request_id in self.reason

    def is_logged(self, start_s: float, end_s: float) -> bool:
        """Whether a Work of continuous batching is to be recorded."""
        return self.log and start_s <= self.window[1] and end_s >= self.window[0]
