"""The source of requests for a single accelerator; knows nothing of how it decides."""

from __future__ import annotations

from ..execution.arrivals import Arrivals
from ..execution.frontend import FrontedArrivals
from ..execution.replica import Replica


class Sole(Arrivals):
    """The source for a single accelerator: it knows in advance when the next request arrives."""

    def release(self, replica: Replica, now: float) -> None:
        """Submit what is due."""
        if self.due_s <= now:
            replica.num_requests += self.take(now, replica.scheduler.submit)

    def is_busy(self) -> bool:
        """There is no other."""
        return False

    def has_decided(self, replica: Replica) -> bool:
        """It has no turn to wait for."""
        return False

    def _free_places(self, replica: Replica, number: int, now: float) -> None:
        self.release(replica, now)  # whoever has come meanwhile had a place before
        super()._free_places(replica, number, now)


class FrontedSole(FrontedArrivals, Sole):
    """The same behind a frontend."""
