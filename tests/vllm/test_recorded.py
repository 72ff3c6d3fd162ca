"""Our decisions are those that vLLM's own scheduler took: its rules one by one, as it once decided them."""

from __future__ import annotations

import pytest

from tests.vllm import check, record, simulated
from tests.vllm.examples import EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_rule_of_vllm_holds(name: str) -> None:
    assert not check.first_difference(EXAMPLES[name], record.read()[name])


@pytest.mark.parametrize("is_ahead", [False, True])
def test_random_worlds_are_decided_alike(is_ahead: bool) -> None:
    """Which iteration differs, `make vllm-check` says."""
    digests = record.read_digests()
    worlds = [world for world in record.random_worlds() if world.async_scheduling is is_ahead]
    assert {world.name for world in worlds} <= digests.keys()
    differing = [w.name for w in worlds if record.digest(w, simulated.decide(w)) != digests[w.name]]
    assert not differing
