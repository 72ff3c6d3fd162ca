"""Columns that are there and cannot be used are refused in one line."""

from __future__ import annotations

import pytest

from tests.traces.test_bad_input import Put, refusal


def test_same_column_twice(put: Put) -> None:
    message = refusal(put("prompt_tokens,output_tokens,prompt_tokens\n1,1,1\n"))
    assert message == ": column prompt_tokens appears 2 times, 1 is allowed"


def test_long_values_are_shortened(put: Put) -> None:
    message = refusal(put(f"prompt_tokens,output_tokens\n{'x' * 5000},1\n"))
    assert "..." in message and len(message) < 200


def test_lone_surrogate_in_json_text(put: Put) -> None:
    message = refusal(put('{"prompt_tokens": 1, "output_tokens": 1, "prompt": "\\ud800"}'))
    assert message.startswith(", line 1, prompt: ") and message.endswith("cannot be written as UTF-8")


def test_text_column_of_another_type(put: Put) -> None:
    message = refusal(put('{"prompt_tokens": 1, "output_tokens": 1, "prompt": {"a": 1}}'))
    assert message == ", line 1, prompt: {'a': 1} is not text (text or an integer is needed)"


def test_parquet_without_pyarrow_names_the_extra(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    assert refusal(put(b"PAR1xxxx")) == ': reading Parquet needs pyarrow: pip install "seqsched[parquet]"'
