"""`seqsched serve` in a process of its own, as its users start it, and requests that go to it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from tests.servers.started import answers, free_port
from traces.errors import InputError

MAIN = "from sim.cli import main; main()"
START_S = 60.0


class Answer(NamedTuple):
    """What came, and how many tokens that is."""

    text: str
    tokens: int


@contextmanager
def layer(upstream: str, log: Path, *flags: str) -> Iterator[str]:
    """Inside the block the layer is before `upstream`, at the address given; its log is written anew."""
    port = free_port()
    log.unlink(missing_ok=True)
    given = ("--upstream", upstream, "--port", str(port), "--log", str(log), *flags)
    process = subprocess.Popen([sys.executable, "-c", MAIN, "serve", *given], stderr=subprocess.PIPE)
    try:
        begin = time.monotonic()
        while not answers(f"http://127.0.0.1:{port}/health"):
            if process.poll() is not None or time.monotonic() - begin > START_S:
                said = process.stderr.read().decode().strip() if process.stderr is not None else ""
                raise RuntimeError(f"seqsched serve does not start: {said}")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def session() -> aiohttp.ClientSession:
    """As many connections as there are requests, and no limit of time."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout())


async def ask(
    client: aiohttp.ClientSession, url: str, body: Mapping[str, Any], told: int | None = None
) -> bytes:
    """The bytes of an answer; `told`: the tokens that the client says it will have."""
    headers = {} if told is None else {"X-Seqsched-Output-Tokens": str(told)}
    async with client.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
        data = await response.read()
        if response.status != 200:
            raise InputError(f"HTTP {response.status}: {data[:200]!r}")
        return data


def ask_all(
    url: str,
    bodies: Sequence[Mapping[str, Any]],
    told: Sequence[int] | None = None,
    at_a_time: int | None = None,
    over_s: float = 0.0,
) -> list[Answer]:
    """All answers, asked for at once, so many at a time, or evenly over so many seconds; none streams."""

    async def all_of_them() -> list[Answer]:
        places = asyncio.Semaphore(at_a_time or len(bodies))
        async with session() as client:

            async def one(k: int) -> Answer:
                await asyncio.sleep(over_s * k / len(bodies))
                async with places:
                    answer = json.loads(await ask(client, url, bodies[k], told[k] if told else None))
                    text = answer["choices"][0]["message"]["content"]
                    return Answer(text, int(answer["usage"]["completion_tokens"]))

            return list(await asyncio.gather(*map(one, range(len(bodies)))))

    return asyncio.run(all_of_them())
