"""Turns the results of load generators and other simulators into rows of a log, one a request.

The rows have seqsched's own columns: prompt_tokens, output_tokens, arrival_s, ttft_ms, tpot_ms, e2el_ms, and
an error where the request failed; what a result does not hold is None. Checks no values: whoever reads the
rows does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .errors import InputError

Row = dict[str, Any]

IN_MS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3, "sec": 1e3}
"""Milliseconds in a unit."""


class Unfolded(NamedTuple):
    """Rows of a log, what they were taken from, and what was assumed."""

    rows: list[Row]
    source: str
    notes: tuple[str, ...] = ()


def unfold(path: str, objects: Sequence[Row]) -> Unfolded | None:
    """The rows in the objects of a file, if these are a result that is known.

    Raises InputError, naming `path`, for one that is not as it should be.
    """
    if not objects:
        return None
    for keys, read in READERS:
        if objects[0].keys() >= set(keys):
            return read(path, objects)
    return None


def _vllm(path: str, objects: Sequence[Row]) -> Unfolded:
    """`vllm bench serve --save-detailed`, and what SGLang's benchmark writes: a list a column, in seconds."""
    if len(objects) > 1:
        raise InputError(f"{path}: holds {len(objects)} results of a benchmark, 1 is needed")
    result = objects[0]
    prompts = result["input_lens"]
    names = ("input_lens", "output_lens", "ttfts", "itls", "start_times", "errors")
    lists = {name: result[name] for name in names if result.get(name)}
    for name, values in lists.items():
        if not isinstance(values, list) or len(values) != len(prompts):
            raise InputError(f"{path}, {name}: is not a list as long as input_lens, {len(prompts)}")

    def row(index: int) -> Row:
        value = {name: values[index] for name, values in lists.items()}
        gaps = value.get("itls")
        first = _number(value.get("ttfts"))
        rest = sum(gaps) if isinstance(gaps, list) and all(_number(gap) is not None for gap in gaps) else None
        end = None if first is None or rest is None else first + rest
        made = {
            "prompt_tokens": value.get("input_lens"),
            "output_tokens": value.get("output_lens"),
            **_latencies(0.0, first, end, value.get("output_lens")),
            "error": value.get("errors"),
        }
        return made | ({"arrival_s": value["start_times"]} if "start_times" in lists else {})

    missing = () if "start_times" in lists else ("start_times are missing, so that arrivals are not known",)
    return Unfolded([row(index) for index in range(len(prompts))], "vllm bench serve", missing)


def _guidellm(path: str, objects: Sequence[Row]) -> Unfolded:
    """GuideLLM's benchmarks.json: requests by how they ended, times in seconds since 1970."""
    benchmarks = objects[0]["benchmarks"]
    rows: list[Row] = []
    for benchmark in benchmarks if isinstance(benchmarks, list) else ():
        ended = _at(benchmark, "requests")
        for how in ("successful", "errored", "incomplete"):
            requests = _at(ended, how)
            rows += [_guidellm_row(r, how) for r in (requests if isinstance(requests, list) else ())]
    if not rows:
        raise InputError(f"{path}: is GuideLLM's, but without its requests")
    if any(row["request_id"] is None for row in rows):
        for row in rows:
            del row["request_id"]
    note = (f"{len(benchmarks)} benchmarks, one after the other",) if len(benchmarks) > 1 else ()
    return Unfolded(rows, "GuideLLM", note)


def _guidellm_row(request: Row, how: str) -> Row:
    start, end = (
        _first(
            _at(request, f"request_{edge}_time"),
            _at(request, f"{edge}_time"),
            _at(request, "info", "timings", f"request_{edge}"),
            _at(request, "scheduler_info", "request_timings", f"request_{edge}"),
        )
        for edge in ("start", "end")
    )
    latency_s, first_ms = _number(_at(request, "request_latency")), _at(request, "time_to_first_token_ms")
    if latency_s is None and start is not None and end is not None:
        latency_s = end - start
    return {
        "request_id": _at(request, "request_id"),
        "prompt_tokens": _at(request, "prompt_tokens"),
        "output_tokens": _at(request, "output_tokens"),
        "arrival_s": start,
        "ttft_ms": first_ms,
        "tpot_ms": _at(request, "inter_token_latency_ms"),
        "e2el_ms": None if latency_s is None else 1e3 * latency_s,
        "error": None if how == "successful" else _at(request, "error") or how,
    }


