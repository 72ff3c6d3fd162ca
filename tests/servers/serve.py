"""Does the layer leave a real server's answers as they are, and what does an overload gain?

    python -m tests.servers.serve --out out/serve

`make serve-test`. Starts a llama.cpp server (SmolLM2-135M-Instruct, 4 slots, one thread) on the processor.
First, prompts go to it directly and through `seqsched serve`, decoded greedily, streaming and not: every
answer must be the same, but for its number and its times. Then many are sent at once through the layer, under
several arms in turn: first come, first served; the shortest predicted first, by what the layer has learnt
from other prompts; the same with the lengths told. The simulator replays the log of the second arm under both
policies, and says what it would have gained.

A gain is that of the mean latency, counted in the tokens that the server had answered by then: all arms do
the same work, and how busy the machine was meanwhile does not matter. The exit status is 1 where an answer
differs or fails, or where the gain is more than 10 % off what was simulated. The last line of stdout is JSON.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

import aiohttp

from real.serving.keys import Keys
from real.serving.log import Log
from real.serving.serve import layer_of, server_of
from real.serving.settings import ServeSettings
from sim import simulate
from sim.cli import run_script
from tests.servers.started import free_port, llama_cpp, running
from traces.errors import InputError

SLOTS = 4
TASKS = {
    "Name a {}.": 8,
    "Write one sentence about a {}.": 24,
    "Is a {} alive? Answer yes or no.": 6,
    "Explain step by step how one would describe a {} to a child.": 64,
    "Translate into French: {}": 12,
    "Tell a story about a {} and a lighthouse.": 96,
    "List five facts about a {}.": 48,
    "What colour is a {}?": 16,
}
"""Tasks, and the most tokens that a client would allow for each; most answers end there."""
THINGS = (
    *("river", "teapot", "falcon", "violin", "glacier", "sundial", "tortoise", "comet", "bakery", "compass"),
    *("cactus", "ferry", "lantern", "meadow", "otter", "pyramid", "quilt", "robot", "saddle", "tulip"),
    *("umbrella", "volcano", "walnut", "yacht", "zebra", "anchor", "bridge", "candle", "drum", "engine"),
)
OWN = frozenset(("id", "created", "timings"))
"""Fields of an answer that are another each time."""
MOST_ERROR = 0.10
FEW = 8
"""Tokens of an answer that is compared."""
POLICIES = {
    "fcfs": ("continuous:order=fcfs", False),
    "learnt": ("continuous:order=shortest-predicted", False),
    "told": ("continuous:order=shortest-predicted", True),
}


def prompts(number: int, start: int = 0) -> list[tuple[str, int]]:
    """Prompts with their caps, whose answers are of very different lengths, no two alike."""
    every = [(task.format(thing), cap) for thing in THINGS for task, cap in TASKS.items()]
    # In an order that mixes tasks and things; 83 has no factor in common with their number, 240.
    return [every[(83 * k) % len(every)] for k in range(start, start + number)]


def body_of(prompt: str, *, stream: bool, most: int) -> dict[str, Any]:
    """The request: greedy, and without what is kept of earlier prompts, which would change its rounding."""
    return {
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": most,
        "temperature": 0.0,
        "cache_prompt": False,
        "stream": stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    }


async def ask(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any], told: int | None = None
) -> bytes:
    """The bytes of an answer."""
    headers = {} if told is None else {"X-Seqsched-Output-Tokens": str(told)}
    async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
        data = await response.read()
        if response.status != 200:
            raise InputError(f"HTTP {response.status}: {data[:200]!r}")
        return data


def essence(data: bytes) -> list[Any]:
    """What an answer, or each event of one, says, without what is another each time."""
    lines = [line[5:].strip() for line in data.splitlines() if line.startswith(b"data:")] or [data]
    said = [line.decode() if line == b"[DONE]" else json.loads(line) for line in lines]
    return [
        {name: value for name, value in each.items() if name not in OWN} if isinstance(each, dict) else each
        for each in said
    ]


async def same_answers(session: aiohttp.ClientSession, direct: str, layer: str, number: int) -> list[str]:
    """The prompts, one after the other, whose answers through the layer are others than direct ones."""
    differ = []
    for k, (prompt, cap) in enumerate(prompts(number)):
        body = body_of(prompt, stream=k % 2 == 0, most=min(cap, FEW))
        if essence(await ask(session, direct, body)) != essence(await ask(session, layer, body)):
            differ.append(prompt)
    return differ


async def overload(
    session: aiohttp.ClientSession, layer: str, number: int, lengths: dict[str, int], *, tells: bool
) -> list[float]:
    """Seconds from sending until each answer was there, all sent at once; notes the `lengths`."""

    async def one(prompt: str, cap: int) -> float:
        began = time.perf_counter()
        told = lengths[prompt] if tells else None
        answer = json.loads(await ask(session, layer, body_of(prompt, stream=False, most=cap), told))
        lengths[prompt] = answer["usage"]["completion_tokens"]
        return time.perf_counter() - began

    return list(await asyncio.gather(*(one(*each) for each in prompts(number))))


async def _measure(
    direct: str, number: int, num_overload: int, num_before: int, rounds: int, out: Path
) -> dict[str, Any]:
    found: dict[str, Any] = {"prompts": number}
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout())
    async with session:
        async with _layer(direct, "continuous:order=fcfs", out / "same.jsonl") as (url, _):
            found["differ"] = await same_answers(session, direct, url, number)
        print(f"{number - len(found['differ'])} of {number} answers are the same", flush=True)
        seconds: dict[str, list[list[float]]] = {name: [] for name in POLICIES}
        lengths: dict[str, int] = {}
        before = prompts(num_before, num_overload)
        async with _layer(direct, "continuous", out / "before.jsonl") as (url, layer):
            await asyncio.gather(
                *(ask(session, url, body_of(p, stream=False, most=cap)) for p, cap in before)
            )
            learnt = layer.predictor
        for k in range(rounds):
            for name, (policy, tells) in POLICIES.items():
                async with _layer(direct, policy, out / f"{name}-{k}.jsonl") as (url, layer):
                    layer.predictor = learnt
                    took = await overload(session, url, num_overload, lengths, tells=tells)
                    assert layer.executor.num_running == 0 and not layer.open
                seconds[name].append(took)
                print(
                    f"{name}: mean latency {statistics.fmean(took):.2f} s, longest {max(took):.2f} s",
                    flush=True,
                )
    found["overload"] = {
        name: {
            "mean_s": statistics.fmean(statistics.fmean(each) for each in took),
            "longest_s": statistics.fmean(max(each) for each in took),
            "work": statistics.fmean(work(rows_of(out / f"{name}-{k}.jsonl")) for k in range(rounds)),
        }
        for name, took in seconds.items()
    }
    return found


def rows_of(log: Path) -> list[tuple[float, int]]:
    """When each answer of a log was there, and its tokens."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [(row["finish_s"], row["output_tokens"]) for row in rows]


