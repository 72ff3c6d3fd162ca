"""What does the layer add to the first token, and what do open streams take of memory?

    python -m tests.benchmarks.serve

A fake upstream, a bare proxy of aiohttp and the layer run in a process each, on whatever cores there are. The
same requests, 200 a second, go directly, through the proxy and through the layer, in turns; then 2,000
streams are held open through the layer. The exit status is 1 where the layer adds more than 2 ms to the
median first token, or where the streams take 500 MiB. The last line of stdout is JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from real.observing.sending import allow_connections
from tests.servers.started import free_port

RATE, SECONDS, ROUNDS = 200.0, 3.0, 5
STREAMS = 2000
TOKENS = 8
MOST_ADDED_MS, MOST_MIB = 2.0, 500.0
EVENT = b'data: {"id":"f","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'  # noqa: E501
LAST = EVENT.replace(b"null", b'"stop"')


async def _answer(request: web.Request) -> web.StreamResponse:
    """Some tokens, 5 ms apart; with `hold`, none after the first until the client leaves."""
    body = await request.json()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(EVENT)
    if body.get("hold"):
        await asyncio.sleep(3600)
    for _ in range(TOKENS):
        await asyncio.sleep(0.005)
        await response.write(EVENT)
    await response.write(LAST + b"data: [DONE]\n\n")
    return response


async def _proxied(request: web.Request) -> web.StreamResponse:
    """What came from the upstream, as it comes."""
    session: aiohttp.ClientSession = request.app["session"]
    async with session.post(request.app["url"] + request.path, data=await request.read()) as upstream:
        response = web.StreamResponse(headers={"Content-Type": upstream.headers["Content-Type"]})
        await response.prepare(request)
        async for data in upstream.content.iter_any():
            await response.write(data)
        return response


async def _with_session(app: web.Application) -> Any:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        app["session"] = session
        yield


def _run(kind: str, port: int, url: str) -> None:
    """The fake upstream, or the bare proxy, until the process is ended."""
    allow_connections(2 * STREAMS)
    app = web.Application()
    app["url"] = url
    if kind == "proxy":
        app.cleanup_ctx.append(_with_session)
    app.router.add_post("/v1/chat/completions", _answer if kind == "upstream" else _proxied)
    app.router.add_get("/health", lambda _: web.Response())
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None, backlog=4096)


def _body(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "say something"}], "stream": True, **more}


async def _first_tokens(session: aiohttp.ClientSession, url: str) -> list[float]:
    """Milliseconds until the first byte of each answer, `RATE` requests a second."""

    async def one() -> float:
        began = time.perf_counter()
        async with session.post(f"{url}/v1/chat/completions", json=_body()) as response:
            await response.content.readany()
            took = time.perf_counter() - began
            await response.read()
            assert response.status == 200
            return 1e3 * took

    began, tasks = time.perf_counter(), []
    for k in range(int(RATE * SECONDS)):
        await asyncio.sleep(max(0.0, began + k / RATE - time.perf_counter()))
        tasks.append(asyncio.create_task(one()))
    return list(await asyncio.gather(*tasks))


async def _hold(session: aiohttp.ClientSession, url: str, pid: int) -> dict[str, float]:
    """Memory of the process (MiB) before and with `STREAMS` open streams."""
    before, opened = _mib(pid), []

    async def one() -> None:
        response = await session.post(f"{url}/v1/chat/completions", json=_body(hold=True))
        await response.content.readany()
        opened.append(response)

    for k in range(0, STREAMS, 100):
        await asyncio.gather(*(one() for _ in range(min(100, STREAMS - k))))
    held = _mib(pid)
    for response in opened:
        response.close()
    for _ in range(600):
        async with session.get(f"{url}/metrics") as metrics:
            if "num_requests_running 0.0" in await metrics.text():
                break
        await asyncio.sleep(0.1)
    else:
        raise AssertionError("slots were not given back")
    return {"before_mib": before, "with_streams_mib": held}


def _mib(pid: int) -> float:
    with Path(f"/proc/{pid}/status").open(encoding="ascii") as file:
        (line,) = (line for line in file if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def _measure(urls: dict[str, str], layer_pid: int) -> dict[str, Any]:
    medians: dict[str, list[float]] = {name: [] for name in urls}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for url in urls.values():
            for _ in range(300):
                try:
                    async with session.get(f"{url}/health"):
                        break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)
        for _ in range(ROUNDS):
            for name, url in urls.items():
                medians[name].append(statistics.median(await _first_tokens(session, url)))
            print({name: round(values[-1], 2) for name, values in medians.items()}, flush=True)
        # The quietest round of each: what others do on the machine only adds.
        best = {name: min(values) for name, values in medians.items()}
        added = {name: best[name] - best["direct"] for name in ("proxy", "layer")}
        memory = await _hold(session, urls["layer"], layer_pid)
    return {
        "median_ttft_ms": best,
        "added_ms": added,
        "ratio_to_proxy": best["layer"] / best["proxy"],
        **memory,
    }


def main() -> int:
    """Measure, print, and say whether the bounds hold."""
    allow_connections(2 * STREAMS)
    ports = {name: free_port() for name in ("direct", "proxy", "layer")}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    here = [sys.executable, "-m", "tests.benchmarks.serve"]
    commands = {
        "direct": [*here, "upstream", str(ports["direct"]), ""],
        "proxy": [*here, "proxy", str(ports["proxy"]), urls["direct"]],
        "layer": [sys.executable, "-m", "seqsched", "serve", "--upstream", urls["direct"], "--slots", "4000"],
    }
    commands["layer"] += ["--port", str(ports["layer"])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["sim/facade", "."])}
    with ExitStack() as stack:
        started = {}
        for name, command in commands.items():
            started[name] = stack.enter_context(subprocess.Popen(command, env=environment))
            stack.callback(started[name].terminate)
        found = asyncio.run(_measure(urls, started["layer"].pid))
    print(json.dumps(found))
    return int(found["added_ms"]["layer"] > MOST_ADDED_MS or found["with_streams_mib"] > MOST_MIB)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _run(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    else:
        sys.exit(main())
