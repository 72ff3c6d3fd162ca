"""What is said of a policy before any request has come."""

from __future__ import annotations

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

from real.serving.policy import note_on


@pytest.mark.parametrize("order", ["deadline", "least-laxity"])
def test_an_order_by_deadlines_says_by_which_headers(order: str) -> None:
    said = note_on(f"continuous:order={order}")
    assert said.startswith(f"order={order} goes by the bounds that clients state (x-llm-d-slo-ttft-ms, ")
    assert "x-seqsched-slo-e2el-ms, x-seqsched-deadline-s" in said and "first come, first served" in said


@pytest.mark.parametrize(
    "policy", ["continuous", "continuous:order=shortest-predicted", "sequence", "vanilla"]
)
def test_others_need_no_word(policy: str) -> None:
    assert not note_on(policy)
