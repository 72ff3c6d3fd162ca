"""Sends a call that has its turn: to one upstream after the other, until an answer comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .call import Call
from .client import Client
from .metrics import Metrics
from .relay import Relay, Relayed, UpstreamFailed
from .settings import ServeSettings
from .upstreams import Pool, Upstream

FIRST_RETRY_S = 0.05


@dataclass
class Course:
    """Where a request has been sent, and how often."""

    upstream: Upstream | None = None
    attempts: int = 0


class Sender:
    """Tries upstreams, waits where none may be asked, and remembers which of them fail. `started()` is called
    when one is about to be asked.
    """

    def __init__(
        self,
        settings: ServeSettings,
        pool: Pool,
        relay: Relay,
        metrics: Metrics,
        clock: Callable[[], float],
        started: Callable[[], None],
    ) -> None:
        self.settings, self.pool, self.relay = settings, pool, relay
        self.metrics, self.clock, self.started = metrics, clock, started

    async def send(self, course: Course, call: Call, client: Client, relayed: Relayed) -> None:
        """Pass an answer on to the client; UpstreamFailed where there is no whole one."""
        tried: list[Upstream] = []
        while True:
            upstream = course.upstream = await self._upstream(tried)
            course.attempts += 1
            is_again = upstream in tried
            tried.append(upstream)
            try:
                return await self._attempt(call, client, upstream, relayed, is_again=is_again)
            except UpstreamFailed as failure:
                if client.has_begun or not failure.may_retry or len(tried) > self.settings.retries:
                    raise
                relayed.seen, relayed.first_s = relayed.seen.again(), 0.0
                self.metrics.retries.labels(upstream.url).inc()
                await asyncio.sleep(FIRST_RETRY_S * 2 ** (len(tried) - 1))

    async def _upstream(self, tried: Sequence[Upstream]) -> Upstream:
        """The server to ask; where none may be asked now, when one may."""
        until_s = self.clock() + self.settings.idle_timeout_s
        while (upstream := self.pool.choose(now := self.clock(), tried)) is None:
            if now >= until_s:
                raise UpstreamFailed("no upstream can be reached", 503, may_retry=False)
            await asyncio.sleep(min(1.0, max(0.01, self.pool.next_trial_s(now) - now)))
        return upstream

    async def _attempt(
        self, call: Call, client: Client, upstream: Upstream, relayed: Relayed, *, is_again: bool
    ) -> None:
        upstream.busy += 1
        self.started()
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                await self.relay.send(call, upstream, client, relayed)
            upstream.succeeded()
        except TimeoutError:
            upstream.failed(self.clock())
            text = f"no end of the answer after {self.settings.timeout_s:g} s"
            raise UpstreamFailed(text, 504, may_retry=False) from None
        except UpstreamFailed as failure:
            # What it answers to one request twice may be that request's fault: it counts once.
            if failure.answer is None or not is_again:
                upstream.failed(self.clock())
            raise
        finally:
            upstream.busy -= 1
