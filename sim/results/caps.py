"""Whether the caps that requests come with give the lengths of their answers away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from traces.trace import IntArray

TELLS = 0.5
"""Share of the requests from which on caps that are the answer's length are a prediction."""


def share_at_cap(caps: IntArray, output_tokens: IntArray) -> float:
    """The share of requests whose cap is the answer's length; arrays of shape (n,)."""
    return float((caps == output_tokens).mean())


def cap_texts(summary: Mapping[str, Any]) -> list[str]:
    """What a table has to say of the caps, a sentence or none."""
    share = summary.get("share_at_cap")
    if share is None or share < TELLS:
        return []
    whose = "Every request's cap is" if share == 1 else f"{share:.0%} of the requests' caps are"
    return [
        f"{whose} the answer's length: caps tell what a scheduler may not know otherwise. They decide what "
        "fits; no order or plan goes by them, unless with --predictor cap."
    ]
