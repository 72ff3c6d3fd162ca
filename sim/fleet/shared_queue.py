"""A fleet before one queue, from which its replicas take."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from ..execution.arrivals import Arrivals
from ..execution.environment import DECISION, Environment
from ..execution.replica import Replica
from ..request import Request
from .fleet import Fleet


class SharedQueueFleet(Fleet):
    """An arrival goes to the replica with the fewest requests of those that idle or iterate with a place left
    and nobody waiting, else it waits; a replica about to decide takes, first come, first served, what its
    scheduler `wants`. Where memories differ, a replica passes over what it cannot hold and another can.
    """

    def __init__(self, env: Environment, arrivals: Arrivals) -> None:
        super().__init__(env, arrivals)
        # Requests at each replica as of its last decision, until it is sent one; heap of (these, replica).
        self.loads: dict[int, int] = {}
        self.hungry: list[tuple[int, int]] = []
        # Prompt tokens and cap of what each replica left in the queue at its last decision; by KV capacity, a
        # heap of (minus these, replica) for either.
        self.declined: dict[int, tuple[int, int]] = {}
        self.decliners: dict[int, tuple[list[tuple[int, int]], list[tuple[int, int]]]] = {}
        # Numbers of the replicas whose requests share memory.
        self.sharing: set[int] = set()

    def release(self, replica: Replica, now: float) -> None:
        """The replica, about to decide, takes from the queue what its scheduler wants."""
        if self.decided_s != now:  # as in every fleet, without a call for each decision
            self.decided_s, self.last_to_decide = now, replica.number
        elif self.last_to_decide < replica.number:
            self.last_to_decide = replica.number
        number, capacity, has_taken = replica.number, replica.use.kv_capacity_tokens, False
        while (request := self._first_for(capacity)) is not None and replica.wants(request):
            self.queue.remove(request)
            replica.submit(request, now)
            if self.keeping:
                self._say_it_is_elsewhere(request, number)
            has_taken = True
        most = 64 + 4 * len(self.replicas)  # entries of replicas that have moved on since would pile up
        if self.loads.get(number) != replica.num_requests:
            self.loads[number] = replica.num_requests
            heappush(self.hungry, (replica.num_requests, number))
            if len(self.hungry) > most:
                self.hungry = [(k, n) for n, k in self.loads.items()]
                heapify(self.hungry)
        self.declined.pop(number, None)
        if request is not None:
            self.declined[number] = size = request.prompt_tokens, request.max_new_tokens
            for which, decliners in enumerate(self.decliners.setdefault(capacity, ([], []))):
                heappush(decliners, (-size[which], number))
                if len(decliners) > most:
                    decliners[:] = [(k, n) for k, n in set(decliners) if self._declines(n, which, -k)]
                    heapify(decliners)
            if number in self.sharing and replica.num_requests > replica.running.num_running:
                self._ask_again(replica, now)
        if has_taken and self.queue:
            self._offer()

    def _open(self) -> None:
        self.loads = {replica.number: 0 for replica in self.replicas}
        self.hungry = [(0, number) for number in self.loads]
        self.sharing = {r.number for r in self.replicas if r.scheduler.prefix_cache is not None}

    def _went_down(self, replica: Replica) -> None:
        pass

    def _came_up(self, replica: Replica) -> None:
        pass

    def _pass_on(self, now: float) -> None:
        """Give from the shared queue to replicas with a place, the one with the fewest requests first."""
        passed: list[tuple[int, int]] = []
        while self.queue and self.hungry:
            count, number = entry = heappop(self.hungry)
            replica = self.replicas[number]
            if self.loads.get(number) != count:
                continue  # it has moved on since
            if count == replica.num_requests and replica.has_place:
                request = self._first_for(replica.use.kv_capacity_tokens)
                if request is None:
                    passed.append(entry)
                    continue
                self.queue.remove(request)
                replica.submit(request, now)
                if self.keeping:
                    self._say_it_is_elsewhere(request, number)
                replica.notice()
            del self.loads[number]
        for entry in passed:
            heappush(self.hungry, entry)

    def _ask_again(self, replica: Replica, now: float) -> None:
        """Those that the replica lets in now may take less memory than its scheduler counted when it left the
        first in the queue: then it decides anew with the end of that iteration.
        """

        def let_in(_: object) -> None:
            if replica.iterations is not None and replica.iterations[0].chunks:
                replica.notice()

        all_have_decided = self.env.at(now, DECISION + len(self.replicas))
        assert all_have_decided.callbacks is not None
        all_have_decided.callbacks.append(let_in)

    def _offer(self) -> None:
        """The first in the shared queue is another now: who had no memory for one with a longer prompt or a
        larger cap decides anew, with the end of its iteration.
        """
        for capacity, by_size in self.decliners.items():
            first = self._first_for(capacity)
            if first is None:
                continue
            for which, size in enumerate((first.prompt_tokens, first.max_new_tokens)):
                decliners = by_size[which]
                while decliners and -decliners[0][0] > size:
                    declined, number = heappop(decliners)
                    if self._declines(number, which, -declined):
                        self.replicas[number].notice()

    def _declines(self, number: int, which: int, size: int) -> bool:
        """Whether what a replica left at its last decision had a prompt (0) or a cap (1) of that size."""
        return number in self.declined and self.declined[number][which] == size

    def _first_for(self, capacity: int) -> Request | None:
        """The first in the shared queue that a replica of so many KV tokens can hold, or that none can."""
        if not self.is_mixed:
            return self.queue[0] if self.queue else None
        for request in self.queue:
            if not capacity < request.prompt_tokens + request.max_new_tokens <= self.largest:
                return request
        return None
