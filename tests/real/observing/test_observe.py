"""A client beside a server whose behaviour is known."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("aiohttp", reason="needs the extra serve")

from real.observing.api import Target, client
from real.observing.observation import Observation, observation
from real.observing.observe import observe
from real.observing.sending import Order, Sent, send
from sim.scenario.settings import WorkloadSettings
from sim.studies.server_log import against, read_log
from tests.real.observing.server import Behaviour, serving
from traces.errors import InputError
from traces.trace import Trace


def trace(outputs: list[int], arrival_s: list[float] | None = None, **columns: Any) -> Trace:
    n = len(outputs)
    times = np.arange(n) / 100 if arrival_s is None else np.array(arrival_s)
    prompts = np.full(n, 40)
    return Trace("made", np.arange(n), prompts, np.array(outputs), arrival_s=times, **columns)


def watch(does: Behaviour, requests: Trace, **options: Any) -> Observation:
    workload = {k: options.pop(k) for k in ("max_concurrency", "goodput", "max_new_tokens") if k in options}
    with serving(does) as url:
        return observe(url, WorkloadSettings(trace=requests, **workload), **options)


def test_what_was_measured_is_what_the_server_did() -> None:
    does = Behaviour(first_s=0.05, gap_s=0.02)
    watched = watch(does, trace([5, 1, 3, 8]), goodput={"ttft": 5000})
    log, figures = watched.log, watched.summary
    assert figures["completed"] == 4 and figures["failed"] == 0 and figures["failed_reason"] is None
    assert log.output_tokens.tolist() == [5, 1, 3, 8] and figures["total_output_tokens"] == 17
    assert (log.ttft_ms >= 50).all()
    several = log[log.output_tokens > 1]
    assert (several.tpot_ms >= 20 * 0.9).all() and np.isnan(log.tpot_ms[1])
    assert (log.e2el_ms >= 50 + 20 * (log.output_tokens - 1) * 0.9).all()
    assert figures["mean_itl_ms"] >= 20 * 0.9
    assert figures["request_goodput"] == pytest.approx(figures["request_throughput"])
    assert figures["model_id"] == "tiny"


def test_prompts_have_the_tokens_of_the_trace_by_the_servers_own_count() -> None:
    watched = watch(Behaviour(tokens_per_word=3, extra_tokens=5), trace([1] * 6))
    assert (abs(watched.log.prompt_tokens - 40) <= 1).all()
    assert watched.summary["total_input_tokens"] == watched.log.prompt_tokens.sum()


def test_no_two_prompts_begin_alike_and_a_seed_draws_them_again() -> None:
    texts = []
    for seed in (1, 1, 2):
        does = Behaviour()
        watch(does, trace([1] * 8), seed=seed)
        texts.append([body["prompt"] for body in does.seen])
    assert texts[0] == texts[1] != texts[2]
    assert len({text[:20] for text in texts[0]}) == len(texts[0])


def test_texts_of_the_trace_are_sent_as_they_are() -> None:
    does, texts = Behaviour(), np.array(["Who are you?", "Ünïcode, too"], dtype=object)
    watched = watch(does, trace([2, 2], prompt=texts), endpoint="chat")
    assert [b["messages"] for b in does.seen[2:]] == [[{"role": "user", "content": t}] for t in texts]
    assert not any("words drawn" in note for note in watched.notes)
    assert watched.summary["backend"] == "openai-chat"


def test_lengths_are_forced_where_the_server_can_be_told() -> None:
    watched = watch(Behaviour(eos_at=2), trace([4, 4]))
    assert watched.log.output_tokens.tolist() == [4, 4]


def test_a_server_that_takes_no_such_option_ends_where_it_ends_and_that_is_said() -> None:
    watched = watch(Behaviour(eos_at=2, takes_forced=False), trace([4, 1]))
    assert watched.log.output_tokens.tolist() == [2, 1]
    assert any("ignore_eos" in note for note in watched.notes)
    assert any("50 % of the answers have another length" in note for note in watched.notes)


def test_the_model_may_end_its_answers_at_most_at_the_cap() -> None:
    does = Behaviour(eos_at=7)
    watched = watch(does, trace([3, 9]), lengths="model", max_new_tokens=5)
    assert "ignore_eos" not in does.seen[-1] and {b["max_tokens"] for b in does.seen[2:]} == {5}
    assert watched.log.output_tokens.tolist() == [5, 5]


def test_tokens_are_chunks_where_the_server_counts_none() -> None:
    watched = watch(Behaviour(has_usage=False), trace([3, 4]))
    assert watched.log.output_tokens.tolist() == [3, 4] and watched.log.prompt_tokens.tolist() == [40, 40]
    assert any("no usage" in note for note in watched.notes)


def test_a_bound_on_requests_at_a_time_is_kept_and_both_clocks_are_written() -> None:
    does = Behaviour(first_s=0.05)
    watched = watch(does, trace([1] * 6, [0.0] * 6), max_concurrency=2)
    log = watched.log
    assert does.most == 2 and watched.summary["max_concurrent_requests"] == 2
    assert (log.due_s == 0).all() and log.arrival_s.iloc[-1] >= 0.1
    assert (log.ttft_ms < 1e3 * (log.finish_s - log.due_s) + 1e-6).all()


def test_a_server_that_dies_is_survived_and_what_failed_is_in_no_latency() -> None:
    watched = watch(Behaviour(dies_after=5), trace([2] * 6))
    log, figures = watched.log, watched.summary
    assert figures["completed"] == 3 and figures["failed"] == 3 and figures["failed_reason"]
    failed = log[log.status == "failed"]
    assert len(failed) == 3 and (failed.error != "").all() and (failed.output_tokens == 0).all()
    assert failed.ttft_ms.isna().all() and failed.e2el_ms.isna().all()
    assert figures["total_output_tokens"] == 6


@pytest.mark.parametrize(
    ("does", "why"),
    [
        (Behaviour(breaks_off=True), "ClientPayloadError"),
        (Behaviour(says="data: [1\n\n"), "not the stream"),
        (Behaviour(says='data: {"error": {"message": "out of memory"}}\n\n'), "out of memory"),
        (Behaviour(says='data: {"choices": []}\n\n'), "broke off"),
        (Behaviour(says='data: {"choices": [{"text": "", "finish_reason": "stop"}]}\n\n'), "empty"),
    ],
)
def test_an_answer_that_is_not_whole_counts_as_failed(does: Behaviour, why: str) -> None:
    watched = watch(does, trace([3, 3]))
    assert watched.summary["completed"] == 0 and why in watched.summary["failed_reason"]


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    watched = watch(Behaviour(gap_s=0.3), trace([1, 20]), timeout_s=1.0)
    assert watched.summary["completed"] == 1 and watched.summary["failed_reason"] == "no end after 1 s"


def test_the_log_and_the_result_are_what_validate_reads(tmp_path: Path) -> None:
    watched = watch(Behaviour(first_s=0.03, gap_s=0.01, dies_after=11), trace([4] * 12))
    watched.save_log(tmp_path / "log.csv")
    watched.save_result(tmp_path / "bench.json")
    for name in ("log.csv", "bench.json"):
        log = read_log(tmp_path / name)
        done = watched.log[watched.log.status == "completed"]
        assert log.trace.output_tokens.tolist() == done.output_tokens.tolist()
        assert log.latency["ttft_ms"] == pytest.approx(done.ttft_ms.to_numpy(), abs=1e-3)
        assert log.latency["e2el_ms"] == pytest.approx(done.e2el_ms.to_numpy(), rel=0.02)
        assert any("failed" in note for note in log.notes)
    content = json.loads((tmp_path / "bench.json").read_text())
    assert content["completed"] == 9 and sum(e != "" for e in content["errors"]) == 3
    assert pd.read_csv(tmp_path / "log.csv").shape == (12, len(watched.log.columns))


def test_a_log_of_a_fast_server_can_be_held_against_a_simulation(tmp_path: Path) -> None:
    watch(Behaviour(first_s=0.1, gap_s=0.03), trace([10] * 8)).save_log(tmp_path / "log.csv")
    compared = against(tmp_path / "log.csv", profile="a100-80gb-vicuna-7b-transformers")
    assert compared.measured["mean_tpot_ms"] >= 27 and compared.result.summary["completed"] == 8


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(InputError, match=rf"http://127.0.0.1:{port}: no answer"):
        observe(f"http://127.0.0.1:{port}", WorkloadSettings(trace=trace([1])))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"endpoint": "chats"}, "endpoint: 'chats' is not one of completions, chat"),
        ({"lengths": "any"}, "lengths: 'any' is not one of trace, model"),
        ({"timeout_s": 0.0}, "timeout_s: 0 is not above 0"),
        ({"max_concurrency": 0}, "max_concurrency: 0 must be at least 1"),
    ],
)
def test_bad_input_is_named_before_anything_is_sent(options: dict[str, Any], why: str) -> None:
    does = Behaviour()
    with pytest.raises(InputError, match=why):
        watch(does, trace([1]), **options)
    assert not does.seen


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", ""])
def test_what_is_no_url_is_named(url: str) -> None:
    with pytest.raises(InputError, match="url"):
        observe(url, WorkloadSettings(trace=trace([1])))


def test_a_server_without_a_name_for_its_model_needs_one() -> None:
    with pytest.raises(InputError, match="--model NAME"):
        watch(Behaviour(model=None), trace([1]))
    assert watch(Behaviour(model=None), trace([1]), model="mine").summary["model_id"] == "mine"


def test_interrupted_it_says_what_has_come_and_what_was_never_sent() -> None:
    does = Behaviour(gap_s=0.05)
    orders = [Order(0.0, "a b", 1), Order(0.0, "a b", 100), Order(60.0, "a b", 1)]

    async def watch_for_a_while(url: str) -> Sent:
        async with client(30.0, None) as session:
            task = asyncio.create_task(send(session, Target(url, "completions", "tiny"), orders))
            await asyncio.sleep(0.4)
            task.cancel()
            return await task

    with serving(does) as url:
        sent = asyncio.run(watch_for_a_while(url))
    watched = observation(sent, trace([1, 100, 1], [0.0, 0.0, 60.0]), {"trace": "made"}, {})
    assert watched.is_interrupted and watched.summary["completed"] == 1
    assert watched.log.error.tolist() == ["", "interrupted", "interrupted"]
    assert "1 of 3 requests were not sent" in watched.notes[0]
