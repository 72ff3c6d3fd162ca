"""Orders by deadlines in which who can no longer be in time waits behind all that still can.

With more to do than can be done, the earliest deadline first serves those that are about to be late, or are,
so that others are late in turn (Haritsa, Livny and Carey, "Earliest Deadline Scheduling for Real-Time
Database Systems", RTSS 1991). SLOs-Serve (arXiv 2504.08784) does not turn away whom it cannot serve in time,
but serves them when it has nothing better to do; so it is here. Under `deadline` a request is late when its
deadline has passed, under `least-laxity` when its predicted rest takes longer than is left.

Knows nothing of clocks, costs or how long an answer will be.
"""

from __future__ import annotations

from ..work import Iterations, Work
from .ahead import AheadScheduler
from .continuous import ContinuousScheduler

LATE_S = 1e10
"""By how much the rank of who is late, a time, grows: beyond all others', but for who is due at no time."""


class LateLastScheduler(ContinuousScheduler):
    """A `ContinuousScheduler` whose ranks are times, and which puts off who waits beyond its own."""

    def next_work(self, now: float) -> Work | None:
        """What to run, at most until the first of those that wait is late, where another could start then."""
        waiting = self.waiting
        while waiting and waiting[0][0] < now:
            rank, order, request = waiting.pop_first()
            waiting.push((rank + LATE_S, order, request))
        work = super().next_work(now)
        if isinstance(work, Iterations) and waiting and len(self.running) < self.max_num_seqs:
            first = waiting[0][0]
            if first < LATE_S:
                work.until_s = min(work.until_s, max(now, first))
        return work


class AheadLateLastScheduler(AheadScheduler, LateLastScheduler):
    """The same, with one decision in hand."""

    _choose = LateLastScheduler.next_work
