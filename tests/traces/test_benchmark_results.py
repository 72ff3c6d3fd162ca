"""Results of load generators, read as traces and as rows of a log; the requests that failed are left out.

Each fixture holds three requests, 0.5 and 2 s apart: 100, 90 and 110 prompt tokens, 5, 3 and 1 output tokens,
20 ms a token after a first one in 50 ms; and one that failed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from traces import InputError
from traces.formats import read
from traces.tables import open_table

Put = Callable[..., Path]
START = 353399.25
GOOD = [(0.0, 100, 5), (0.5, 90, 3), (2.5, 110, 1)]


def vllm() -> str:
    failed_at = 1
    columns: dict[str, list[Any]] = {
        "input_lens": [n for _, n, _ in GOOD],
        "output_lens": [n for *_, n in GOOD],
        "ttfts": [0.05] * 3,
        "itls": [[0.02] * (n - 1) for *_, n in GOOD],
        "start_times": [START + t for t, *_ in GOOD],
        "errors": [""] * 3,
    }
    failure = {"input_lens": 70, "output_lens": 0, "ttfts": 0.0, "itls": [], "start_times": START + 0.2}
    for name, values in columns.items():
        values.insert(failed_at, failure.get(name, "Connection reset"))
    return json.dumps({"request_throughput": 2.0, "mean_ttft_ms": 50.0, "completed": 3, **columns})


def _guidellm(times: Callable[[float, float], dict[str, Any]]) -> str:
    good = [
        {
            "request_id": f"r{i}",
            "prompt_tokens": p,
            "output_tokens": n,
            "request_latency": 0.05 + 0.02 * (n - 1),
            "time_to_first_token_ms": 50.0,
            "time_per_output_token_ms": 999.0,
            "inter_token_latency_ms": 20.0 if n > 1 else None,
            **times(START + t, START + t + 0.05 + 0.02 * (n - 1)),
        }
        for i, (t, p, n) in enumerate(GOOD)
    ]
    bad = {"request_id": "x", "prompt_tokens": 70, "output_tokens": None, **times(START + 0.2, START + 9)}
    requests = {"successful": good, "errored": [bad | {"error": "Connection reset"}], "incomplete": []}
    return json.dumps({"metadata": {}, "benchmarks": [{"requests": requests}]}, indent=1)


def guidellm() -> str:
    return _guidellm(lambda start, end: {"request_start_time": start, "request_end_time": end})


def guidellm_of_timings() -> str:
    return _guidellm(lambda start, end: {"info": {"timings": {"request_start": start, "request_end": end}}})


def aiperf(per_ms: float = 1.0, unit: str = "ms") -> str:
    lines = []
    for i, (t, p, n) in enumerate(GOOD):
        latencies = {"time_to_first_token": 50.0, "request_latency": 50.0 + 20 * (n - 1)}
        latencies |= {"inter_token_latency": 20.0} if n > 1 else {}
        metrics = {k: {"value": v * per_ms, "unit": unit} for k, v in latencies.items()}
        metrics |= {"input_sequence_length": {"value": p, "unit": "tokens"}}
        metrics |= {"output_sequence_length": {"value": n, "unit": "tokens"}}
        at = {"request_start_ns": 1759813207532900363 + int(t * 1e9), "turn_index": 0}
        lines.append({"metadata": at | {"session_num": i}, "metrics": metrics, "error": None})
    at = {"request_start_ns": 1759813207532900363, "was_cancelled": True}
    error = {"code": 499, "type": "Connection reset", "message": ""}
    lines.insert(1, {"metadata": at, "metrics": {"error_isl": {"value": 70}}, "error": error})
    return "".join(json.dumps(line) + "\n" for line in lines)


def aiperf_in_seconds() -> str:
    return aiperf(1e-3, "s")


def _inference_perf(info: Callable[[int, int, list[float]], dict[str, Any]]) -> str:
    rows = []
    for t, p, n in GOOD:
        times = [START + t + 0.05 + 0.02 * k for k in range(n)]
        rows.append(
            {"start_time": START + t, "end_time": times[-1], "info": info(p, n, times), "error": None}
        )
    failed = {"start_time": START + 0.2, "end_time": START + 9, "info": info(0, 0, [])}
    rows.insert(1, failed | {"error": {"error_type": "Connection reset", "error_msg": ""}})
    return json.dumps(rows)


def inference_perf() -> str:
    return _inference_perf(
        lambda p, n, times: {"input_tokens": p, "output_tokens": n, "output_token_times": times}
    )


def inference_perf_of_2026() -> str:
    return _inference_perf(
        lambda p, n, times: {
            "request_metrics": {"text": {"input_tokens": p}},
            "response_metrics": {"output_tokens": n, "output_token_times": times},
        }
    )


def servingsim() -> str:
    rows = [
        {
            "request_id": f"r-{i}",
            "input_toks": p,
            "output_toks": n,
            "arrival_time": 1787267980.1 + t,
            "queued_ts": START + t,
            "scheduled_ts": START + t,
            "first_token_ts": START + t + 0.05,
            "last_token_ts": START + t + 0.05 + 0.02 * (n - 1),
        }
        for i, (t, p, n) in enumerate(GOOD)
    ]
    rows.insert(1, rows[0] | {"request_id": "x", "first_token_ts": None, "last_token_ts": None})
    return "".join(json.dumps(row) + "\n" for row in rows)


def genai_perf(stream: bool = True) -> str:
    """As `--service-kind openai` writes it: a role, a chunk a token, usage, the end; the failed one last."""

    def answer(**what: Any) -> dict[str, Any]:
        return {"response": ("data: " if stream else "") + json.dumps(what) + ("\n\n" if stream else "")}

    def requests() -> Iterator[dict[str, Any]]:
        for t, p, n in GOOD:
            start = 1759813207532900363 + int(t * 1e9)
            usage = {"usage": {"prompt_tokens": p, "completion_tokens": n, "total_tokens": p + n}}
            stamps = [start + int(5e7) + k * int(2e7) for k in range(n)]
            chunks = [answer(choices=[{"delta": {"content": f"w{k}"}}]) for k in range(n)]
            if stream:
                stamps = [start + 1, *stamps, stamps[-1] + 7, stamps[-1] + 8]
                role = answer(choices=[{"delta": {"role": "assistant", "content": ""}}])
                chunks = [role, *chunks, answer(choices=[], **usage), {"response": "data: [DONE]\n\n"}]
            else:
                stamps, chunks = stamps[-1:], [answer(choices=[{"message": {"content": "w"}}], **usage)]
            payload = json.dumps({"messages": [], "max_tokens": n + 1})
            yield {
                "timestamp": start,
                "request_inputs": {"payload": payload},
                "response_timestamps": stamps,
                "response_outputs": chunks,
            }
        failed = {"timestamp": 1759813207532900363 + int(2e8), "request_inputs": {"payload": "{}"}}
        yield failed | {
            "response_timestamps": [1759813207832900363],
            "response_outputs": [answer(error={"message": "Connection reset"})],
        }

    run = {"experiment": {"mode": "concurrency", "value": 1}, "requests": list(requests())}
    return json.dumps({"service_kind": "openai", "endpoint": "v1/chat/completions", "experiments": [run]})


RESULTS = {
    "genai-perf": genai_perf,
    "vllm bench serve": vllm,
    "GuideLLM": guidellm,
    "GuideLLM of timings": guidellm_of_timings,
    "AIPerf": aiperf,
    "AIPerf in seconds": aiperf_in_seconds,
    "inference-perf": inference_perf,
    "inference-perf of 2026": inference_perf_of_2026,
    "LLMServingSim": servingsim,
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_a_trace(put: Put, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "traces")
    trace = read(put(RESULTS[name]()))
    assert trace.prompt_tokens.tolist() == [100, 90, 110]
    assert trace.output_tokens.tolist() == [5, 3, 1]
    assert trace.arrival_s is not None
    assert trace.arrival_s.tolist() == pytest.approx([0, 0.5, 2.5], abs=1e-6)
    reason = "no first token" if name == "LLMServingSim" else "Connection reset"
    assert any("1 of 4 requests (25 %) failed" in note and reason in note for note in trace.notes)
    assert f": {name.partition(' of ')[0].partition(' in ')[0]}; arrival_s read as" in caplog.text


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_holds_latencies_in_milliseconds(put: Put, name: str) -> None:
    table = open_table(put(RESULTS[name]()), lambda column: True)
    rows = [i for i, failure in enumerate(table.raw("error")) if not failure]
    for column, wanted in (("ttft_ms", [50, 50, 50]), ("e2el_ms", [130, 90, 50]), ("tpot_ms", [20, 20])):
        values = [table.raw(column)[i] for i in rows]
        assert values[: len(wanted)] == pytest.approx(wanted, abs=1e-4), column


def test_a_workload_of_llmservingsim_keeps_the_unit_in_its_name(put: Put) -> None:
    rows = [
        {"input_toks": 10, "output_toks": 7, "arrival_time_ns": t, "input_tok_ids": [1]}
        for t in (46926808, 347938952)
    ]
    trace = read(put("".join(json.dumps(row) + "\n" for row in rows)))
    assert trace.arrival_s is not None and trace.arrival_s[1] == pytest.approx(0.301012144)
    assert trace.notes == ("columns not used: input_tok_ids",)


def test_an_older_result_of_vllm_has_no_arrivals_and_says_so(put: Put) -> None:
    result = json.loads(vllm())
    del result["start_times"]
    trace = read(put(json.dumps(result)))
    assert trace.arrival_s is None
    assert trace.notes[0] == "start_times are missing, so that arrivals are not known"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"output_lens": [1]}, r"output_lens: is not a list as long as input_lens, 4"),
        ({"itls": 5}, r"itls: is not a list as long as input_lens, 4"),
        ({"input_lens": [1, 2, 3, "x"]}, r"row 4, prompt_tokens: 'x' is not a number"),
        ({"start_times": [1.0, 2.0, "x", 3.0]}, r"row 3, arrival_s: 'x' is not a number"),
    ],
)
def test_a_damaged_result_is_refused_in_one_line(put: Put, change: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(put(json.dumps(json.loads(vllm()) | change)))


def test_several_results_in_one_file(put: Put) -> None:
    with pytest.raises(InputError, match="holds 2 results of a benchmark, 1 is needed"):
        read(put(vllm() + "\n" + vllm() + "\n"))
    more = json.loads(guidellm().replace('"r', '"s').replace('"x', '"y').replace('"sequest', '"request'))
    both = {"benchmarks": [*json.loads(guidellm())["benchmarks"], *more["benchmarks"]]}
    trace = read(put(json.dumps(both)))
    assert len(trace) == 6 and trace.notes[0] == "2 benchmarks, one after the other"


def test_guidellm_without_its_requests_is_named(put: Put) -> None:
    with pytest.raises(InputError, match="is GuideLLM's, but without its requests"):
        read(put(json.dumps({"benchmarks": [{"metrics": {}}]})))


def test_later_turns_of_a_conversation_are_said(put: Put) -> None:
    lines = [json.loads(line) for line in aiperf().splitlines()]
    lines[2]["metadata"]["turn_index"] = 1
    trace = read(put("".join(json.dumps(line) + "\n" for line in lines)))
    assert trace.notes[0] == "1 of 4 requests are later turns of a conversation, at their recorded times"


def test_the_warm_up_of_aiperf_is_left_out_and_said(put: Put) -> None:
    lines = [json.loads(line) for line in aiperf().splitlines()]
    lines[0]["metadata"]["benchmark_phase"] = "warmup"
    for line in lines[1:]:
        line["metadata"]["benchmark_phase"] = "profiling"
    text = "".join(json.dumps(line) + "\n" for line in lines)
    trace = read(put(text))
    assert trace.prompt_tokens.tolist() == [90, 110]
    assert trace.notes[0] == "1 of 4 requests are of the warm-up and left out"
    assert "the first in line 2: error Connection reset" in trace.notes[1]
    with pytest.raises(InputError, match="all 4 requests are of AIPerf's warm-up, at least 1 other"):
        read(put(text.replace("profiling", "warmup")))


def test_genai_perf_without_a_stream_has_no_first_token_of_its_own(put: Put) -> None:
    table = open_table(put(genai_perf(stream=False)), lambda column: True)
    assert table.raw("output_tokens")[:3] == [5, 3, 1]
    assert table.raw("e2el_ms")[:3] == pytest.approx([130, 90, 50])
    assert table.raw("ttft_ms")[:3] == [None, None, 50] and table.raw("tpot_ms")[:3] == [None] * 3


def test_genai_perf_of_an_engine_holds_the_ids_of_tokens(put: Put) -> None:
    request = {
        "timestamp": 10**18,
        "request_inputs": {"input_ids": [5, 6, 7], "request_output_len": [4]},
        "response_timestamps": [10**18 + 10**6, 10**18 + 3 * 10**6, 10**18 + 9 * 10**6],
        "response_outputs": [{"output_ids": 9}, {"output_ids": [8, 7]}, {"output_ids": ""}],
    }
    export = {"service_kind": "triton_c_api", "experiments": [{"requests": [request]}]}
    path = put(json.dumps(export))
    trace = read(path)
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([3], [3])
    assert trace.max_tokens is not None and trace.max_tokens.tolist() == [4]
    assert open_table(path, lambda column: True).raw("e2el_ms") == [3.0]


def test_genai_perf_without_usage_is_refused_by_name(put: Put) -> None:
    text = genai_perf().replace("usage", "utilisation")
    with pytest.raises(InputError, match="row 1: is a profile export of genai-perf without usage in"):
        read(put(text))


def test_a_splintered_event_of_genai_perf_is_one(put: Put) -> None:
    export = json.loads(genai_perf())
    request = export["experiments"][0]["requests"][0]
    usage = request["response_outputs"][6]["response"]
    request["response_outputs"][6:7] = [{"response": usage[:30]}, {"response": usage[30:]}]
    request["response_timestamps"].insert(6, request["response_timestamps"][6])
    assert read(put(json.dumps(export))).output_tokens.tolist() == [5, 3, 1]


def _with_caps(name: str, caps: list[int | None]) -> str:
    """A result whose answered requests allow these numbers of tokens."""
    bodies = [json.dumps({"prompt": "x"} | ({} if cap is None else {"max_tokens": cap})) for cap in caps]
    if name == "AIPerf":
        lines = [json.loads(line) for line in aiperf().splitlines()]
        for line, cap in zip((lines[0], *lines[2:]), caps, strict=True):
            line["metrics"] |= {} if cap is None else {"requested_osl": {"value": cap, "unit": "tokens"}}
        return "".join(json.dumps(line) + "\n" for line in lines)
    if name == "GuideLLM":
        result = json.loads(guidellm())
        for request, body in zip(result["benchmarks"][0]["requests"]["successful"], bodies, strict=True):
            request["request_args"] = json.dumps({"method": "POST", "body": json.loads(body)})
        return json.dumps(result)
    if name == "genai-perf":
        result = json.loads(genai_perf())
        for request, body in zip(result["experiments"][0]["requests"], [*bodies, "{}"], strict=True):
            request["request_inputs"]["payload"] = body
        return json.dumps(result)
    rows = json.loads(inference_perf())
    for row, body in zip((rows[0], *rows[2:]), bodies, strict=True):
        row["request_data"] = body
    return json.dumps(rows)


CAPPED = ("AIPerf", "GuideLLM", "genai-perf", "inference-perf")


@pytest.mark.parametrize("name", CAPPED)
def test_caps_of_the_requests_are_read(put: Put, name: str) -> None:
    trace = read(put(_with_caps(name, [5, 64, 32])))
    assert trace.max_tokens is not None and trace.max_tokens.tolist() == [5, 64, 32]


@pytest.mark.parametrize("name", CAPPED)
def test_caps_that_not_all_state_are_not_used_and_said(put: Put, name: str) -> None:
    trace = read(put(_with_caps(name, [5, None, 32])))
    assert trace.max_tokens is None
    assert "1 of 3 requests state no max_tokens, so that none is used" in trace.notes
    assert read(put(_with_caps(name, [None] * 3))).max_tokens is None
