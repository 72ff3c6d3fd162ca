"""Greedy answers are asked for again only where nobody waits; what differs is found, what is usual is not."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

from real.serving.guard import Guard
from real.serving.log import Log, mirrored_path
from real.serving.matching import FIRST_LOOK, Pairs
from real.serving.mirror import MOST_COPIES
from real.serving.quality import matches
from tests.real.serving.running import Up, with_fakes
from tests.real.serving.test_collecting import taught
from tests.real.serving.test_comparison import write_log
from tests.real.serving.upstream import Fake
from tests.sim.command import run
from traces.errors import InputError


async def copied(up: Up) -> None:
    """All copies have been compared."""
    mirror = up.layer.mirror
    assert mirror is not None
    async with asyncio.timeout(20):
        while mirror.waiting or mirror.running:
            await asyncio.sleep(0.005)


def _mirrored_log(path: Path) -> Log:
    return Log(mirrored_path(path), prefixes=False)


def counted(up: Up) -> dict[tuple[str, str], int]:
    """Compared answers, by whose they are and whether they are the same."""
    lines = [line for line in up.layer.expose().decode().splitlines() if "mirrored_answers_total{" in line]
    found = {}
    for line in lines:
        labels, value = line.split("{")[1].split("} ")
        who, is_same = (label.split('"')[1] for label in labels.split(","))
        found[who, is_same] = int(float(value))
    return found


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("chat", [True, False])
def test_answers_are_asked_for_again_and_only_hashes_are_kept(
    chat: bool, stream: bool, tmp_path: Path
) -> None:
    async def test(up: Up, fake: Fake) -> None:
        await asyncio.gather(
            *(up.ask(f"words {k} 7", chat=chat, stream=stream, temperature=0) for k in range(20))
        )
        await copied(up)
        found = counted(up)
        assert found["policy", "true"] == 20 and set(found) == {("policy", "true"), ("plain", "true")}
        assert 0 < found["plain", "true"] < 20
        assert len(fake.seen) == 40 + found["plain", "true"]
        assert up.layer.quotas.open == {} and len(up.layer.report.recent) == 20

    with Log(tmp_path / "log.jsonl") as log, _mirrored_log(tmp_path / "log.jsonl") as mirrored:
        with_fakes(test, mirror=1.0, log=log, mirrored_log=mirrored, concurrency_per_key=25)
    text = mirrored_path(tmp_path / "log.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == 20 and all(row["served"] == row["plain"] for row in rows)
    assert "alpha" not in text and "words" not in text
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 20


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.5},
        {"temperature": False},
        {"temperature": 0, "tools": [{"type": "function"}]},
        {"temperature": 0, "n": 2},
        {"temperature": 0, "headers": {"Authorization": "Bearer sk-client"}},
        {"temperature": 0, "headers": {"Api-Key": "sk-client"}},
        {"temperature": 0, "headers": {"Cookie": "session=client"}},
    ],
)
def test_what_is_not_greedy_acts_or_costs_a_client_is_not_asked_again(fields: dict[str, Any]) -> None:
    async def test(up: Up, fake: Fake) -> None:
        assert (await up.ask(**fields))[0] == 200
        await copied(up)
        assert len(fake.seen) == 1

    with_fakes(test, mirror=1.0)


def test_a_copy_is_a_request_of_its_own() -> None:
    async def test(up: Up, fake: Fake) -> None:
        names = {"X-Request-Id": "r1", "Idempotency-Key": "i1", "X-Kept": "k1"}
        assert (await up.ask(temperature=0, headers=names))[0] == 200
        await copied(up)
        first, *copies = ({name for name in names if name in headers} for headers in fake.headers)
        assert first == set(names) and copies and all(copy == {"X-Kept"} for copy in copies)

    with_fakes(test, mirror=1.0, upstream_key="sk-upstream")


@pytest.mark.parametrize("stream", [True, False])
def test_answers_that_were_cut_or_begun_again_are_compared_as_a_whole(stream: bool) -> None:
    async def test(up: Up, fake: Fake) -> None:
        await taught(up, fake)
        for tokens in (5, 45, 90):
            asked: dict[str, Any] = {"max_tokens": 300, "chat": False, "temperature": 0, "stream": stream}
            assert (await up.ask(f"long {tokens}", **asked))[0] == 200
        await copied(up)
        assert counted(up)["policy", "true"] == 3 and b"restarts_total 1.0" in up.layer.expose()
        assert all(is_same == "true" for _, is_same in counted(up))

    with_fakes(test, {"continues": True, "misreads": 60}, fcr="on", mirror=1.0)


def test_a_share_is_asked_again() -> None:
    async def test(up: Up, fake: Fake) -> None:
        for k in range(5):
            await asyncio.gather(*(up.ask(f"{k} {i} 1", temperature=0) for i in range(40)))
            await copied(up)
        assert 10 <= counted(up)["policy", "true"] <= 80

    with_fakes(test, mirror=0.2)


def test_copies_give_way_to_clients_and_come_again() -> None:
    async def test(up: Up, fake: Fake) -> None:
        mirror = up.layer.mirror
        assert mirror is not None
        await up.ask("long 400", temperature=0)
        while not mirror.running:
            await asyncio.sleep(0.001)
        while fake.open < 1:
            await asyncio.sleep(0.001)
        asked = asyncio.create_task(up.ask("short 3"))
        while "short 3" not in fake.order:
            await asyncio.sleep(0.001)
        # The only slot was free at once: the copy has been hung up on.
        assert up.layer.report.recent[-1].output_tokens == 400 and not mirror.running
        assert len(mirror.waiting) == 1
        await asked
        assert up.layer.report.recent[-1].wait_s < 0.05
        await copied(up)
        assert counted(up)["policy", "true"] == 1 and fake.order.count("long 400") >= 3

    with_fakes(test, {"slots": 2}, mirror=1.0, slots=1)


def test_no_copy_is_sent_while_somebody_waits_and_few_are_kept() -> None:
    async def test(up: Up, fake: Fake) -> None:
        mirror = up.layer.mirror
        assert mirror is not None
        asked = [asyncio.create_task(up.ask(f"{k} 4", temperature=0)) for k in range(MOST_COPIES + 20)]
        while not up.layer.executor.waiting:
            await asyncio.sleep(0)
        while up.layer.executor.waiting:
            assert not mirror.running
            await asyncio.sleep(0)
        await asyncio.gather(*asked)
        await copied(up)
        left_out = float(up.layer.expose().split(b"\nseqsched_mirrored_left_out_total ")[1].split(b"\n")[0])
        assert 15 <= left_out <= 20 and counted(up)["policy", "true"] == MOST_COPIES + 20 - left_out

    with_fakes(test, mirror=1.0, slots=2)


def test_copies_go_to_the_server_that_answered() -> None:
    async def test(up: Up, *fakes: Fake) -> None:
        await asyncio.gather(*(up.ask(f"{k} 4", temperature=0) for k in range(8)))
        await copied(up)
        for fake in fakes:
            assert fake.order and {fake.order.count(prompt) for prompt in fake.order} <= {2, 3}
        assert not set(fakes[0].order) & set(fakes[1].order)

    with_fakes(test, {}, {}, mirror=1.0, slots=2)


def test_an_engine_that_differs_from_itself_is_no_fault_of_the_policy() -> None:
    async def test(up: Up, fake: Fake) -> None:
        guard = up.layer.guard
        assert guard is not None
        k = 0
        while guard.matched is None:
            k += 1
            await asyncio.gather(*(up.ask(f"{k} {i} 2", temperature=0) for i in range(10)))
            await copied(up)
        assert guard.matched.excess is not None and not guard.matched.finding and not guard.reason
        assert set(counted(up)) == {(who, "false") for who in ("policy", "fcfs", "plain")}

    with_fakes(test, {"drifts": True, "continues": True}, mirror=1.0, share=0.5, guard=True)


def test_copies_that_fail_are_left_out() -> None:
    async def test(up: Up, fake: Fake) -> None:
        await up.ask("say 3", temperature=0)
        fake.fails.extend([500] * 3)
        await copied(up)
        assert counted(up) == {} and b"seqsched_mirrored_left_out_total 1.0" in up.layer.expose()
        assert not up.layer.pool.upstreams[0].num_failures

    with_fakes(test, mirror=1.0, idle_timeout_s=1.0)


def filled(rng: np.random.Generator, number: int, policy: float, other: float) -> tuple[Pairs, bool]:
    """Answers of both arms that are the same with these probabilities; whether any look found more."""
    pairs, is_found = Pairs(), False
    for k in range(number):
        who, chance = ("policy", policy) if k % 2 else ("fcfs", other)
        if pairs.add(who, bool(rng.random() < chance)):
            is_found |= bool(pairs.look(0.2).finding)
    return pairs, is_found


def test_equal_arms_are_hardly_ever_found_to_differ_at_any_look() -> None:
    rng = np.random.default_rng(1)
    worlds = 400
    wrong = sum(filled(rng, 1600, 0.9, 0.9)[1] for _ in range(worlds))
    assert wrong / worlds <= 0.2 + 3 * (0.16 / worlds) ** 0.5


def test_more_answers_that_are_others_are_found_and_counted() -> None:
    pairs, is_found = filled(np.random.default_rng(2), 1600, 0.8, 0.95)
    look = pairs.look()
    assert is_found and look.finding.endswith("more greedy answers are others under the policy")
    assert look.excess is not None and look.excess[1] < 0.15 < look.excess[2]
    rate = look.rates["policy"]
    assert rate.interval[0] < 0.8 < rate.interval[1] and rate.total == 800
    fewer, is_found = filled(np.random.default_rng(3), 1600, 0.95, 0.8)
    assert not is_found and "down to" in fewer.look().text


def test_the_guard_stops_a_policy_whose_answers_are_others() -> None:
    guard = Guard(is_mirrored=True)
    for k in range(4 * FIRST_LOOK):
        guard.compared("policy", k % 2 == 0)
        guard.compared("fcfs", True)
        guard.compared("plain", True)
        assert bool(guard.reason) == (guard.matched is not None)
    assert "48.0 % more greedy answers are others under the policy" in guard.reason


def write_mirrored(path: Path, number: int, *, differing: float = 0.0) -> None:
    rng = np.random.default_rng(4)
    with _mirrored_log(path) as log:
        for k in range(number):
            arm = "policy" if k % 2 else "fcfs"
            served = "b" if arm == "policy" and rng.random() < differing else "a"
            row = {"request_id": k, "arm": arm, "finish_s": float(k)}
            log.write({**row, "served": served, "plain": "a", "again": "a" if k % 3 else ""}, "")


def test_the_report_says_how_often_answers_are_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.jsonl"
    write_log(log, 1700)
    assert matches(log) is None
    write_mirrored(log, 150)
    assert run("quality", "report", log) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "no more answers are others under the policy, down to" in said
    assert run("quality", "report", log, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mirrored"]["policy"]["same"] == found["mirrored"]["policy"]["total"] == 50
    assert found["mirrored"]["plain"]["total"] == 66 and len(found["looks"]) == 4
    mirrored_path(log).unlink()
    write_mirrored(log, 1000, differing=0.4)
    assert run("quality", "report", log) == 1
    assert "more greedy answers are others" in " ".join(capsys.readouterr().out.split())


def test_without_two_arms_the_report_says_what_answers_were_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.jsonl"
    write_log(log, 60)
    write_mirrored(log, 30)
    assert run("quality", "report", log) == 0
    out, err = capsys.readouterr()
    assert "too few copies" in " ".join(out.split())
    assert err.startswith("seqsched: note: ") and "a comparison needs 200 in all" in err
    mirrored_path(log).write_text('{"request_id": 1, "arm": "x"}\n')
    with pytest.raises(InputError, match="has no column finish_s"):
        matches(log)
