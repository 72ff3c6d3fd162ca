"""Names well-known files that hold no requests, so that they are refused as what they are.

Knows nothing of files that hold requests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .errors import InputError

TEXTS = {
    r"# (HELP|TYPE) \S+": "metrics in Prometheus' text format: totals, not requests",
    r"[a-zA-Z_:][\w:]*(\{[^\n]*\})? [-+]?(\d[\d.eE+-]*|\+?Inf|NaN)( \d+)?\r?(\n|$)": (
        "metrics in Prometheus' text format: totals, not requests"
    ),
    r"version https://git-lfs": "a Git LFS pointer; `git lfs pull` fetches the file that it stands for",
    r"(?i)<!doctype|<html|<\?xml": "a web page or XML, perhaps downloaded in place of the file that it shows",
    r"(DEBUG|INFO|WARNING|ERROR) |\d{4}-\d\d-\d\d \S+ (- )?(DEBUG|INFO|WARN)": (
        "a log of lines of text; a table of its requests is needed"
    ),
    r"\S+ \S+ \S+ \[\d\d/\w{3}/\d{4}": "a web server's access log, which holds no numbers of tokens",
    r"sep=.\s": "a table below a spreadsheet's line sep=, which has to go",
    r"metric_name,timestamp,metric_value": "a file of k6's metrics, which has no numbers of tokens",
    r'"?Type"?,"?Name"?,"?Request Count': "a table of locust's statistics: totals, not requests",
    r"(?=[^\n]*\bnum_decode\b)[^\n]*\bstep_ms\b": (
        "a table of measured steps, not of requests; `seqsched calibrate --steps` reads it"
    ),
    r"Metric,(avg|Unit|min)\b": (
        "a summary of AIPerf or genai-perf: figures, not requests; those are in profile_export.jsonl"
    ),
}
"""How a text begins -> what it is."""

OBJECTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("resourceSpans",), "spans of OpenTelemetry (OTLP), not requests"),
    (("resourceMetrics",), "metrics of OpenTelemetry (OTLP), not requests"),
    (("resourceLogs",), "a log of OpenTelemetry (OTLP), not requests"),
    (("traceEvents",), "a timeline for Perfetto or Chrome, not requests"),
    (("data", "status"), "an answer of the Prometheus API: series of figures, not requests"),
    (
        ("policy", "predictor", "profile"),
        "a summary of `seqsched`; --save-requests writes the requests",
    ),
    (
        ("request_throughput", "time_to_first_token"),
        "a summary of AIPerf or genai-perf: figures, not requests; those are in profile_export.jsonl",
    ),
    (
        ("request_throughput", "mean_ttft_ms"),
        "a summary of `vllm bench serve`: figures, not requests; --save-detailed keeps those",
    ),
    (
        ("metadata", "payload", "responses"),
        "AIPerf's raw records, which hold texts and no numbers of tokens; profile_export.jsonl has those",
    ),
    (
        ("load_summary", "successes"),
        "a summary of inference-perf; its requests are in per_request_lifecycle_metrics.json",
    ),
    (("metric", "type", "data"), "a file of k6's metrics, which has no numbers of tokens"),
    (("custom_id", "response"), "a file of answers of OpenAI's batch API, which have no times of arrival"),
    (
        ("object", "usage", "choices"),
        "a file of answers of OpenAI's API; columns of times and of their usage are needed",
    ),
    (("object", "has_more", "data"), "a page of OpenAI's API: sums over spans of time, or a list in data"),
    (("custom_id", "body"), "requests for OpenAI's batch API, which hold texts and no numbers of tokens"),
)
"""Keys of a JSON object, or of the first of many -> what it is."""


def check_text(path: str, text: str) -> None:
    """InputError for a text that is known to hold no requests."""
    start = text.lstrip()[:2000]
    for pattern, what in TEXTS.items():
        if re.match(pattern, start):
            raise InputError(f"{path}: is {what}")


def check_object(path: str, value: Mapping[str, Any]) -> None:
    """InputError for a JSON object that is known to hold no requests, or to be one of such."""
    for keys, what in OBJECTS:
        if value.keys() >= set(keys):
            raise InputError(f"{path}: is {what}")
