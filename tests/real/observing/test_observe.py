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

from real.observing.api import Reply, Target, ask, client
from real.observing.observation import Observation, observation
from real.observing.observe import observe
from real.observing.sending import NO_FILE, OTHER_FILES, Order, Sent, allow_connections, send
from real.observing.wording import Prompt
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


def test_no_two_prompts_begin_alike_not_even_of_two_runs_with_one_seed() -> None:
    does = Behaviour()
    for _ in range(2):
        watch(does, trace([1] * 8), seed=1)
    texts = [body["prompt"] for body in does.seen]
    assert len(texts) == 20 and len({text[:20] for text in texts}) == len(texts)


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


def said(*events: object, end: str = "\n\n") -> str:
    return "".join(f"data: {e if isinstance(e, str) else json.dumps(e)}{end}" for e in events)


def chunk(text: str | None, reason: object = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"text": text, "finish_reason": reason}], **more}


def usage(tokens: object, prompt: object = 40) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": tokens}}


def delta(reason: object = None, **content: Any) -> dict[str, Any]:
    return {"choices": [{"delta": content, "finish_reason": reason}]}


@pytest.mark.parametrize(
    ("says", "tokens"),
    [
        (said(chunk("a"), chunk("b", "stop"), usage(2), "[DONE]", end="\r\n\r\n"), 2),
        (said(chunk("a"), chunk("b", "stop"), usage(2), "[DONE]", end="\n"), 2),
        (said(chunk("a"), chunk("b", "stop"), usage(2), "[DONE]").rstrip(), 2),
        (": ping\n\nevent: x\nid: 7\n" + said(chunk("a")) + ": ping\n\n" + said(chunk("b", "stop")), 2),
        ('data: {"choices": [\ndata: {"text": "a",\ndata: "finish_reason": "stop"}]}\n\n', 1),
        (said(chunk("a b c"), chunk("d", "length"), usage(9)), 9),
        (said(chunk("a", usage={"completion_tokens": 1}), chunk("b", "length", usage=usage(2)["usage"])), 2),
        (said(chunk("a", usage=None), chunk("b", "stop", usage=None), usage(2)), 2),
        (said(chunk("a", error=None), chunk("", "stop", error=None)), 1),
        (said(chunk("a"), chunk("b"), "[DONE]"), 2),
        (said(chunk("a"), chunk(""), chunk("", "length"), usage(3)), 3),
        (said(chunk(""), chunk("", "length"), usage(2)), 2),
        (said(chunk("", "length"), usage(1)), 1),
        (said(delta(role="assistant", content=""), delta(content="a"), delta("stop", content="")), 1),
        (said(delta(reasoning_content="a"), delta(reasoning="b"), delta("stop", content="c")), 3),
        (said(delta(role="assistant", content=None), delta(tool_calls=[{"id": 1}]), delta("tool_calls")), 1),
        *((said(chunk("a"), chunk("b", "stop"), usage(u, u)), 2) for u in (0, -1, "2", 1e400, 10**30, True)),
        *((said(chunk("a"), chunk("b", "stop"), {"usage": u}), 2) for u in ("", "2", [1], {}, 0)),
    ],
)
def test_a_stream_is_understood_however_it_is_written(says: str, tokens: int, tmp_path: Path) -> None:
    watched = watch(Behaviour(says=says), trace([5, 5]))
    assert watched.log.output_tokens.tolist() == [tokens, tokens], watched.log.error.tolist()
    assert (watched.log.prompt_tokens == 40).all() and (watched.log.ttft_ms >= 0).all()
    watched.save_result(tmp_path / "bench.json")


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (said(chunk("a", "abort")), "the server ended the answer: abort"),
        (said(chunk("a", {"type": "abort", "message": "killed"})), "the server ended the answer: abort"),
        (said({"error": {"message": ""}}), "message"),
        (said({"choices": ["a"]}), "is no choice"),
        (said({"choices": [{"delta": "a"}]}), "is no delta"),
        (said("[" * 100_000), "not the stream"),
        (said("5"), "is no object"),
        (said(chunk("a"), {"choices": 5}), "broke off"),
        ('{"choices": [{"text": "a"}]}', "no stream of events but"),
        ("", "no stream of events but"),
    ],
)
def test_a_stream_that_makes_no_sense_costs_its_request_alone(says: str, why: str) -> None:
    watched = watch(Behaviour(says=says), trace([3, 3]))
    assert watched.summary["failed"] == 2 and why in watched.summary["failed_reason"]


