"""What `make serve-test` makes of logs and clocks; no server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

from tests.real.serving.upstream import Fake, listening
from tests.servers.continuations import cut, said_by
from tests.servers.gain import Gain, Noise, gains
from tests.servers.overload import SHORTEST, Case, Rounds, overload, rows_of
from tests.servers.serve import SENT_AT_ONCE, TOLD, essence
from tests.servers.server_clock import ServerClock
from tests.servers.starvation_bound import CLOSE_S, breaches, overtaken_s, told

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what a process has used")


def busy(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


@on_linux
def test_the_servers_clock_goes_while_it_works(tmp_path: Path) -> None:
    clock = ServerClock(os.getpid())
    with clock.running():
        began = time.time()
        busy(0.2)
        worked = time.time()
        time.sleep(0.2)
        slept = time.time()
    assert 0.15 < clock.at(worked) - clock.at(began) < 0.35
    assert clock.at(slept) - clock.at(worked) < 0.1
    (log := tmp_path / "log.jsonl").write_text(json.dumps(row(began, began, slept, tokens=3)) + "\n")
    moved = json.loads(clock.by_this(log, tmp_path / "moved.jsonl").read_text())
    assert moved["output_tokens"] == 3 and moved["finish_s"] == pytest.approx(clock.at(slept))
    assert moved["e2el_ms"] == pytest.approx(1e3 * (clock.at(slept) - clock.at(began)))
    assert moved["tpot_ms"] == pytest.approx((moved["e2el_ms"] - moved["ttft_ms"]) / 2)


def row(arrival_s: float, scheduled_s: float, finish_s: float, tokens: int = 2) -> dict[str, Any]:
    e2el_ms = 1e3 * (finish_s - arrival_s)
    times = {"arrival_s": arrival_s, "scheduled_s": scheduled_s, "finish_s": finish_s}
    return {**times, "output_tokens": tokens, "ttft_ms": e2el_ms / 2, "e2el_ms": e2el_ms}


def test_a_bound_is_broken_by_who_goes_before_one_that_waited_too_long() -> None:
    first = [row(0.0, 0.0, 5.0), row(0.1, 9.0, 10.0), row(0.2, 5.0, 9.0)]
    assert breaches(first, bound_s=10.0) == 0
    assert breaches(first, bound_s=3.0) == 1
    in_order = [row(0.0, 0.0, 5.0), row(0.1, 5.0, 9.0), row(0.2, 9.0, 10.0)]
    assert breaches(in_order, bound_s=3.0) == 0


def began(arrival_s: float, first_s: float) -> dict[str, Any]:
    return {"arrival_s": arrival_s, "ttft_ms": 1e3 * (first_s - arrival_s)}


def test_who_is_overtaken_is_found_by_first_tokens() -> None:
    rows = [began(0.0, 9.0), began(1.0, 2.0), began(3.0, 4.0), began(8.995, 9.01), began(9.5, 9.6)]
    assert overtaken_s(rows) == pytest.approx([1.0, 3.0])
    assert overtaken_s(sorted(rows, key=lambda row: -row["ttft_ms"])) == pytest.approx([1.0, 3.0])


def gain(measured: list[float], predicted: list[float], *others: tuple[list[float], list[float]]) -> Gain:
    noise = Noise.of([(measured, predicted), *others])
    return Gain(measured, predicted, [0.0] * len(measured), (0.2, 0.4), noise)


def test_a_gain_is_missed_by_more_than_a_tenth_and_than_chance_explains() -> None:
    within = gain([0.31, 0.31], [0.33, 0.33])
    assert within.is_within_a_tenth and not within.is_missed and within.verdict.endswith("met")
    assert gain([0.29, 0.29], [0.33, 0.33]).is_missed
    assert gain([0.45, 0.45], [0.33, 0.33]).is_missed
    scattered = gain([0.24, 0.34, 0.27], [0.33, 0.33, 0.33])
    assert not scattered.is_within_a_tenth and not scattered.is_missed
    assert scattered.verdict.endswith("within chance")
    # By Student's t with two degrees of freedom: 2.92 times 0.01, over the root of 3.
    close = gain([0.24, 0.25, 0.26], [0.33, 0.33, 0.33])
    assert close.is_missed and close.verdict == "+8.0 ± 1.7 points; a tenth is 2.5: missed"
    assert "25.0% ± 1.7; pilot 33.0% ± 0.0, other requests 20 to 40 %" in str(close)


def test_what_ran_once_is_as_unsure_as_what_ran_more_often() -> None:
    alone = gain([0.28], [0.245])
    assert alone.noise.freedom == 0 and alone.is_missed
    others = ([0.254, 0.230, 0.218], [0.246, 0.245, 0.247])
    beside = gain([0.28], [0.245], others)
    assert beside.noise.freedom == 2 and not beside.is_missed
    assert not gain([0.28], [0.245], ([0.25, 0.25, 0.251], [0.246, 0.246, 0.247])).is_within_a_tenth
    assert gain([0.28], [0.245], ([0.25, 0.25, 0.251], [0.246, 0.246, 0.247])).is_missed


def event(text: str | None = None, **others: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    fields = {"id": time.time(), "choices": [{"index": 0, "delta": {"role": None, **delta}, **others}]}
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def test_an_answer_is_the_same_in_other_pieces_and_without_nulls() -> None:
    one = event("a") + event("b") + event("c", finish_reason="stop") + b"data: [DONE]\n\n"
    two = event("ab", stop_reason=None) + event("c", finish_reason="stop") + b"data: [DONE]\n\n"
    for other, is_same in (
        (two, True),
        (two.replace(b"ab", b"ax"), False),
        (two.replace(b"stop", b"x"), False),
    ):
        assert (essence(one, in_pieces=False) == essence(other, in_pieces=False)) == is_same
    assert essence(one, in_pieces=True) != essence(two, in_pieces=True)
    assert essence(two, in_pieces=True) == essence(event("ab") + two.split(b"\n\n", 1)[1], in_pieces=True)
    whole = b'{"id":1,"choices":[{"message":{"content":"x","refusal":null}}],"metrics":null}'
    for in_pieces in (True, False):
        assert essence(whole, in_pieces=in_pieces) == essence(
            whole.replace(b',"refusal":null', b"").replace(b',"metrics":null', b""), in_pieces=in_pieces
        )
        assert essence(whole, in_pieces=in_pieces) != essence(
            whole.replace(b'"x"', b'"y"'), in_pieces=in_pieces
        )


@on_linux
@pytest.mark.slow
def test_a_gain_comes_true_at_the_demo_server(tmp_path: Path) -> None:
    slots = ("--slots", "4", "--policy")
    case = Case(
        name="demo",
        url="demo",
        pid=os.getpid(),
        model="demo",
        slots=4,
        fcfs=(*slots, "continuous"),
        shortest=(*slots, SHORTEST),
        ran_slots=None,
        extra={},
        in_pieces=True,
    )
    assert len(list(overload(case, 60, 80, Rounds(1, 1), tmp_path))) == 4
    learnt = gains(case, Rounds(1, 1), "wall", tmp_path)["learnt"]["mean_e2el_ms"]
    first, then = (answered(tmp_path / f"demo-{arm}-0.jsonl") for arm in ("fcfs", "learnt"))
    assert 1 - then / first == pytest.approx(learnt.predicted[0], abs=0.1) and learnt.predicted[0] > 0.2
    assert abs(learnt.replay[0]) < 0.3


@pytest.mark.slow
def test_answers_that_run_over_are_compared(tmp_path: Path) -> None:
    with serving(Fake(continues=True, says_ids=True, scale=0.01)) as url:
        case = Case("fake", url, os.getpid(), "fake", 4, (), (), None, {}, True)
        assert len(list(overload(case, 1, 70, Rounds(0, 0), tmp_path))) == 1
        found = cut(case, 8, tmp_path)
    assert (found.cut_differ, found.cut, found.restarts) == ([], 8, 0) and found.continuations > 0
    assert str(found).startswith("with --fcr on 8 of 8 answers are the same, to 0 ")


def test_what_an_answer_says_is_told_from_what_it_shows() -> None:
    choice = {"text": "a", "finish_reason": None, "token_ids": None}
    line = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
    last = line.replace(b'"a"', b'"b"').replace(b'"finish_reason": null', b'"finish_reason": "stop"')
    assert said_by(line + last + b"data: [DONE]\n\n") == ("ab", "stop") == (said_by(line + last))
    assert said_by(json.dumps({"choices": [choice]}).encode()) == ("a", None)
    with pytest.raises(ValueError, match="token ids"):
        said_by(line.replace(b'"token_ids": null', b'"token_ids": [1]'))


@contextmanager
def serving(fake: Fake) -> Iterator[str]:
    """The URL of a fake upstream that has a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    listener = listening(fake)
    try:
        yield asyncio.run_coroutine_threadsafe(listener.__aenter__(), loop).result()
        asyncio.run_coroutine_threadsafe(listener.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@on_linux
@pytest.mark.slow
def test_an_upstream_that_goes_by_priorities_keeps_the_bound(tmp_path: Path) -> None:
    with serving(Fake(slots=2, scale=0.6)) as url:
        case = Case(
            name="fake",
            url=url,
            pid=os.getpid(),
            model="fake",
            slots=2,
            fcfs=SENT_AT_ONCE,
            shortest=TOLD,
            ran_slots=2,
            extra={"fake": {"tokens": 1000}},  # as long as they may be
            in_pieces=True,
        )
        assert len(list(overload(case, 40, 70, Rounds(1, 0), tmp_path))) == 3
        found = told(case, 40, tmp_path)
    assert found.breaches == 0 and 0 < found.furthest_s["bounded"] < found.bound_s + CLOSE_S
    assert found.furthest_s["unbounded"] > found.furthest_s["bounded"]
    assert "is broken by 0; bounded: overtaken by who came up to" in str(found)


def answered(log: Path) -> float:
    """The mean over requests of the share of all tokens that were answered when theirs were: a latency for
    which it does not matter how busy the machine is.
    """
    tokens = [each["output_tokens"] for each in sorted(rows_of(log), key=lambda each: each["finish_s"])]
    return float(np.cumsum(tokens).mean() / sum(tokens))
