"""Columns that know of the lengths are held against them: contradictions are refused or said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from traces import InputError
from traces.formats import read

Put = Callable[..., Path]


def table(column: str, *values: object, form: str = "prompt_tokens,output_tokens") -> str:
    """Requests of 100, 110, 120 ... prompt tokens and 20, 30, 40 ... output tokens, with one column more."""
    rows = [f"{100 + 10 * i},{20 + 10 * i},{value}" for i, value in enumerate(values)]
    return "\n".join([f"{form},{column}", *rows]) + "\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (table("total_tokens", 20, 30), "output_tokens: is total_tokens in every row, prompt and answer tog"),
        (table("Total tokens", 100, 110), "prompt_tokens: is Total tokens in every row.*the prompt alone is"),
        (table("reasoning_tokens", 0, 500), "row 2, reasoning_tokens: 500 is above 30, the output_tokens"),
        (table("num_requests", 1, 50), "row 2, num_requests: 50 is above 1: a row that sums up several"),
        (table("num_model_requests", 3, 1), "row 1, num_model_requests: 3 is above 1"),
        (table("request_id", "a", "Total"), "row 2, request_id: 'Total' is a summary of the rows above"),
        (table("request_id", "a", "b", "mean"), "row 3, request_id: 'mean' is a summary"),
        (
            table("x", 1, 2, 3) + "330,90,6\n",
            "row 4, prompt_tokens: 330 is the sum of all rows above, as out",
        ),
        (
            table("total_tokens", 20, 30, form="ContextTokens,GeneratedTokens,TIMESTAMP")
            .replace("0,20,", "0,20,2023-11-16 18:15:46,")
            .replace("0,30,", "0,30,2023-11-16 18:15:47,"),
            "GeneratedTokens: is total_tokens in every row",
        ),
    ],
)
def test_what_cannot_be_a_length_is_refused(put: Put, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(put(text))


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (
            table("total_tokens", 120, 150),
            "total_tokens is not prompt_tokens + output_tokens in 1 of 2 requests",
        ),
        (
            table("cached_tokens", 84, 0),
            "cached_tokens are 40 % of the prompt tokens, which are all computed",
        ),
        (
            table("cache_read_input_tokens", 900, 0),
            "above prompt_tokens in 1 of 2 requests: does prompt_tokens",
        ),
    ],
)
def test_what_may_be_another_definition_is_said(put: Put, text: str, note: str) -> None:
    assert any(note in each for each in read(put(text)).notes)


@pytest.mark.parametrize(
    "text",
    [
        table("total_tokens", 120, 140),
        table("total_tokens", "", "many"),
        table("cached_tokens", 0, 0),
        table("cache_creation_input_tokens", 50, 50),
        table("reasoning_tokens", 20, 10),
        table("num_requests", 1, 1),
    ],
)
def test_what_agrees_is_named_as_not_used_and_no_more(put: Put, text: str) -> None:
    column = text.partition("\n")[0].rpartition(",")[2]
    assert read(put(text)).notes == (f"columns not used: {column}",)


def test_rows_that_failed_contradict_nothing(put: Put) -> None:
    rows = [
        {"prompt_tokens": 100, "output_tokens": 20, "total_tokens": 120, "success": True},
        {"prompt_tokens": 100, "output_tokens": 0, "total_tokens": 0, "success": False},
    ]
    assert len(read(put(json.dumps(rows))).notes) == 2


@pytest.mark.parametrize("column", ["statusCode", "HTTP Status", "response_code", "http_code"])
def test_codes_under_other_names_tell_what_failed(put: Put, column: str) -> None:
    trace = read(put(table(column, 200, 500)))
    assert trace.notes == (
        f"1 of 2 requests (50 %) failed and are left out, the first in row 2: {column} 500",
    )


@pytest.mark.parametrize("column", ["is_error", "isError", "has_error"])
def test_flags_of_errors_tell_what_failed(put: Put, column: str) -> None:
    assert read(put(table(column, "false", "true"))).prompt_tokens.tolist() == [100]
