"""The public traces of Azure and Mooncake, at once, five and twenty times their rate: nothing is lost."""

from __future__ import annotations

import os

import pytest

from sim import simulate
from traces import load
from traces.trace import Trace

pytestmark = pytest.mark.skipif(
    not os.environ.get("SEQSCHED_DATA"), reason="SEQSCHED_DATA names no folder with the public traces"
)

FASTER = [1, 5, 20]
KV_TOKENS = (7353 - 1) * 16
"""What the default profile holds but for the block that the engine keeps."""


@pytest.fixture(scope="module")
def azure() -> Trace:
    return load("azure-conv-2023")


@pytest.fixture(scope="module")
def mooncake() -> Trace:
    return load("mooncake-conversation")


@pytest.mark.parametrize("replicas", [1, 8])
@pytest.mark.parametrize("faster", FASTER)
def test_azure_is_served_whole(azure: Trace, faster: int, replicas: int) -> None:
    result = simulate(azure, policy="continuous", time_scale=1 / faster, replicas=replicas)
    s, t = result.summary, result.requests
    assert (s["completed"], s["failed"]) == (len(azure), 0) == (19_366, 0)
    assert s["total_output_tokens"] == azure.output_tokens.sum()
    assert t.arrival_s.max() == pytest.approx((azure.arrival_s.max() - azure.arrival_s.min()) / faster)
    assert (t.arrival_s <= t.scheduled_s).all() and (t.scheduled_s < t.finish_s).all()


@pytest.mark.parametrize("faster", FASTER)
def test_mooncakes_prompts_run_where_memory_holds_them_and_else_are_refused_with_the_reason(
    mooncake: Trace, faster: int
) -> None:
    assert mooncake.prompt_tokens.max() == 126_195
    longest = int(mooncake.output_tokens.max())
    result = simulate(mooncake, policy="continuous", time_scale=1 / faster, replicas=8)
    t = result.requests
    need = t.prompt_tokens + longest
    assert (t.status == "rejected").equals(need > KV_TOKENS) and (t.status == "rejected").sum() == 34
    for i in t.index[t.status == "rejected"]:
        said = f"rejected: prompt + max_new_tokens ({need[i]}) exceeds the KV capacity ({KV_TOKENS})"
        assert t.reason[i] == said
    assert ((t.status == "completed") == (need <= KV_TOKENS)).all()


def test_mooncakes_longest_prompt_is_computed_whole_with_more_memory(mooncake: Trace) -> None:
    result = simulate(mooncake, policy="continuous", kv_blocks=8200, log=True)
    assert result.summary["completed"] == len(mooncake) == 12_031
    i = int(mooncake.prompt_tokens.argmax())
    chunks = [
        num_tokens
        for b in result.batches
        if i in b.request_ids and not b.evicted
        for request, (num_tokens, _) in zip(b.request_ids, b.chunks, strict=True)
        if request == i
    ]
    assert sum(chunks) >= 126_195 and max(chunks) <= 2048
