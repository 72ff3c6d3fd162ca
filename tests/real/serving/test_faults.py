"""Whatever breaks: nobody is left without a word or answered twice, and every slot is given back."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

import aiohttp

from real.serving.log import Log
from real.serving.upstreams import FAILURES_TO_OPEN
from tests.real.serving.running import Up, layer_before, with_fakes
from tests.real.serving.upstream import Fake, answer_of, listening

BROKEN = ("die", "half", "garbage", "no_end", "error")
"""What goes wrong in the middle of an answer."""


def text_of(body: bytes) -> str:
    return str(json.loads(body)["choices"][0]["message"]["content"])


def said(stream: bytes) -> tuple[str, str, bool]:
    """The text of a stream, the error in it, and whether it says that it is over."""
    text, error = "", ""
    for line in stream.splitlines():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        error = error or (event.get("error") or {}).get("message", "")
        for choice in event.get("choices", ()):
            text += choice["delta"].get("content") or ""
    return text, error, b"[DONE]" in stream


@pytest.mark.parametrize("fault", [*BROKEN, "silent"])
def test_who_got_nothing_yet_is_asked_for_again(fault: str) -> None:
    async def test(up: Up, fake: Fake) -> None:
        status, body = await up.ask("say 9", fake={"fault": fault})
        assert status == 200 and text_of(body) == "".join(answer_of("say 9", 9))
        assert len(fake.seen) == 2
        # Each time: in the end it is said.
        status, body = await up.ask("say 8", fake={"fault": fault, "always": True})
        assert status == 502 and json.loads(body)["error"]["message"]
        assert len(fake.seen) == 2 + 3

    with_fakes(test)


@pytest.mark.parametrize("fault", BROKEN)
def test_a_stream_that_breaks_off_says_so_and_is_not_begun_again(fault: str) -> None:
    async def test(up: Up, fake: Fake) -> None:
        status, body = await up.ask("say 10", stream=True, fake={"fault": fault})
        text, error, is_done = said(body)
        assert status == 200 and error and not is_done
        assert text == "".join(answer_of("say 10", 10)[:5]) and len(fake.seen) == 1

    with_fakes(test)


def test_errors_of_the_upstream_are_tried_again_then_passed_on() -> None:
    async def test(up: Up, fake: Fake) -> None:
        fake.fails = deque([500, 503])
        assert (await up.ask())[0] == 200
        fake.fails = deque([500] * 3)
        status, body = await up.ask()
        assert status == 500 and json.loads(body)["error"]["message"] == "as ordered"
        fake.fails = deque([429] * 3)
        assert (await up.ask(stream=True))[0] == 429

    with_fakes(test)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("fault", "limit"), [("stall", "idle_timeout_s"), ("hang", "timeout_s")])
def test_an_upstream_that_does_not_go_on_is_given_up(stream: bool, fault: str, limit: str) -> None:
    async def test(up: Up, fake: Fake) -> None:
        status, body = await up.ask("say 6", stream=stream, fake={"fault": fault})
        if stream and fault == "hang":
            assert status == 200 and said(body)[1]
        else:
            assert status == 504 and b"error" in body
        assert len(fake.seen) == 1

    with_fakes(test, **{limit: 0.2})


def test_another_upstream_takes_over_and_the_broken_one_is_left_alone() -> None:
    async def run() -> None:
        good, bad = Fake(), Fake()
        bad.fails = deque([500] * 1000)
        async with listening(good) as one, listening(bad) as two, layer_before(two, one) as up:
            answers = await asyncio.gather(*(up.ask(f"say {k}") for k in range(1, 60)))
            assert [status for status, _ in answers] == [200] * 59
            assert len(bad.seen) <= FAILURES_TO_OPEN + 4
            async with up.session.get(f"{up.url}/metrics") as response:
                text = await response.text()
            assert f'seqsched_upstream_up{{upstream="{two}"}} 0.0' in text
            assert f'seqsched_upstream_up{{upstream="{one}"}} 1.0' in text
            bad.fails.clear()
            up.layer.pool.upstreams[0].open_until_s = up.layer.clock()  # its pause is over
            await asyncio.gather(*(up.ask(f"say {k}") for k in range(1, 20)))
            assert up.layer.pool.upstreams[0].open_until_s is None and bad.answered > 0
            await up.idle()

    asyncio.run(run())


def test_an_upstream_that_is_down_is_waited_for_by_those_who_wait() -> None:
    async def run() -> None:
        async with listening(Fake()) as url:
            port = int(url.rpartition(":")[2])
        async with layer_before(url, slots=1, retries=0) as up:
            failed = [(await up.ask())[0] for _ in range(FAILURES_TO_OPEN)]
            assert failed == [502] * FAILURES_TO_OPEN
            async with up.session.get(f"{up.url}/health") as response:
                assert response.status == 503
            async with up.session.post(f"{up.url}/v1/completions", json={"prompt": "x"}) as response:
                assert response.status == 503 and int(response.headers["Retry-After"]) >= 1
            upstream = up.layer.pool.upstreams[0]
            async with listening(Fake(), port):
                upstream.open_until_s = up.layer.clock() + 0.2
                up.layer.quotas.max_queue = None
                up.layer.pool.capacity = lambda now: max(1, type(up.layer.pool).capacity(up.layer.pool, now))  # type: ignore[method-assign]
                assert (await up.ask())[0] == 200
                assert upstream.open_until_s is None
            await up.idle()

    asyncio.run(run())


async def vanishing(up: Up, number: int, rng: random.Random) -> int:
    """Clients that leave at any time, in their number; how many stayed to the end."""
    stayed = 0
    gate = asyncio.Semaphore(64)

    async def one(k: int) -> None:
        nonlocal stayed
        async with gate:
            leaves_s = rng.choice([None, 0.0, 0.002, 0.01, 0.05])
            fault = rng.choice(["", *BROKEN]) if rng.random() < 0.2 else ""
            asked: dict[str, Any] = {"stream": rng.random() < 0.5, "fake": {"fault": fault}}
            try:
                async with asyncio.timeout(leaves_s):
                    status, body = await up.ask(f"{k} say {rng.randint(1, 12)}", **asked)
                assert status in (200, 502, 503) and body
                stayed += 1
            except (TimeoutError, aiohttp.ClientError):
                assert leaves_s is not None

    await asyncio.gather(*(one(k) for k in range(number)))
    return stayed


@pytest.mark.parametrize("number", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_clients_that_vanish_leave_nothing_behind(number: int, tmp_path: Path) -> None:
    async def run() -> None:
        fake = Fake(slots=8)
        with Log(tmp_path / "log.jsonl") as log:
            async with listening(fake) as url, layer_before(url, slots=8, log=log, max_wait_s=2.0) as up:
                stayed = await vanishing(up, number, random.Random(1))
                await up.idle()
                assert (await up.ask("say 3"))[0] == 200
                for _ in range(500):
                    if not fake.open:
                        break
                    await asyncio.sleep(0.01)
                assert not fake.open and not fake.running
                assert len(up.layer.executor.stages) <= 1 and len(asyncio.all_tasks()) < 30
        rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
        ids = [row["request_id"] for row in rows]
        assert len(set(ids)) == len(ids) >= stayed + 1
        assert sum(row["status"] == "completed" for row in rows) <= len(rows)
        assert all(row["error"] or row["output_tokens"] for row in rows)

    asyncio.run(run())


@pytest.mark.slow
def test_killed_and_started_again_nobody_is_left_in_silence_nor_answered_twice(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"

    async def start(url: str, port: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "seqsched", "serve", "--upstream", url, "--port", port]
        process = subprocess.Popen(
            [*command, "--log", str(log)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(["sim/facade", "."])},
        )
        assert process.stderr is not None
        line = await asyncio.to_thread(process.stderr.readline)
        process.stderr.close()
        return process, line.split()[1]

    async def run() -> None:
        fake, heard = Fake(scale=1.0), list[str]()
        async with listening(fake) as url:
            process, address = await start(url, "0")

            async def ask(k: int) -> None:
                body = {"model": "fake", "messages": [{"role": "user", "content": f"{k} say 12"}]}
                try:
                    async with (
                        aiohttp.ClientSession() as session,
                        session.post(f"{address}/v1/chat/completions", json=body) as response,
                    ):
                        assert text_of(await response.read()) == "".join(answer_of(f"{k} say 12", 12))
                        heard.append("answer")
                except aiohttp.ClientError:
                    heard.append("cut off")

            asked = [asyncio.create_task(ask(k)) for k in range(40)]
            while heard.count("answer") < 10:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
            await asyncio.gather(*asked)
            assert len(heard) == 40 and 10 <= heard.count("answer") < 40
            before = heard.count("answer")
            process, address = await start(url, address.rpartition(":")[2])
            await asyncio.gather(*(ask(k) for k in range(100, 110)))
            assert heard.count("answer") == before + 10
            process.terminate()
            assert await asyncio.to_thread(process.wait) == 0
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        done = [row for row in rows if row["status"] == "completed"]
        assert len({row["request_id"] for row in rows}) == len(rows)
        assert len(done) >= before + 10 - 4  # a row is written when its answer has gone: one a slot may lack

    asyncio.run(run())
