"""The check of attention finds what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="the real extra is not installed")
pytest.importorskip("transformers", reason="the real extra is not installed")

from real.lent_gpu import correctness
from real.lent_gpu.bench import Bench, Sizes
from real.lent_gpu.parts import arena_attention


def test_errors_are_those_of_rounding_and_answers_equal_in_float32(loaded: Any, tmp_path: Any) -> None:
    bench = Bench(loaded, tmp_path, Sizes.of(loaded.device))
    found = arena_attention(bench)
    assert set(found["largest_errors"]) == set(correctness.CASES)
    assert found["equal_to_eager"] == {"first tokens": 1.0, "tokens": 1.0}


def test_attention_that_reads_a_key_too_few_or_writes_elsewhere_is_found(
    loaded: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = correctness.arena_operator

    def one_key_less(*given: Any) -> Any:
        *before, counts, queries, keys, scale = given
        return right(*before, (counts - 1).clamp(min=1), queries, keys, scale)

    def shifted(query: Any, key: Any, value: Any, keys: Any, values: Any, at: Any, *rest: Any) -> Any:
        return right(query, key, value, keys, values, at + 1, *rest)

    bench = Bench(loaded, tmp_path, Sizes.of(loaded.device))
    for wrong in (one_key_less, shifted):
        monkeypatch.setattr(correctness, "arena_operator", wrong)
        with pytest.raises(ArithmeticError, match="errors of attention above"):
            arena_attention(bench)
