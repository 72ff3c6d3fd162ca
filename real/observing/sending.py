"""Sends requests at their times and collects the replies; knows nothing of what is made of these."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import aiohttp

from .api import Reply, Target, ask
from .wording import Prompt

INTERRUPTED = "interrupted"
NO_FILE = os.strerror(errno.EMFILE)
"""What the error of a request says that found no file for its connection."""
OTHER_FILES = 64
"""Files that are open beside the connections."""


class Order(NamedTuple):
    """A request to be sent: when, in seconds from the start, what prompt, for how many tokens, and with what
    headers of its own.

    One that `waits_for` others, by their numbers, is due `think_s` after the last of these has been answered.
    """

    due_s: float
    prompt: Prompt
    max_tokens: int
    waits_for: tuple[int, ...] = ()
    think_s: float = 0.0
    headers: Mapping[str, str] | None = None


@dataclass
class Sent:
    """Replies by number of the order; None where it was never sent. `start_s` is the clock's at the start.

    `due_s`: when each was due, as far as that came about; `cancelled`: which were not sent, each with the
    failed one that it waited for, or whose follower it was.
    """

    start_s: float
    replies: list[Reply | None]
    due_s: list[float]
    cancelled: dict[int, int] = field(default_factory=dict)
    is_interrupted: bool = False
    lags_s: list[float] = field(default_factory=list)
    """How much later than it was due, or than its place fell free, each was sent."""


class Turns:
    """Which orders are due once others have been answered; the clock's times are those of `sent`."""

    def __init__(self, orders: Sequence[Order], sent: Sent) -> None:
        self.orders, self.sent = orders, sent
        self.missing = [len(order.waits_for) for order in orders]
        self.followers: dict[int, list[int]] = {}
        for number, order in enumerate(orders):
            for parent in order.waits_for:
                self.followers.setdefault(parent, []).append(number)

    def ended(self, number: int) -> list[int]:
        """An order has ended: the numbers of those that are due, now or later, as none that they wait for is
        left. Where it failed, all that wait for it, and so on, are cancelled.
        """
        reply, sent = self.sent.replies[number], self.sent
        assert reply is not None
        if reply.error:
            self._cancel(number)
            return []
        due = []
        for follower in self.followers.get(number, ()):
            self.missing[follower] -= 1
            if not self.missing[follower] and follower not in sent.cancelled:
                last_s = max(self._last_s(parent) for parent in self.orders[follower].waits_for)
                sent.due_s[follower] = last_s - sent.start_s + self.orders[follower].think_s
                due.append(follower)
        return due

    def said(self, number: int) -> list[tuple[str, str]]:
        """What comes before the text of an order: texts, each with the answer to it as it is now."""
        return [
            (turn.text, self._answer(turn.number) or turn.otherwise)
            for turn in self.orders[number].prompt.before
        ]

    def _answer(self, number: int) -> str:
        """The text of an answer that is whole, else none."""
        reply = self.sent.replies[number]
        return "" if reply is None or reply.error else reply.text

    def _last_s(self, number: int) -> float:
        reply = self.sent.replies[number]
        assert reply is not None
        return reply.last_s

    def _cancel(self, root: int) -> None:
        """Nobody asks a second question who got no answer to the first."""
        lost = [root]
        for parent in lost:  # grows
            for follower in self.followers.get(parent, ()):
                if follower not in self.sent.cancelled:
                    self.sent.cancelled[follower] = root
                    lost.append(follower)


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

    Orders come by rising time; one that waits for a place is sent as soon as there is one. One that waits for
    others is sent when these have been answered, and never where one of them failed. Interrupted, it hangs up
    and says what has come by then.
    """
    seats = asyncio.Semaphore(max_concurrency) if max_concurrency is not None else nullcontext()
    sent = Sent(time.perf_counter(), [None] * len(orders), [order.due_s for order in orders])
    tasks: list[asyncio.Task[None]] = []
    turns = Turns(orders, sent)
    num_ended = 0

    async def one(number: int, order: Order, due_s: float) -> None:
        nonlocal num_ended
        # Also where it is late, others have their turn.
        await asyncio.sleep(max(0.0, sent.start_s + due_s - time.perf_counter()))
        asked_s = time.perf_counter()
        async with seats:
            waited_s = time.perf_counter() - asked_s if max_concurrency is not None else 0.0
            sent.lags_s.append(time.perf_counter() - waited_s - sent.start_s - due_s)
            sent.replies[number] = Reply(time.perf_counter(), error=INTERRUPTED)
            sent.replies[number] = await ask(
                session, target, order.prompt.text, order.max_tokens, turns.said(number), order.headers
            )
        before = len(sent.cancelled)
        for follower in turns.ended(number):
            tasks.append(asyncio.create_task(one(follower, orders[follower], sent.due_s[follower])))
        num_ended += 1 + len(sent.cancelled) - before
        if on_progress is not None:
            on_progress(num_ended, len(orders))

    try:
        for number, order in enumerate(orders):
            if not order.waits_for:
                await asyncio.sleep(max(0.0, sent.start_s + order.due_s - time.perf_counter()))
                tasks.append(asyncio.create_task(one(number, order, order.due_s)))
        done = 0
        while done < len(tasks):  # those that end may bring others
            begun, done = tasks[done:], len(tasks)
            await asyncio.gather(*begun)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        sent.is_interrupted = True
    return sent
