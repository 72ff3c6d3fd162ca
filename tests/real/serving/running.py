"""A layer that runs in the test's own event loop, before upstreams of whatever kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from real.serving.keys import Keys
from real.serving.layer import Layer
from real.serving.log import Log
from real.serving.serve import Server, layer_of, server_of
from real.serving.settings import ServeSettings
from sim.results.batch_record import BatchRecord
from tests.real.serving.upstream import Fake, listening


class Up:
    """A layer that is up, its address, and a session of a client."""

    def __init__(self, layer: Layer, server: Server, session: aiohttp.ClientSession) -> None:
        self.layer, self.server, self.url, self.session = layer, server, server.url, session

    async def ask(
        self,
        prompt: str = "say 5",
        *,
        headers: dict[str, str] | None = None,
        chat: bool = True,
        url: str | None = None,
        **fields: Any,
    ) -> tuple[int, bytes]:
        """Status and bytes of the answer to a prompt."""
        asked = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
        path = "/v1/chat/completions" if chat else "/v1/completions"
        async with self.session.post(
            (url or self.url) + path, json={"model": "fake", **asked, **fields}, headers=headers
        ) as response:
            return response.status, await response.read()

    async def idle(self) -> None:
        """Returns when nothing is open any more; every slot must have been given back."""
        layer = self.layer
        for _ in range(500):
            if not layer.open:
                break
            await asyncio.sleep(0.01)
        executor = layer.executor
        assert (layer.open, executor.num_running, len(executor.waiting), len(layer.turns)) == (0, 0, 0, 0)
        assert not any(upstream.busy for upstream in layer.pool.upstreams)
        assert not [stage for stage in executor.stages.values() if stage.value != "over"]


@asynccontextmanager
async def layer_before(
    *urls: str,
    keys: Keys | None = None,
    log: Log | None = None,
    mirrored_log: Log | None = None,
    upstream_key: str | None = None,
    on_decision: Callable[[int, BatchRecord], None] | None = None,
    **settings: Any,
) -> AsyncIterator[Up]:
    """A layer before these upstreams."""
    given = ServeSettings(**{"port": 0, "slots": 4, "drain_s": 1.0, **settings})
    given.check()
    async with layer_of(list(urls), given, upstream_key, log, on_decision, mirrored_log) as layer:
        server = server_of(layer, keys or Keys())
        running = asyncio.create_task(server.run_until_told())
        while not server.started:
            await asyncio.sleep(0.005)
            if running.done():
                running.result()
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            yield Up(layer, server, session)
        server.should_exit = True
        await running


def with_fakes(
    test: Callable[..., Coroutine[Any, Any, None]], *fakes: dict[str, Any], **settings: Any
) -> None:
    """Run `test(up, *fakes)` with a layer before so many fakes (one where none is described)."""

    async def run() -> None:
        made = [Fake(**given) for given in fakes or ({},)]
        async with _all(made) as urls, layer_before(*urls, **settings) as up:
            await test(up, *made)
            await up.idle()

    asyncio.run(run())


@asynccontextmanager
async def _all(fakes: list[Fake]) -> AsyncIterator[list[str]]:
    if not fakes:
        yield []
        return
    async with listening(fakes[0]) as url, _all(fakes[1:]) as others:
        yield [url, *others]
