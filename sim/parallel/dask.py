"""Runs tasks on the workers of a Dask cluster."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from traces.errors import InputError

from .tasks import DIED, Ended, Function, Shared, Task, Versions, attempt, one_line

if TYPE_CHECKING:
    from distributed import Client, Future

CLUSTER_EXTRA = 'pip install "seqsched[cluster]"'
CONNECT_S = 10


class Cluster:
    """The workers of the Dask scheduler at an address such as tcp://HOST:PORT.

    Raises InputError where Dask is not installed, and where no scheduler answers.
    """

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise InputError(f"backend dask: needs Dask: {CLUSTER_EXTRA}") from None
        # What goes wrong ends in one line of ours; the client's own tracebacks would stand beside it.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        try:
            self.client: Client = Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise InputError(f"address {address}: no Dask scheduler answers ({reason})") from None
        self.shared: dict[int, tuple[Any, Future]] = {}

    def run(self, function: Function, tasks: Sequence[Task]) -> Iterator[Ended]:
        """Run the tasks and yield each as it ends; `DIED` where a worker died of it more than once.

        How often is the scheduler's `distributed.scheduler.allowed-failures`.
        """
        from distributed import as_completed

        # Keys of their own, or the scheduler would answer with what it kept of an earlier run.
        run = uuid.uuid4().hex
        waiting = {
            self.client.submit(
                attempt,
                function,
                Versions(),
                task.key,
                *map(self._sent, task.arguments),
                key=f"seqsched-{task.key}-{run}",
            ): task
            for task in tasks
        }
        try:
            completed = as_completed(list(waiting), loop=self.client.loop)
            for future in completed:
                if future.status == "lost":  # its worker died before it handed the result over; it runs again
                    completed.add(future)
                elif future.status == "cancelled":
                    raise InputError("the Dask scheduler has given the tasks up; is it still there?")
                else:
                    yield _end_of(future, waiting.pop(future))
        finally:
            self.client.cancel(list(waiting))

    def close(self) -> None:
        """Leave the cluster; what it runs for us is cancelled."""
        self.shared.clear()
        self.client.close()

    def _sent(self, argument: Any) -> Any:
        """The argument as a task gets it; a shared one is the result of a task, which is sent only once.

        A result can be computed again where the worker that holds it dies; scattered data would be lost.
        """
        if not isinstance(argument, Shared):
            return argument
        number = id(argument.value)
        if number not in self.shared:
            key = f"seqsched-shared-{uuid.uuid4().hex}"
            # The value is kept as long as its future, so that no other object takes its number.
            self.shared[number] = argument.value, self.client.submit(Shared, argument.value, key=key)
        return self.shared[number][1]


def _end_of(future: Future, task: Task) -> Ended:
    """What a future that is done has become."""
    from distributed import KilledWorker

    try:
        ended: Ended = future.result()
    except KilledWorker:
        return Ended(task.key, None, DIED)
    except Exception as error:  # what stops `attempt` itself, such as a worker without this package
        return Ended(task.key, None, one_line(f"{type(error).__name__}: {error}"))
    return ended
