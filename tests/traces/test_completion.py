"""Requests that failed are left out of a trace and counted, whatever says that they failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from traces import InputError
from traces.formats import read

Put = Callable[..., Path]
HEAD = "prompt_tokens,output_tokens,arrival_s"


@pytest.mark.parametrize(
    ("column", "good", "bad"),
    [
        ("status", "ok", "timeout"),
        ("status", "completed", "rejected"),
        ("Status", "success", "FAILED"),
        ("status_code", "200", "503"),
        ("state", "finished", "aborted by client"),
        ("finish_reason", "length", "abort"),
        ("success", "True", "False"),
        ("ok", "1", "0"),
        ("failed", "no", "yes"),
        ("error", "", "connection reset"),
        ("error_message", "none", "deadline exceeded"),
    ],
)
def test_failed_rows_are_left_out_and_the_first_reason_said(
    put: Put, column: str, good: str, bad: str
) -> None:
    rows = f"9,5,0,{good},1\n,,2,{bad},\n8,4,3,{good},2\n7,3,4,{good},3\n"
    trace = read(put(f"{HEAD},{column},priority\n{rows}"))
    assert trace.priority is not None and trace.priority.tolist() == [1, 2, 3]
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([9, 8, 7], [5, 4, 3])
    assert trace.request_id.tolist() == [0, 2, 3]
    assert trace.source_rows is not None and trace.source_rows.tolist() == [0, 2, 3]
    said = f"1 of 4 requests (25 %) failed and are left out, the first in row 2: {column} {bad}"
    assert trace.notes == (said,)


def test_errors_of_json_are_shown_by_what_they_name(put: Put) -> None:
    rows = [
        {"prompt_tokens": 9, "output_tokens": 5, "error": None},
        {"prompt_tokens": 9, "output_tokens": 0, "error": {"code": 499, "type": "Cancelled", "message": "x"}},
    ]
    trace = read(put(json.dumps(rows)))
    assert len(trace) == 1
    assert trace.notes == (
        "1 of 2 requests (50 %) failed and are left out, the first in row 2: error Cancelled: x",
    )


def test_a_trace_of_failures_is_refused(put: Put) -> None:
    with pytest.raises(InputError, match=r"all 2 requests failed \(row 1: status error\), at least 1"):
        read(put(f"{HEAD},status\n9,5,0,error\n9,5,1,error\n"))


ZEROES = {
    "own": f"{HEAD}\n9,5,0\n9,0,1\n9,7,2\n",
    "vidur": "num_prefill_tokens,num_decode_tokens,arrived_at\n9,5,0\n9,0,1\n9,7,2\n",
    "azure": "ContextTokens,GeneratedTokens,TIMESTAMP\n"
    + "".join(f"9,{n},2024-05-10 00:00:0{n}\n" for n in (5, 0, 7)),
    "burstgpt": "Request tokens,Response tokens,Timestamp\n9,5,0\n0,0,1\n9,7,2\n",
    "mooncake": "".join(
        json.dumps({"input_length": 9, "output_length": n, "timestamp": 1000 * i}) + "\n"
        for i, n in enumerate((5, 0, 7))
    ),
}


@pytest.mark.parametrize("name", ZEROES)
def test_an_answer_of_no_tokens_is_a_failure_in_every_format(put: Put, name: str) -> None:
    trace = read(put(ZEROES[name]))
    assert trace.output_tokens.tolist() == [5, 7]
    unit = "line" if name == "mooncake" else "row"
    assert [note for note in trace.notes if f"first in {unit} 2): they failed and are left out" in note]
    assert trace.notes[0].startswith("1 of 3 requests have 0 output tokens")
    with pytest.raises(InputError, match=r"(row|line) 1, .*: 0 is below 1, as in every row"):
        read(
            put(
                ZEROES[name]
                .replace("9,5,", "9,0,")
                .replace("9,7,", "9,0,")
                .replace('h": 5', 'h": 0')
                .replace('h": 7', 'h": 0')
            )
        )


def test_an_answer_to_no_prompt_is_refused(put: Put) -> None:
    with pytest.raises(InputError, match="row 2, prompt_tokens: 0 is below 1"):
        read(put(f"{HEAD}\n9,5,0\n0,4,1\n"))
    with pytest.raises(InputError, match="row 2, output_tokens: -1 is below 0"):
        read(put(f"{HEAD}\n9,5,0\n9,-1,1\n"))
