"""Who goes first, who is not let in, and what waiting is bounded by, as clients see it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

import traces
from real.serving.keys import Key, Keys, digest, read_keys
from real.serving.log import Log
from real.serving.quotas import Quotas
from tests.real.serving.running import Up, layer_before, with_fakes
from tests.real.serving.upstream import Fake, listening
from traces.errors import InputError
from traces.trace import MOST_CLASSES


async def in_order(up: Up, fake: Fake, asked: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Ask one after the other behind one that takes its time; the order in which they reach the upstream."""
    blocker = asyncio.create_task(up.ask("blocker 40"))
    while not fake.order:
        await asyncio.sleep(0.005)
    tasks = []
    for prompt, more in asked:
        tasks.append(asyncio.create_task(up.ask(prompt, **more)))
        for _ in range(200):
            if len(up.layer.executor.waiting) == len(tasks):
                break
            await asyncio.sleep(0.005)
    await asyncio.gather(blocker, *tasks)
    return fake.order[1:]


def told(tokens: int, **headers: str) -> dict[str, Any]:
    return {"headers": {"X-Seqsched-Output-Tokens": str(tokens), **headers}}


def test_the_important_pass_by_header_field_and_model() -> None:
    async def test(up: Up, fake: Fake) -> None:
        order = await in_order(
            up,
            fake,
            [
                ("long 3", told(900)),
                ("short 3", told(10)),
                ("field 3", {**told(700), "priority": -1}),
                ("header 3", told(800, **{"X-Seqsched-Priority": "-2"})),
                ("model 3", {**told(950), "model": "vip"}),
                ("lowly 3", {**told(1), "priority": 5}),
            ],
        )
        assert order == ["model 3", "header 3", "field 3", "short 3", "long 3", "lowly 3"]

    with_fakes(test, {"scale": 0.3}, slots=1, priority=("vip=-3",))


def test_a_key_may_lower_what_it_sends_but_not_raise_it() -> None:
    keys = Keys((Key("gold", digest("g"), -1), Key("free", digest("f"), 1)))

    async def run() -> None:
        fake = Fake(scale=0.3)
        async with listening(fake) as url, layer_before(url, slots=1, keys=keys) as up:
            bearer = lambda key, **more: {  # noqa: E731
                "headers": {"Authorization": f"Bearer {key}", "X-Seqsched-Output-Tokens": "9", **more}
            }
            up.session.headers["Authorization"] = "Bearer g"
            order = await in_order(
                up,
                fake,
                [
                    ("free 3", bearer("f")),
                    ("pushy 3", bearer("f", **{"X-Seqsched-Priority": "-9"})),
                    ("modest 3", bearer("g", **{"X-Seqsched-Priority": "7"})),
                    ("gold 3", bearer("g")),
                ],
            )
            assert order == ["gold 3", "free 3", "pushy 3", "modest 3"]
            await up.idle()

    asyncio.run(run())


@pytest.mark.parametrize(("aging_s", "place"), [(0, 3), (1e-6, 0)])
def test_levels_age_under_an_order_that_weighs_them(aging_s: float, place: int) -> None:
    async def test(up: Up, fake: Fake) -> None:
        asked = [("old 3", {"priority": 1})] + [(f"new{k} 3", {"priority": 0}) for k in range(3)]
        assert (await in_order(up, fake, asked)).index("old 3") == place

    policy = f"continuous:order=priority,aging_s={aging_s}"
    with_fakes(test, {"scale": 0.3}, slots=1, policy=policy)


def test_nobody_waits_beyond_the_bound_while_others_pass() -> None:
    async def test(up: Up, fake: Fake) -> None:
        done: list[str] = []

        async def one(prompt: str, tokens: int) -> None:
            await up.ask(prompt, **told(tokens))
            done.append(prompt)

        async def stream_of_short() -> None:
            for k in range(60):
                asyncio.get_running_loop().create_task(one(f"{k} 3", 3))
                await asyncio.sleep(0.01)

        shorts = asyncio.create_task(stream_of_short())
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await one("long 3", 900)
        waited = time.monotonic() - began
        assert 0.2 < waited < 0.6 and len(done) < 55  # the bound, and a slot that falls free
        await shorts
        assert b"seqsched_overdue_requests_total 0.0" not in up.layer.expose()
        assert b"seqsched_starvation_bound_seconds 0.25" in up.layer.expose()

    with_fakes(test, {"scale": 0.6}, slots=1, max_wait_s=0.25)


