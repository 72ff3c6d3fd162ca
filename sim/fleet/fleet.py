"""What every fleet does: requests arrive, replicas fail and come back, the run ends with the last request.

SimPy processes. Knows nothing of how a request finds its replica (`routed`, `shared_queue`), of how a
scheduler decides or of what a step costs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence

import simpy

from traces.errors import InputError

from ..execution.arrivals import Arrivals, SimProcess
from ..execution.blame import blame
from ..execution.environment import OUTAGE, Environment
from ..execution.replica import Replica
from ..request import Request
from .outages import DrawnOutages, Schedules

MOST_REROUTES = 1000
"""A request that has met more failures than this would never end."""


class Fleet(ABC):
    """Many replicas, a `Source` to each of them, and what waits before them in `queue`.

    What a failed replica had goes to others at once, before all that waits.
    """

    due_s = math.inf

    def __init__(self, env: Environment, arrivals: Arrivals) -> None:
        self.env, self.arrivals = env, arrivals
        self.is_bounded = arrivals.is_bounded
        self.is_open = False  # it opens after those that are down from the start are
        self.replicas: list[Replica] = []
        self.keeping: list[Replica] = []  # that may keep memory for turns to come
        self.queue: deque[Request] = deque()
        self.down_since: dict[int, float] = {}
        # When a replica decided last, and the greatest number of those that did so then.
        self.decided_s, self.last_to_decide = -math.inf, 0
        self.num_left = arrivals.ledger.num_requests
        self.all_ended = env.event()

    def run(self, replicas: Sequence[Replica], outages: Schedules) -> None:
        """Serve all requests with these replicas, which fail as `outages` says."""
        self.replicas = list(replicas)
        self.keeping = [replica for replica in replicas if "wait" in replica.scheduler.needs]
        capacities = [r.use.kv_capacity_tokens for r in replicas]
        self.largest = max(capacities)
        self.is_mixed = min(capacities) < self.largest
        for number, spans in outages.items():
            self.replicas[number].use.unfinished = []
            self.env.process(self._fail(self.replicas[number], spans))
        self._open()
        self.env.process(self._receive_all())
        try:
            self.env.run(until=self.all_ended)
        except RuntimeError as error:
            # SimPy's own complaint that nothing is left to happen; who was lost, the caller finds out.
            if not isinstance(error.__context__, simpy.core.EmptySchedule):
                raise
        for number, since_s in self.down_since.items():
            self.replicas[number].use.down_s += self.env.now - since_s
        self.replicas, self.keeping = [], []  # they refer to the fleet

    def release(self, replica: Replica, now: float) -> None:
        """Its turn to decide has come."""
        if self.decided_s != now:
            self.decided_s, self.last_to_decide = now, replica.number
        elif self.last_to_decide < replica.number:
            self.last_to_decide = replica.number

    def ended(self, replica: Replica, requests: Sequence[Request], now: float) -> None:
        """Places fall free; when nobody is left the run is over."""
        self.num_left -= self.arrivals.ended(replica, requests, now)
        if not self.num_left:
            self.all_ended.succeed()

    def has_decided(self, replica: Replica) -> bool:
        """Whether one of a greater number has decided at this instant: they take turns by number."""
        return self.decided_s == self.env.now and self.last_to_decide > replica.number

    @property
    def is_done(self) -> bool:
        """Whether every request has ended."""
        return not self.num_left

    def is_busy(self) -> bool:
        """There is no other."""
        return False

    def outlook(self) -> tuple[float, object]:
        """When the next request arrives; and which one that is, and how many have not ended."""
        due_s, mark = self.arrivals.outlook()
        return due_s, (mark, self.num_left)

    @abstractmethod
    def _pass_on(self, now: float) -> None:
        """Send what waits to replicas that can take it."""

    @abstractmethod
    def _open(self) -> None:
        """The replicas are known; nothing has arrived yet."""

    @abstractmethod
    def _went_down(self, replica: Replica) -> None:
        """A replica is about to lose what it has."""

    @abstractmethod
    def _came_up(self, replica: Replica) -> None:
        """A replica is there again, empty."""

    def _blame(self) -> blame:
        return blame(lambda: [replica.scheduler for replica in self.replicas])

    def _receive_all(self) -> SimProcess:
        self.is_open = True
        with self._blame():
            yield from self.arrivals.run(self.env, self._receive)

    def _receive(self, request: Request, now: float) -> None:
        """A request has arrived."""
        self.queue.append(request)
        self._pass_on(now)

    def _say_it_is_elsewhere(self, request: Request, number: int) -> None:
        """Tell all but the replica of that number, to which a request was sent, that it does not come."""
        for replica in self.keeping:
            if replica.number != number and replica.scheduler.sent_elsewhere(request):
                replica.notice(surely=True)

    def _check_progress(self, lost: Sequence[Request]) -> None:
        """InputError where replicas fail so often that a request will never be served."""
        for request in lost:
            if self.arrivals.ledger.reroutes[request.id] > MOST_REROUTES:
                raise InputError(
                    f"failures: a request has met {MOST_REROUTES} of them and is not served; "
                    f"mtbf_s must be longer than what a request takes"
                )

    def _fail(self, replica: Replica, spans: Iterator[tuple[float, float]]) -> SimProcess:
        """The replica is down in these spans of time (from, until)."""
        with self._blame():
            yield from self._take_down(replica, spans)

    def _next_outage(
        self, replica: Replica, spans: Iterator[tuple[float, float]]
    ) -> tuple[float, float] | None:
        """The next span, if any. Of those that end before a request is there, all but the last one need no
        events: they are only counted.
        """
        if isinstance(spans, DrawnOutages) and self._is_empty():
            count, seconds = spans.skip(self.arrivals.due_s)
            replica.use.failures += count
            replica.use.down_s += seconds
        return next(spans, None)

    def _is_empty(self) -> bool:
        """Whether every request that has arrived has ended, while others are yet to come."""
        arrivals = self.arrivals
        return arrivals.is_empty(self.num_left) and self.env.now < arrivals.due_s < math.inf

    def _take_down(self, replica: Replica, spans: Iterator[tuple[float, float]]) -> SimProcess:
        env, number = self.env, replica.number
        while (span := self._next_outage(replica, spans)) is not None:
            down_s, up_s = span
            if down_s > env.now or replica.use.failures:
                # However soon it fails again, its process learns of the repair before.
                yield env.at(max(down_s, env.now), OUTAGE)
            self.down_since[number] = env.now
            self._went_down(replica)
            lost = replica.fail()
            self._check_progress(lost)
            self.queue.extendleft(reversed(lost))
            self._pass_on(env.now)
            yield env.at(max(up_s, env.now), OUTAGE)
            replica.use.down_s += env.now - self.down_since.pop(number)
            replica.repair()
            self._came_up(replica)
