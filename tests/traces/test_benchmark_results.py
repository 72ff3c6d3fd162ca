"""Results of load generators, read as traces and as rows of a log; the requests that failed are left out.

Each fixture holds three requests, 0.5 and 2 s apart: 100, 90 and 110 prompt tokens, 5, 3 and 1 output tokens,
20 ms a token after a first one in 50 ms; and one that failed between them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
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


RESULTS = {
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