def test_an_upstream_that_is_told_overtakes_nobody_by_more_than_the_bound() -> None:
    bound_s, began_s = 0.3, dict[str, float]()

    async def test(up: Up, fake: Fake) -> None:
        async def one(prompt: str, tokens: int) -> None:
            arrived_s[prompt] = time.monotonic()
            await up.ask(prompt, **told(tokens))
            ended.append(prompt)

        arrived_s, ended = dict[str, float](), list[str]()
        blocker = asyncio.create_task(up.ask("blocker 9", **told(1)))
        while not fake.order:
            await asyncio.sleep(0.002)
        tasks = [asyncio.create_task(one("long 3", 900))]
        for k in range(50):
            await asyncio.sleep(0.012)
            tasks.append(asyncio.create_task(one(f"{k} 3", 3)))
        await asyncio.gather(blocker, *tasks)
        began_s.update(arrived_s)
        before = ended[: ended.index("long 3")]
        lead_s = [arrived_s[prompt] - arrived_s["long 3"] for prompt in before]
        assert 0.4 * bound_s < max(lead_s) < bound_s + 0.05 and len(before) < 50

    with_fakes(test, {"scale": 0.8, "slots": 1}, slots=1, act="tell", max_wait_s=bound_s, max_new_tokens=1000)
    assert len(began_s) == 51


def test_who_is_not_sent_by_its_deadline_hears_so() -> None:
    async def test(up: Up, fake: Fake) -> None:
        blocker = asyncio.create_task(up.ask("blocker 60"))
        while not fake.order:
            await asyncio.sleep(0.005)
        began = time.monotonic()
        status, body = await up.ask(headers={"X-Seqsched-Deadline-S": "0.05"})
        assert status == 504 and b"deadline" in body and time.monotonic() - began < 0.5
        assert (await blocker)[0] == 200
        assert (await up.ask(headers={"X-Seqsched-Deadline-S": "5"}))[0] == 200
        assert len(fake.seen) == 2

    for policy in ("continuous", "sequence:max_wait_s=0.01", "vanilla"):
        with_fakes(test, {"scale": 0.3}, slots=1, policy=policy)


BOUNDED: list[tuple[str, dict[str, str]]] = [
    ("none 3", {}),
    ("late 3", {"x-llm-d-slo-ttft-ms": "90000", "X-LLM-D-SLO-TPOT-ms": "1e4"}),
    ("soon 3", {"X-SLO-TTFT-MS": "50000", "x-slo-tpot-ms": "0"}),
    ("whole 3", {"X-Seqsched-SLO-E2EL-ms": "70000"}),
    ("missed 3", {"x-llm-d-slo-ttft-ms": "0.001", "x-seqsched-slo-e2el-ms": "60000"}),
]
"""Prompts whose clients state bounds by llm-d's headers, by the names that these had before, and by ours."""


def test_bounds_that_clients_state_order_the_queue_and_stand_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"

    async def test(up: Up, fake: Fake) -> None:
        order = await in_order(up, fake, [(prompt, {"headers": headers}) for prompt, headers in BOUNDED])
        assert [prompt.split()[0] for prompt in order] == ["missed", "soon", "whole", "late", "none"]
        await up.idle()
        counted = up.layer.expose().decode().splitlines()
        for latency, is_met, count in (
            *(("ttft", "true", 2), ("ttft", "false", 1), ("tpot", "true", 1), ("e2el", "true", 2)),
            *(("all", "true", 3), ("all", "false", 1)),
        ):
            labels = f'is_met="{is_met}",latency="{latency}",model_name="fake",slo_class=""'
            assert f"seqsched_request_slo_total{{{labels}}} {count}.0" in counted

    with Log(path, texts=True) as log:
        with_fakes(test, {"scale": 0.3}, slots=1, policy="continuous:order=deadline", log=log)
    trace = traces.load(path)
    assert trace.prompt is not None
    rows = {prompt.split()[0]: k for k, prompt in enumerate(trace.prompt.tolist())}
    stated = {
        name: [None if np.isnan(b[k]) else b[k] for b in trace.slos.values()] for name, k in rows.items()
    }
    assert list(trace.slos) == ["ttft_slo_ms", "tpot_slo_ms", "e2el_slo_ms"]
    assert stated == {
        "blocker": [None, None, None],
        "none": [None, None, None],
        "late": [90000, 10000, None],
        "soon": [50000, None, None],
        "whole": [None, None, 70000],
        "missed": [0.001, None, 60000],
    }