def work(rows: Iterable[tuple[float, int]]) -> float:
    """The mean latency of answers to requests that came at once, in the tokens that were answered by then, as
    a share of all.
    """
    ordered = [tokens for _, tokens in sorted(rows)]
    return statistics.fmean(accumulate(ordered)) / sum(ordered)


def simulated_gain(log: Path) -> float:
    """What the simulator says that the predictions in a log gain over first come, first served."""
    shares = []
    for order in ("fcfs", "shortest-predicted"):
        policy = f"continuous:max_num_seqs={SLOTS},order={order}"
        result = simulate(str(log), policy=policy, predictor="trace", request_rate=math.inf)
        shares.append(work(zip(result.requests.finish_s, result.requests.output_tokens, strict=True)))
    return shares[0] / shares[1] - 1


class _layer:
    """A layer before the server, in this process, with a log."""

    def __init__(self, direct: str, policy: str, log: Path) -> None:
        self.direct = direct
        self.log = Log(log)
        self.settings = ServeSettings(port=0, slots=SLOTS, policy=policy, max_wait_s=3600.0)

    async def __aenter__(self) -> tuple[str, Any]:
        self.entered = layer_of([self.direct], self.settings, log=self.log)
        layer = await self.entered.__aenter__()
        self.server = server_of(layer, Keys())
        self.task = asyncio.create_task(self.server.run_until_told())
        while not self.server.started:
            await asyncio.sleep(0.01)
        return self.server.url, layer

    async def __aexit__(self, *error: object) -> None:
        self.server.should_exit = True
        await self.task
        await self.entered.__aexit__(None, None, None)
        self.log.file.close()


def serve_test(
    *,
    servers_python: Path = Path(".venv-servers/bin/python"),
    num_prompts: int = 200,
    num_overload: int = 80,
    num_before: int = 160,
    rounds: int = 2,
    out: Path = Path("out/serve"),
) -> None:
    """Put a real server behind the layer, and compare.

    Parameters
    ----------
    servers_python
        The interpreter of the environment that has the llama.cpp server.
    num_prompts
        Prompts asked directly and through the layer, at most 240.
    num_overload
        Requests sent at once.
    num_before
        Other requests that the layer learns from before.
    rounds
        How often each arm is tried, in turn.
    out
        The folder for logs.
    """
    if not servers_python.exists():
        raise InputError(f"servers_python: {servers_python} is not there (make serve-test makes it)")
    out.mkdir(parents=True, exist_ok=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running(llama_cpp(servers_python.absolute(), port, SLOTS), url, out / "llama.cpp.log"):
        found = asyncio.run(_measure(url, num_prompts, num_overload, num_before, rounds, out))
    shares = {name: figures["work"] for name, figures in found["overload"].items()}
    found["gain"] = {name: shares["fcfs"] / shares[name] - 1 for name in ("learnt", "told")}
    found["simulated_gain"] = simulated_gain(out / "learnt-0.jsonl")
    print(json.dumps(found))
    error = (1 + found["simulated_gain"]) / (1 + found["gain"]["learnt"]) - 1
    if found["differ"] or abs(error) > MOST_ERROR:
        sys.exit(1)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run_script(serve_test)
