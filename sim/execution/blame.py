"""Whose fault an error is: what a scheduler's own code raises names its class, method, file and line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from traces.errors import InputError, raised_outside

from ..work import SchedulingError

OURS = ("sim", "real", "traces", "plots", "seqsched")


class blame:
    """A context in which schedulers are called; it rewords the errors that are theirs.

    What a scheduler from outside raises, SystemExit too, becomes an InputError that names the method called;
    a SchedulingError is made to begin with the class. `schedulers()` gives those that may be called. With
    `is_sole_cause` every error is that of the (one) scheduler, if it is from outside: it was raised where its
    Work was carried out.
    """

    def __init__(self, schedulers: Callable[[], Sequence[object]], *, is_sole_cause: bool = False) -> None:
        self.schedulers, self.is_sole_cause = schedulers, is_sole_cause

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, InputError) or not isinstance(error, (Exception, SystemExit)):
            return
        schedulers = self.schedulers()
        if isinstance(error, SchedulingError):
            if len(schedulers) == 1 and (name := type(schedulers[0]).__name__) not in str(error):
                raise type(error)(f"{name}: {error}") from error
            return
        called = _called(error, schedulers)
        if called is None and self.is_sole_cause:
            called = schedulers[0], ""
        if called is None:
            return
        scheduler, method = called
        if type(scheduler).__module__.partition(".")[0] not in OURS:
            name = type(scheduler).__name__
            raise raised_outside(f"policy {name}{'.' * bool(method)}{method}", error) from error


def _called(error: BaseException, schedulers: Sequence[object]) -> tuple[object, str] | None:
    """The scheduler that raised the error, and its innermost method; None where no scheduler did."""
    found = None
    for owner, method in _methods(error.__traceback__):
        if any(owner is scheduler for scheduler in schedulers):
            found = owner, method
    if found is None and isinstance(error, AttributeError) and any(error.obj is s for s in schedulers):
        return error.obj, ""
    return found


def _methods(traceback: TracebackType | None) -> Iterator[tuple[object, str]]:
    """(first argument, name) of every function on the way to where the error was raised."""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_argcount:
            yield traceback.tb_frame.f_locals.get(code.co_varnames[0]), code.co_name
        traceback = traceback.tb_next