def test_classes_are_those_of_the_header_or_else_of_the_key(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("gold g 0 people\nfree f\n", encoding="utf-8")
    keys, path = read_keys(tmp_path / "keys"), tmp_path / "log.jsonl"

    async def run() -> None:
        with Log(path) as log:
            async with listening(Fake()) as url, layer_before(url, keys=keys, log=log) as up:
                for bearer, more in (
                    ("g", {}),
                    ("g", {"X-Seqsched-SLO-Class": "caf%C3%A9", "x-llm-d-slo-ttft-ms": "90000"}),
                    ("f", {"x-llm-d-slo-ttft-ms": "0.001"}),
                    ("f", {"X-Seqsched-SLO-Class": " "}),
                ):
                    status, _ = await up.ask(headers={"Authorization": f"Bearer {bearer}", **more})
                    assert status == 200
                for name in ("all", "x" * 65, "a%0Ab"):
                    headers = {"Authorization": "Bearer f", "X-Seqsched-SLO-Class": name}
                    status, body = await up.ask(headers=headers)
                    assert status == 400 and b"x-seqsched-slo-class is not a name of 1 to 64" in body
                async with up.session.get(f"{up.url}/status", headers={"Authorization": "Bearer g"}) as got:
                    assert (await got.json())["slos"] == [["all", 2, 1], ["caf\xe9", 1, 1]]
                await up.idle()

    asyncio.run(run())
    trace = traces.load(path)
    assert trace.slo_class is not None and trace.slo_class.tolist() == ["people", "caf\xe9", "", ""]


def test_a_log_is_a_trace_where_some_state_a_deadline(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"

    async def test(up: Up, fake: Fake) -> None:
        for headers in ({"X-Seqsched-Deadline-S": "50"}, {}):
            assert (await up.ask(headers=headers))[0] == 200

    with Log(path) as log:
        with_fakes(test, log=log)
    deadline_s = traces.load(path).deadline_s
    assert deadline_s is not None and deadline_s.tolist() == [pytest.approx(50, abs=1e-3), np.inf]


def test_no_more_classes_are_told_apart_than_a_trace_may_have(tmp_path: Path) -> None:
    path, counted = tmp_path / "log.jsonl", dict[str, int]()

    async def test(up: Up, fake: Fake) -> None:
        for k in range(MOST_CLASSES + 2):
            await up.ask("say 1", headers={"X-Seqsched-SLO-Class": f"c{k}"})
        await up.idle()
        found = re.findall(
            r'e2e_request_latency_seconds_count{model_name="fake",slo_class="(.*?)"} (\d+)',
            up.layer.expose().decode(),
        )
        counted.update({name: int(count) for name, count in found})

    with Log(path) as log:
        with_fakes(test, {"scale": 0.0}, log=log)
    trace = traces.load(path)
    assert trace.slo_class is not None and trace.slo_class.tolist()[-4:] == [
        f"c{MOST_CLASSES - 2}",
        *3 * ["other"],
    ]
    assert len(counted) == MOST_CLASSES and counted["other"] == 3


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", "", "1_0", "0x10", "1e13", "5,6"])
def test_what_is_no_bound_is_refused(text: str) -> None:
    async def test(up: Up, fake: Fake) -> None:
        status, body = await up.ask(headers={"x-llm-d-slo-ttft-ms": text})
        assert status == 400
        assert b"x-llm-d-slo-ttft-ms is not a number of milliseconds from 0 to " in body
        assert not fake.seen

    with_fakes(test)


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    async def test(up: Up, fake: Fake) -> None:
        answers = await asyncio.gather(*(up.ask(f"{k} 9") for k in range(12)))
        assert sorted(status for status, _ in answers) == [200] * 5 + [429] * 7
        assert (await up.ask())[0] == 200

    with_fakes(test, slots=2, max_queue=3)


def test_limits_of_a_key() -> None:
    quotas = Quotas(rate_per_key=2.0, concurrency_per_key=30)
    assert [quotas.enter("a", 0.0, 0, 1.0) for _ in range(20)] == [None] * 20  # ten seconds' worth
    refusal = quotas.enter("a", 0.0, 0, 1.0)
    assert refusal is not None and refusal.retry_after_s == 0.5
    assert quotas.enter("b", 0.0, 0, 1.0) is None
    assert quotas.enter("a", 0.5, 0, 1.0) is None and quotas.enter("a", 0.5, 0, 1.0) is not None
    assert [quotas.enter("a", 100.0, 0, 1.0) is None for _ in range(11)] == [True] * 9 + [False] * 2
    for _ in range(30):
        quotas.leave("a")
    assert quotas.enter("a", 100.0, 0, 1.0) is None and quotas.open == {"a": 1, "b": 1}


def test_no_key_is_in_a_log_or_an_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys").write_text("alice sk-secret-1 # hers\nbob sk-secret-2 -1\n")
    keys = read_keys(tmp_path / "keys")
    assert "secret" not in repr(keys.keys)
    seen = bytearray()

    async def run() -> None:
        fake = Fake()
        with Log(tmp_path / "log.jsonl", texts=True) as log:
            async with (
                listening(fake) as url,
                layer_before(url, keys=keys, log=log, upstream_key="sk-secret-up", retries=0) as up,
            ):
                for bearer in ("sk-secret-1", "sk-secret-2", "sk-secret-wrong"):
                    for fault in ("", "die", "garbage", "error", "silent"):
                        headers = {"Authorization": f"Bearer {bearer}"}
                        _, body = await up.ask(headers=headers, fake={"fault": fault, "always": True})
                        seen.extend(body)
                seen.extend(up.layer.expose())
                await up.idle()

    asyncio.run(run())
    rows = (tmp_path / "log.jsonl").read_text()
    assert {json.loads(line)["user"] for line in rows.splitlines()} == {"alice", "bob"}
    assert "secret" not in rows and b"secret" not in seen and "secret" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a\n", "line 1: 1 words"),
        ("a k x\n", "line 1: the priority"),
        ("a k 0 all\n", "line 1: the class is not a name of 1 to 64"),
        ("a k 0 b c\n", "line 1: 5 words"),
        ("a k\na l\n", "line 2: the name a"),
        ("#\n", "no key"),
    ],
)
def test_a_file_of_keys_that_is_none(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(InputError, match=why):
        read_keys(tmp_path / "keys")


def test_an_upstream_that_is_told_orders_by_itself() -> None:
    async def test(up: Up, fake: Fake) -> None:
        fake.slots = 1
        asked = [("blocker 40", 1), ("c 3", 900), ("a 3", 5), ("b 3", 70)]
        tasks = []
        for prompt, tokens in asked:
            tasks.append(asyncio.create_task(up.ask(prompt, **told(tokens))))
            await asyncio.sleep(0.02)
        ended = []
        for task in tasks:
            task.add_done_callback(lambda done: ended.append(tasks.index(done)))
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)
        said = [body["priority"] for body in fake.seen]
        assert said[2] < said[3] < said[1]
        assert ended == [0, 2, 3, 1]

    with_fakes(test, {"scale": 0.3}, act="tell")


def test_an_upstream_that_takes_no_priority_is_told_none() -> None:
    async def test(up: Up, fake: Fake) -> None:
        for _ in range(3):
            assert (await up.ask())[0] == 200
        assert [("priority" in body, "stream_options" in body) for body in fake.seen] == [
            (True, True), (False, True), (False, True), (False, True)
        ]  # fmt: skip

    with_fakes(test, {"takes_priority": False}, act="tell")
