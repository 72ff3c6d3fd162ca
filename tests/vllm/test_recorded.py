"""Our decisions are those that vLLM's own scheduler took: its rules one by one, as it once decided them."""

from __future__ import annotations

import pytest

from tests.vllm import check, record
from tests.vllm.examples import EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_rule_of_vllm_holds(name: str) -> None:
    assert not check.first_difference(EXAMPLES[name], record.read()[name])
