"""Our decisions are those that vLLM's own scheduler took: its rules one by one, as it once decided them."""

from __future__ import annotations

import pytest

from real.validation.decisions import differences
from tests.vllm import record, simulated
from tests.vllm.examples import EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_rule_of_vllm_holds(name: str) -> None:
    decided = record.read()[name]
    assert not next(differences(decided, simulated.decide(EXAMPLES[name])), None)
