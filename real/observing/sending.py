"""Sends requests at their times and collects the replies; knows nothing of what is made of these."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import aiohttp

from .api import Reply, Target, ask

INTERRUPTED = "interrupted"
NO_FILE = os.strerror(errno.EMFILE)
"""What the error of a request says that found no file for its connection."""
OTHER_FILES = 64
"""Files that are open beside the connections."""


class Order(NamedTuple):
    """A request to be sent: when, in seconds from the start, what text, and for how many tokens."""

    due_s: float
    text: str
    max_tokens: int


@dataclass
class Sent:
    """Replies by number of the order; None where it was never sent. `start_s` is the clock's at the start."""

    start_s: float
    replies: list[Reply | None]
    is_interrupted: bool = False
    lags_s: list[float] = field(default_factory=list)
    """How much later than it was due, or than its place fell free, each was sent."""


def allow_connections(number: int) -> None:
    """Raise this process's limit on open files, where so many connections need it, as far as it may."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = number + OTHER_FILES if hard == resource.RLIM_INFINITY else min(number + OTHER_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def send(
    session: aiohttp.ClientSession,
    target: Target,
    orders: Sequence[Order],
    *,
    max_concurrency: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Sent:
    """Send every order when it is due, at most `max_concurrency` of them unanswered at a time.

    Orders come by rising time; one that waits for a place is sent as soon as there is one. Interrupted, it
    hangs up and says what has come by then.
    """
    seats = asyncio.Semaphore(max_concurrency) if max_concurrency is not None else nullcontext()
    sent = Sent(time.perf_counter(), [None] * len(orders))
    num_ended = 0

    async def one(number: int, order: Order) -> None:
        nonlocal num_ended
        asked_s = time.perf_counter()
        async with seats:
            waited_s = time.perf_counter() - asked_s if max_concurrency is not None else 0.0
            sent.lags_s.append(time.perf_counter() - waited_s - sent.start_s - order.due_s)
            sent.replies[number] = Reply(time.perf_counter(), error=INTERRUPTED)
            sent.replies[number] = await ask(session, target, order.text, order.max_tokens)
        num_ended += 1
        if on_progress is not None:
            on_progress(num_ended, len(orders))

    tasks: list[asyncio.Task[None]] = []
    try:
        for number, order in enumerate(orders):
            # Also where it is late, others have their turn.
            await asyncio.sleep(max(0.0, sent.start_s + order.due_s - time.perf_counter()))
            tasks.append(asyncio.create_task(one(number, order)))
        await asyncio.gather(*tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        sent.is_interrupted = True
    return sent
