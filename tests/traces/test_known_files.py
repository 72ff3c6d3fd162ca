"""Files that are known to hold no requests are refused as what they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from traces import InputError
from traces.formats import read

Put = Callable[..., Path]

KNOWN = {
    "# HELP vllm:num_requests_running Running.\n# TYPE x gauge\n": "metrics in Prometheus' text format",
    'vllm:num_requests{model="a b"} 3.0\nvllm:x 1e3\n': "metrics in Prometheus' text format",
    "version https://git-lfs.github.com/spec/v1\noid sha256:ab\n": "a Git LFS pointer",
    "<!DOCTYPE html>\n<html></html>": "a web page or XML",
    "Metric,avg,min,max\nRequest Latency (ms),1,2,3\n": "a summary of AIPerf or genai-perf",
    json.dumps({"resourceSpans": []}): r"spans of OpenTelemetry \(OTLP\)",
    json.dumps({"resourceMetrics": []}, indent=1): r"metrics of OpenTelemetry \(OTLP\)",
    json.dumps({"status": "success", "data": {"resultType": "matrix"}}): "an answer of the Prometheus API",
    json.dumps({"traceEvents": []}): "a timeline for Perfetto",
    json.dumps(
        {"request_throughput": {"avg": 1}, "time_to_first_token": {}}, indent=2
    ): "a summary of AIPerf",
    json.dumps({"request_throughput": 3.5, "mean_ttft_ms": 4.0}): "`vllm bench serve`.*--save-detailed",
    json.dumps({"policy": "vanilla", "predictor": "x", "profile": "y"}): "--save-requests writes the",
    json.dumps({"load_summary": {}, "successes": {}}): "per_request_lifecycle_metrics.json",
    json.dumps({"experiments": [], "service_kind": "openai"}): "a profile export of genai-perf",
    json.dumps({"metadata": {}, "start_perf_ns": 1, "payload": {}, "responses": []}): "AIPerf's raw records",
    "INFO 07-29 10:00:00 logger.py:39] Received request cmpl-1: prompt: 'x', params: 3\n": "a log of lines",
    "2025-07-29 10:00:00,123 - INFO - request, done, x\n": "a log of lines",
    '10.0.0.1 - - [05/Jan/2025:10:00:00 +0000] "POST /v1" 200 1234 0.1\n': "a web server's access log",
    "sep=;\nprompt_tokens;output_tokens\n1;2\n": "a table below a spreadsheet's line sep=",
    "num_decode,decode_context_tokens,step_ms\n1,16,16.6\n": "a table of measured steps, not of requests",
    "metric_name,timestamp,metric_value,check\nhttp_reqs,1736071200,1.0,\n": "a file of k6's metrics",
    "Type,Name,Request Count,Failure Count\nPOST,/v1,10,0\n": "a table of locust's statistics",
    json.dumps({"type": "Point", "metric": "http_req_duration", "data": {}}): "a file of k6's metrics",
    json.dumps({"id": "b", "custom_id": "r", "response": {}}): "a file of answers of OpenAI's batch API",
    json.dumps(
        {"object": "chat.completion", "usage": {}, "choices": []}
    ): "a file of answers of OpenAI's API",
    json.dumps({"object": "page", "data": [{}], "has_more": False}): "a page of OpenAI's API",
    json.dumps({"custom_id": "a", "body": {}})
    + "\n"
    + json.dumps({"custom_id": "b", "body": {}}): "OpenAI's batch",
}


@pytest.mark.parametrize("content", KNOWN)
def test_a_known_file_is_named(put: Put, content: str) -> None:
    with pytest.raises(InputError, match=rf"trace.txt: is .*{KNOWN[content]}"):
        read(put(content, "trace.txt"))
