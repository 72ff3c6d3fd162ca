"""Columns that are there and cannot be used are refused in one line."""

from __future__ import annotations

import pytest

from tests.traces.test_bad_input import SAMPLES, Put, Sample, refusal, spoilt


def test_same_column_twice(put: Put) -> None:
    message = refusal(put("prompt_tokens,output_tokens,prompt_tokens\n1,1,1\n"))
    assert message == ": column prompt_tokens appears 2 times, 1 is allowed"


def test_long_values_are_shortened(put: Put) -> None:
    message = refusal(put(f"prompt_tokens,output_tokens\n{'x' * 5000},1\n"))
    assert "..." in message and len(message) < 200


@pytest.mark.parametrize("value", ["1e999", "-1e999"])
def test_a_number_beyond_all_floats_is_not_finite(put: Put, value: str) -> None:
    message = refusal(put(f"prompt_tokens,output_tokens\n9,{value}\n"))
    assert message.startswith(f", row 1, output_tokens: {value} is not finite")


def test_lone_surrogate_in_json_text(put: Put) -> None:
    message = refusal(put('{"prompt_tokens": 1, "output_tokens": 1, "prompt": "\\ud800"}'))
    assert message.startswith(", line 1, prompt: ") and message.endswith("cannot be written as UTF-8")


def test_text_column_of_another_type(put: Put) -> None:
    message = refusal(put('{"prompt_tokens": 1, "output_tokens": 1, "prompt": {"a": 1}}'))
    assert message == ", line 1, prompt: {'a': 1} is not text (text or an integer is needed)"


def test_parquet_without_pyarrow_names_the_extra(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    assert refusal(put(b"PAR1xxxx")) == ': reading Parquet needs pyarrow: pip install "seqsched[parquet]"'


@pytest.mark.parametrize("name", ["own-csv", "own-jsonl", "own-parquet"])
@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        ("priority", 1.5, "1.5 is not a whole number"),
        ("priority", 1e10, "10000000000.0 is above 1000000000"),
        ("deadline_s", 0.25, "0.25 is below 0.5, the arrival_s"),
        ("arrival_s", 2e9, "2000000000 s after the first arrival is above 1000000000 s"),
    ],
)
def test_own_columns_out_of_bounds(put: Put, name: str, column: str, value: float, what: str) -> None:
    sample = SAMPLES[name]
    if column == "arrival_s":
        sample = Sample(
            sample.container, [{k: v for k, v in r.items() if k != "deadline_s"} for r in sample.rows], ()
        )
    assert refusal(put(spoilt(sample, column, value))).startswith(f", {sample.unit} 2, {column}: {what}")
