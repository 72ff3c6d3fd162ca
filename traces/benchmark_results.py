"""Turns the results of load generators, sessions of agents and the like into rows of a log, one a request.

The rows have seqsched's own columns: prompt_tokens, output_tokens, arrival_s, ttft_ms, tpot_ms, e2el_ms,
max_tokens where the requests state it, and an error where the request failed; what a result does not hold is
None. Checks no values: whoever reads the rows does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from . import genai_perf, mooncake_sessions, session_files
from .errors import InputError
from .unfolding import Row, Unfolded, at, cap_of, first_of, latencies, number, with_caps

DELAYS = {"delay", "delay_ms"}
"""What tells turns of Dynamo's Mooncake sessions from single requests."""
IN_MS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3, "sec": 1e3}
"""Milliseconds in a unit."""


def unfold(path: str, objects: Sequence[Row]) -> Unfolded | None:
    """The rows in the objects of a file, if these are a result that is known.

    Raises InputError, naming `path`, for one that is not as it should be.
    """
    if not objects:
        return None
    if objects[0].keys() >= {"request_id"} and any("wait_for" in each for each in objects):
        return session_files.agentic_mooncake(path, objects)
    if objects[0].keys() >= {"input_length", "session_id"} and any(DELAYS & each.keys() for each in objects):
        return mooncake_sessions.read(path, objects)
    if objects[0].get("schema") == "dynamo.agentic_mooncake":
        version = objects[0].get("version")
        raise InputError(
            f"{path}: agentic Mooncake with a header, version {version}: only rows without are read"
        )
    if any("sub_requests" in each for each in objects):
        return session_files.servingsim_sessions(path, objects)
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
        first = number(value.get("ttfts"))
        rest = sum(gaps) if isinstance(gaps, list) and all(number(gap) is not None for gap in gaps) else None
        end = None if first is None or rest is None else first + rest
        made = {
            "prompt_tokens": value.get("input_lens"),
            "output_tokens": value.get("output_lens"),
            **latencies(0.0, first, end, value.get("output_lens")),
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
        ended = at(benchmark, "requests")
        for how in ("successful", "errored", "incomplete"):
            requests = at(ended, how)
            rows += [_guidellm_row(r, how) for r in (requests if isinstance(requests, list) else ())]
    if not rows:
        raise InputError(f"{path}: is GuideLLM's, but without its requests")
    rows, notes = with_caps(rows)
    if any(row["request_id"] is None for row in rows):
        for row in rows:
            del row["request_id"]
    if len(benchmarks) > 1:
        notes = (f"{len(benchmarks)} benchmarks, one after the other", *notes)
    return Unfolded(rows, "GuideLLM", notes)


def _guidellm_row(request: Row, how: str) -> Row:
    start, end = (
        first_of(
            at(request, f"request_{edge}_time"),
            at(request, f"{edge}_time"),
            at(request, "info", "timings", f"request_{edge}"),
            at(request, "scheduler_info", "request_timings", f"request_{edge}"),
        )
        for edge in ("start", "end")
    )
    latency_s, first_ms = number(at(request, "request_latency")), at(request, "time_to_first_token_ms")
    if latency_s is None and start is not None and end is not None:
        latency_s = end - start
    return {
        "request_id": at(request, "request_id"),
        "prompt_tokens": at(request, "prompt_tokens"),
        "output_tokens": at(request, "output_tokens"),
        "arrival_s": start,
        "ttft_ms": first_ms,
        "tpot_ms": at(request, "inter_token_latency_ms"),
        "e2el_ms": None if latency_s is None else 1e3 * latency_s,
        "max_tokens": cap_of(at(request, "request_args")),
        "error": None if how == "successful" else at(request, "error") or how,
    }


def _aiperf(path: str, objects: Sequence[Row]) -> Unfolded:
    """AIPerf's profile_export.jsonl: times in nanoseconds since 1970, each metric with its unit."""
    kept = [i for i, each in enumerate(objects) if at(each, "metadata", "benchmark_phase") != "warmup"]
    if not kept:
        raise InputError(
            f"{path}: all {len(objects)} requests are of AIPerf's warm-up, at least 1 other is needed"
        )
    warmed_up = len(objects) - len(kept)
    notes: tuple[str, ...] = ()
    if warmed_up:
        notes = (f"{warmed_up} of {len(objects)} requests are of the warm-up and left out",)
    objects = [objects[i] for i in kept]
    starts = [at(each, "metadata", "request_start_ns") for each in objects]
    first = min((start for start in starts if number(start) is not None), default=0)  # exact, for integers

    def milliseconds(each: Row, metric: str) -> float | None:
        value, unit = number(at(each, "metrics", metric, "value")), at(each, "metrics", metric, "unit")
        return None if value is None or unit not in IN_MS else value * IN_MS[unit]

    rows = [
        {
            "prompt_tokens": at(each, "metrics", "input_sequence_length", "value"),
            "output_tokens": at(each, "metrics", "output_sequence_length", "value"),
            "arrival_s": start if number(start) is None else (start - first) / 1e9,
            "ttft_ms": milliseconds(each, "time_to_first_token"),
            "tpot_ms": milliseconds(each, "inter_token_latency"),
            "e2el_ms": milliseconds(each, "request_latency"),
            "max_tokens": first_of(
                at(each, "metrics", "requested_osl", "value"), cap_of(each.get("payload"))
            ),
            "error": each.get("error") or ("cancelled" if at(each, "metadata", "was_cancelled") else None),
        }
        for each, start in zip(objects, starts, strict=True)
    ]
    turns = sum(bool(at(each, "metadata", "turn_index")) for each in objects)
    if turns:
        notes += (
            f"{turns} of {len(rows)} requests are later turns of a conversation, at their recorded times",
        )
    rows, about_caps = with_caps(rows)
    return Unfolded(rows, "AIPerf", notes + about_caps, kept)


def _inference_perf(path: str, objects: Sequence[Row]) -> Unfolded:
    """inference-perf's per_request_lifecycle_metrics.json: times in seconds by one clock."""
    rows, notes = with_caps([_inference_perf_row(each) for each in objects])
    return Unfolded(rows, "inference-perf", notes)


def _inference_perf_row(each: Row) -> Row:
    info = each["info"]
    times = at(info, "output_token_times") or at(info, "response_metrics", "output_token_times")
    tokens = first_of(at(info, "output_tokens"), at(info, "response_metrics", "output_tokens"))
    start, end = number(each["start_time"]), number(each["end_time"])
    made = {
        "prompt_tokens": first_of(
            at(info, "input_tokens"), at(info, "request_metrics", "text", "input_tokens")
        ),
        "output_tokens": tokens,
        "arrival_s": start,
        **latencies(start, number(times[0]) if isinstance(times, list) and times else None, end, tokens),
        "max_tokens": cap_of(each.get("request_data")),
        "error": each.get("error"),
    }
    if isinstance(times, list) and len(times) > 1 and isinstance(tokens, int) and tokens > 1:
        first, last = number(times[0]), number(times[-1])
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
            queued, first, last = (number(each.get(column)) for column in columns)
            row |= {"arrival_s": queued, **latencies(queued, first, last, each.get("output_toks"))}
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
    (("experiments", "service_kind"), genai_perf.unfold),
    (("start_time", "end_time", "info"), _inference_perf),
    (("input_toks", "output_toks"), _servingsim),
    (("requests", "hash_id_scope"), session_files.agent_sessions),
)
"""Keys of the first object -> what reads it."""