def _aiperf(path: str, objects: Sequence[Row]) -> Unfolded:
    """AIPerf's profile_export.jsonl: times in nanoseconds since 1970, each metric with its unit."""
    starts = [_at(each, "metadata", "request_start_ns") for each in objects]
    first = min((start for start in starts if _number(start) is not None), default=0)  # exact, for integers

    def milliseconds(each: Row, metric: str) -> float | None:
        value, unit = (_at(each, "metrics", metric, key) for key in ("value", "unit"))
        number = _number(value)
        return None if number is None or unit not in IN_MS else number * IN_MS[unit]

    rows = [
        {
            "prompt_tokens": _at(each, "metrics", "input_sequence_length", "value"),
            "output_tokens": _at(each, "metrics", "output_sequence_length", "value"),
            "arrival_s": start if _number(start) is None else (start - first) / 1e9,
            "ttft_ms": milliseconds(each, "time_to_first_token"),
            "tpot_ms": milliseconds(each, "inter_token_latency"),
            "e2el_ms": milliseconds(each, "request_latency"),
            "error": each.get("error") or ("cancelled" if _at(each, "metadata", "was_cancelled") else None),
        }
        for each, start in zip(objects, starts, strict=True)
    ]
    turns = sum(bool(_at(each, "metadata", "turn_index")) for each in objects)
    note = (f"{turns} of {len(rows)} requests are later turns of a conversation, at their recorded times",)
    return Unfolded(rows, "AIPerf", note if turns else ())


def _inference_perf(path: str, objects: Sequence[Row]) -> Unfolded:
    """inference-perf's per_request_lifecycle_metrics.json: times in seconds by one clock."""
    return Unfolded([_inference_perf_row(each) for each in objects], "inference-perf")


def _inference_perf_row(each: Row) -> Row:
    info = each["info"]
    times = _at(info, "output_token_times") or _at(info, "response_metrics", "output_token_times")
    tokens = _first(_at(info, "output_tokens"), _at(info, "response_metrics", "output_tokens"))
    start, end = _number(each["start_time"]), _number(each["end_time"])
    made = {
        "prompt_tokens": _first(
            _at(info, "input_tokens"), _at(info, "request_metrics", "text", "input_tokens")
        ),
        "output_tokens": tokens,
        "arrival_s": start,
        **_latencies(start, _number(times[0]) if isinstance(times, list) and times else None, end, tokens),
        "error": each.get("error"),
    }
    if isinstance(times, list) and len(times) > 1 and isinstance(tokens, int) and tokens > 1:
        first, last = _number(times[0]), _number(times[-1])
        made["tpot_ms"] = None if first is None or last is None else 1e3 * (last - first) / (tokens - 1)
    return made


def _servingsim(path: str, objects: Sequence[Row]) -> Unfolded:
    """LLMServingSim's workloads, and its logs of vLLM, where arrival_time is by another clock."""
    is_log = "first_token_ts" in objects[0]
    ours = {"input_toks": "prompt_tokens", "output_toks": "output_tokens"}
    rows: list[Row] = []
    for each in objects:
        row = {
            ours.get(key, key): value
            for key, value in each.items()
            if not is_log or not key.endswith(("_ts", "arrival_time"))
        }
        if is_log:
            columns = ("queued_ts", "first_token_ts", "last_token_ts")
            queued, first, last = (_number(each.get(column)) for column in columns)
            row |= {"arrival_s": queued, **_latencies(queued, first, last, each.get("output_toks"))}
            row["error"] = "no first token" if first is None else None
        rows.append(row)
    note = (
        ("arrivals are queued_ts, by the clock of the tokens; arrival_time is by another",) if is_log else ()
    )
    return Unfolded(rows, "LLMServingSim", note)


READERS: tuple[tuple[tuple[str, ...], Callable[[str, Sequence[Row]], Unfolded]], ...] = (
    (("input_lens", "output_lens"), _vllm),
    (("benchmarks",), _guidellm),
    (("metadata", "metrics"), _aiperf),
    (("start_time", "end_time", "info"), _inference_perf),
    (("input_toks", "output_toks"), _servingsim),
)
"""Keys of the first object -> what reads it."""


def _latencies(start: float | None, first: float | None, last: float | None, tokens: object) -> Row:
    """The three latencies in ms of a request by the seconds of its start, first token and end."""
    tpot = None
    if first is not None and last is not None and isinstance(tokens, int) and tokens > 1:
        tpot = 1e3 * (last - first) / (tokens - 1)
    return {
        "ttft_ms": None if start is None or first is None else 1e3 * (first - start),
        "tpot_ms": tpot,
        "e2el_ms": None if start is None or last is None else 1e3 * (last - start),
    }


def _at(value: Any, *keys: str) -> Any:
    """What lies below these keys; None where one is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _first(*values: Any) -> Any:
    """The first that is not None."""
    return next((value for value in values if value is not None), None)


def _number(value: Any) -> float | None:
    """A number as it is, None for anything else."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
