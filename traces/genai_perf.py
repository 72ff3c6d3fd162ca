"""Reads genai-perf's profile_export.json: requests and their answers as texts, with times in nanoseconds.

Numbers of tokens are taken where the file has them: the `usage` that a server put into its answer, or the
token ids of an engine. Texts are not counted, since that needs the tokenizer of the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from .errors import InputError
from .unfolding import Row, Unfolded, at, cap_of, first_of, latencies, number, with_caps

SOURCE = "genai-perf"


def unfold(path: str, objects: Sequence[Row]) -> Unfolded:
    """The requests of all experiments; InputError, naming `path`, where an answer's tokens are not known."""
    experiments = objects[0]["experiments"]
    runs = [at(each, "requests") for each in (experiments if isinstance(experiments, list) else ())]
    requests = [each for run in runs if isinstance(run, list) for each in run]
    if not requests:
        raise InputError(f"{path}: is a profile export of genai-perf, but without requests")
    rows, notes = with_caps([_row(path, index, each) for index, each in enumerate(requests)])
    if len(runs) > 1:
        notes = (f"{len(runs)} experiments, one after the other", *notes)
    return Unfolded(rows, SOURCE, notes)


def _row(path: str, index: int, request: Row) -> Row:
    outputs, times = at(request, "response_outputs"), at(request, "response_timestamps")
    answers = (
        [each if isinstance(each, dict) else {} for each in outputs] if isinstance(outputs, list) else []
    )
    inputs, start = at(request, "request_inputs"), number(at(request, "timestamp"))
    # A splintered event is whole again in the texts of all answers, one after the other.
    events = list(_events("".join(str(each.get("response", "")) for each in answers)))
    error = next((event["error"] for event in events if event.get("error")), None)
    if error is None and not answers:
        error = "no answer"
    prompt, output = _lengths(inputs, answers, events)
    if error is None and (prompt is None or output is None):
        raise InputError(
            f"{path}, row {index + 1}: is a profile export of genai-perf without usage in its answers, so "
            "that the numbers of tokens are not known; AIPerf's profile_export.jsonl has them"
        )
    stamps = [number(time) for time in times] if isinstance(times, list) else []
    filled = [time for time, each in zip(stamps, answers, strict=False) if _is_filled(each)]
    # An answer in one piece does not tell when its first token came.
    edges = (filled[0] if len(filled) > 1 or output == 1 else None, filled[-1]) if filled else (None, None)
    first, last = (_seconds_between(start, edge) for edge in edges)
    return {
        "prompt_tokens": prompt,
        "output_tokens": output,
        "arrival_s": None if start is None else start / 1e9,
        **latencies(0.0, first, last, output),
        "max_tokens": first_of(cap_of(inputs), _only(at(inputs, "request_output_len"))),
        "error": error,
    }


def _lengths(inputs: Any, answers: Sequence[Row], events: Sequence[Row]) -> tuple[Any, Any]:
    """Prompt and output tokens, by the usage in the answer or by token ids; None where neither is there."""
    usage = next((event["usage"] for event in reversed(events) if isinstance(event.get("usage"), dict)), None)
    if usage is not None:
        return usage.get("prompt_tokens"), usage.get("completion_tokens")
    ids = at(inputs, "input_ids")
    if not isinstance(ids, list) or not any("output_ids" in each for each in answers):
        return None, None
    return len(ids), sum(_count(each.get("output_ids")) for each in answers)


def _count(ids: Any) -> int:
    return len(ids) if isinstance(ids, list) else int(isinstance(ids, int))


def _is_filled(answer: Row) -> bool:
    """Whether an answer holds tokens: neither a role alone, nor usage alone, nor the end of the stream."""
    if "output_ids" in answer:
        return _count(answer["output_ids"]) > 0
    text = str(answer.get("response", ""))
    events = list(_events(text))
    if not events:  # a splinter of an event, or its end
        return bool(text.strip()) and "[DONE]" not in text
    choices = (choice for event in events for choice in event.get("choices") or ())
    return any(_text_of(choice) for choice in choices)


def _text_of(choice: Any) -> Any:
    message = first_of(at(choice, "delta"), at(choice, "message"), choice)
    return any(
        at(message, key) for key in ("content", "reasoning_content", "reasoning", "text", "tool_calls")
    )


def _events(text: str) -> Iterator[Row]:
    """The objects in an answer: JSON as it is, or events of a stream, one after the other."""
    for part in text.split("\n") if text.lstrip().startswith("data:") else [text]:
        try:
            event = json.loads(part.strip().removeprefix("data:"))
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            yield event


def _seconds_between(start: float | None, end: float | None) -> float | None:
    """Whole nanoseconds are subtracted before they are divided, since a date in them has no room for more."""
    return None if start is None or end is None else (end - start) / 1e9


def _only(value: Any) -> Any:
    """The number in a list of one, or alone."""
    return number(value[0] if isinstance(value, list) and len(value) == 1 else value)