def test_a_role_in_advance_is_no_first_token() -> None:
    text = said(delta(role="assistant", content=""), delta(content="a"), delta("stop", content="b"))
    watched = watch(Behaviour(says=text), trace([2, 2]), endpoint="chat")
    assert watched.log.output_tokens.tolist() == [2, 2] and [
        len(gaps) for gaps in watched.detail["itls"]
    ] == [1, 1]


@pytest.mark.parametrize("does", [Behaviour(zips=True), Behaviour(moved=True), Behaviour(closes=True)])
def test_answers_that_are_zipped_elsewhere_or_a_connection_each(does: Behaviour) -> None:
    watched = watch(does, trace([3] * 5))
    assert watched.log.output_tokens.tolist() == [3] * 5 and (watched.log.prompt_tokens - 40 <= 1).all()


def test_a_server_that_cannot_be_asked_for_counts_is_not_and_lengths_stay_forced() -> None:
    does = Behaviour(takes_counting=False, eos_at=2)
    watched = watch(does, trace([4, 3]))
    assert watched.log.output_tokens.tolist() == [4, 3] and does.seen[-1]["ignore_eos"]
    both = watch(Behaviour(takes_counting=False, takes_forced=False, eos_at=2), trace([4, 3]))
    assert both.log.output_tokens.tolist() == [2, 2]


def test_a_server_that_takes_no_connection_is_told_from_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("real.observing.api.CONNECT_S", 0.3)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        address = deaf.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:  # they fill the queue of connections that nobody takes
            each.setblocking(False)
            each.connect_ex(address)

        async def ask_it() -> str:
            async with client(30.0, None) as session:
                target = Target(f"http://127.0.0.1:{address[1]}", "completions", "tiny")
                return (await ask(session, target, "a", 1)).error

        assert asyncio.run(ask_it()) == "no connection after 0.3 s"
        with pytest.raises(InputError, match="no answer"):
            observe(f"http://127.0.0.1:{address[1]}", WorkloadSettings(trace=trace([1])))
        for each in waiting:
            each.close()


def test_open_files_are_allowed_for_as_many_connections_as_may_be() -> None:
    resource = pytest.importorskip("resource", reason="this system has no such limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 400:
        pytest.skip("this user may open few files")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
        with serving(Behaviour(first_s=0.2)) as url:
            watched = observe(url, WorkloadSettings(trace=trace([1] * 40, [0.0] * 40)))
        assert watched.summary["completed"] == 40
        allow_connections(300)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300 + OTHER_FILES
        allow_connections(10)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300 + OTHER_FILES
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_requests_that_found_no_file_are_the_clients_own_fault() -> None:
    sent = Sent(0.0, [Reply(0.0, error=f"ClientConnectorError: [{NO_FILE}]"), None], [0.0, 0.0])
    notes = observation(sent, trace([1, 1]), {"trace": "made"}, {}).notes
    assert any("1 requests failed for want of open files" in note for note in notes)


def test_a_password_in_the_address_is_not_written() -> None:
    with serving(Behaviour()) as url:
        watched = observe(url.replace("//", "//me:secret@"), WorkloadSettings(trace=trace([1])))
    assert watched.summary["base_url"] == url


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
    orders = [Order(due_s, Prompt("a b"), tokens) for due_s, tokens in ((0.0, 1), (0.0, 100), (60.0, 1))]

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
