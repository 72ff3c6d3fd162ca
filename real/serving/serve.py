"""`serve`: run the layer until it is told to end, then let open requests finish."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import aiohttp
import uvicorn

from sim.results.batch_record import BatchRecord
from traces.errors import InputError

from ..observing.sending import allow_connections
from .app import make_app
from .bounded import BoundedProtocol
from .complaints import complain
from .demo import DEMO, demo_server
from .keys import Keys, read_keys
from .layer import Layer
from .log import Log, mirrored_path
from .parquet_log import SUFFIX, ParquetLog
from .policy import note_on
from .predictor import make_length_predictor
from .relay import Relay
from .settings import ServeSettings, upstream_urls
from .slots import FIRST_SLOTS, SlotSource, SlotWatch
from .upstreams import Pool, Upstream

UPSTREAM_KEY = "SEQSCHED_UPSTREAM_KEY"
"""The environment variable that holds the upstream's API key, where the clients shall not bring it."""
CONNECTIONS = 4096
CONNECT_S = 10.0
KEEP_ALIVE_S = 3.0
"""Seconds that an idle connection to an upstream is kept: fewer than the 5 of uvicorn, so that no request
meets one that is being closed.
"""
UNLIMITED = 1 << 20
"""Slots of an upstream that is told: it queues by itself."""


def serve(upstream: str, settings: ServeSettings) -> None:
    """Run the layer before the servers at `upstream` (URL[,URL...], or demo) until SIGTERM or SIGINT.

    Raises InputError for settings out of bounds, files that cannot be used, and an address that is taken.
    """
    settings.check()
    urls = [DEMO] if upstream == DEMO else upstream_urls(upstream)
    keys = Keys() if settings.keys is None else read_keys(settings.keys)
    with ExitStack() as stack:
        log = mirrored_log = None
        if settings.log is not None:
            kind = ParquetLog if settings.log.suffix == SUFFIX else Log
            log = stack.enter_context(
                kind(settings.log, texts=settings.log_texts, prefixes=settings.log_prefixes)
            )
            if settings.mirror:
                mirrored_log = stack.enter_context(Log(mirrored_path(settings.log), prefixes=False))
        on_decision = None
        if settings.decisions is not None:
            on_decision = stack.enter_context(_decisions(settings.decisions))
        allow_connections(CONNECTIONS)
        asyncio.run(_run(urls, settings, keys, log, on_decision, mirrored_log))


async def _run(
    urls: list[str],
    settings: ServeSettings,
    keys: Keys,
    log: Log | None,
    on_decision: Callable[[int, BatchRecord], None] | None,
    mirrored_log: Log | None,
) -> None:
    async with AsyncExitStack() as stack:
        if urls == [DEMO]:
            slots = FIRST_SLOTS if settings.slots == "auto" else settings.slots
            urls = [await stack.enter_async_context(demo_server(slots))]
        key = _upstream_key()
        layer = await stack.enter_async_context(layer_of(urls, settings, key, log, on_decision, mirrored_log))
        if settings.act == "hold" and (note := note_on(settings.policy)):
            print(f"seqsched: note: {note}", file=sys.stderr, flush=True)
        await server_of(layer, keys).run_until_told()


@asynccontextmanager
async def layer_of(
    urls: list[str],
    settings: ServeSettings,
    upstream_key: str | None = None,
    log: Log | None = None,
    on_decision: Callable[[int, BatchRecord], None] | None = None,
    mirrored_log: Log | None = None,
) -> AsyncIterator[Layer]:
    """A layer before these servers, which lets go of its connections at the end."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=settings.idle_timeout_s),
        read_bufsize=1 << 16,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        relay = Relay(session, upstream_key)
        source = SlotSource(session, relay.headers({}))
        upstreams = await _upstreams(urls, settings, source)
        predictor = make_length_predictor(settings.predictor)
        layer = Layer(
            settings,
            Pool(upstreams),
            relay,
            predictor,
            log=log,
            mirrored_log=mirrored_log,
            on_decision=on_decision,
        )
        watch = SlotWatch(source, lambda: bool(layer.executor.waiting), layer.poll)
        watching = asyncio.create_task(watch.run([each for each in upstreams if each.says_waiting]))
        try:
            yield layer
        finally:
            watching.cancel()
            if layer.mirror is not None:
                layer.mirror.close()


async def _upstreams(urls: list[str], settings: ServeSettings, source: SlotSource) -> list[Upstream]:
    """The servers with their slots; InputError where they shall say how many, and do not."""
    if settings.act == "tell":
        return [Upstream(url, UNLIMITED) for url in urls]
    if settings.slots == "auto":
        return [await source.upstream(url) for url in urls]
    return [Upstream(url, settings.slots) for url in urls]


def server_of(layer: Layer, keys: Keys) -> Server:
    """The HTTP server of a layer."""
    settings = layer.settings
    config = uvicorn.Config(
        make_app(layer, keys),
        host=settings.host,
        port=settings.port,
        http=BoundedProtocol,  # the bytes of headers, it bounds by h11
        ws="none",
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        server_header=False,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
    )
    return Server(config, layer)


class Server(uvicorn.Server):
    """Ends with status 0 when it is told to, after open requests have had their time."""

    def __init__(self, config: uvicorn.Config, layer: Layer) -> None:
        super().__init__(config)
        self.layer = layer
        self.url = ""  # where it listens, once it does

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are this class's own: uvicorn would end by them."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, another thread
                loop.add_signal_handler(number, self._told)
        yield

    def _told(self) -> None:
        self.force_exit = self.should_exit  # told twice
        self.should_exit = self.layer.is_draining = True

    async def run_until_told(self) -> None:
        """Listen, say where, and answer until told to end."""
        config = self.config
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            raise InputError(
                f"ssl_certfile: {config.ssl_certfile} cannot be used ({error.strerror})"
            ) from None
        try:
            listening = config.bind_socket()
        except SystemExit:
            raise InputError(f"port: {config.host}:{config.port} cannot be listened at") from None
        # A token must not wait for the next one; asyncio sees to that for sockets it has made itself only.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, port = listening.getsockname()[:2]
        scheme = "https" if config.is_ssl else "http"
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        await self.serve(sockets=[listening])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say where."""
        await super().startup(sockets=sockets)
        upstreams = ", ".join(upstream.url for upstream in self.layer.pool.upstreams)
        print(f"seqsched: {self.url} before {upstreams}", file=sys.stderr, flush=True)


def _upstream_key() -> str | None:
    """The upstream's key, if there is one; InputError, without it, for what no header can hold."""
    key = os.environ.get(UPSTREAM_KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"{UPSTREAM_KEY}: has characters that no header can hold")
    return key or None


@contextmanager
def _decisions(path: Path) -> Iterator[Callable[[int, BatchRecord], None]]:
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    is_complaining = False

    def failed(error: OSError) -> None:  # a full disk is no reason to schedule otherwise
        nonlocal is_complaining
        if not is_complaining:
            complain("the decisions cannot be written", error)
        is_complaining = True

    def note(level: int, record: BatchRecord) -> None:
        entry = {"start_s": round(record.start_s, 6), "level": level, **record.decision()}
        try:
            file.write(json.dumps(entry, separators=(",", ":")) + "\n")
        except OSError as error:
            failed(error)

    try:
        yield note
    finally:
        try:
            file.close()
        except OSError as error:
            failed(error)
