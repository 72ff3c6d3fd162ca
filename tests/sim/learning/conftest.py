"""Logs of made-up prompts whose words tell how long their answers are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TOPICS = {"poem": 60, "story": 400, "translate": 25, "prove": 250, "list": 120, "name": 10}
"""Word -> median length of the answers, in tokens."""


def rows(n: int, seed: int = 0, noise: float = 0.4, **columns: Any) -> list[dict[str, Any]]:
    """Requests with a prompt and the length of its answer, lognormal around that of its topic."""
    rng = np.random.default_rng(seed)
    topics = rng.choice(list(TOPICS), n)
    filler = rng.choice(["please", "kindly", "now", "again", "for me", "today", "quickly"], (n, 3))
    lengths = [max(1, round(TOPICS[t] * np.exp(noise * rng.normal()))) for t in topics]
    return [
        {"prompt": f"{topic} {' '.join(words)} about thing {i}?", "output_tokens": length, **columns}
        for i, (topic, words, length) in enumerate(zip(topics, filler, lengths, strict=True))
    ]


def write(path: Path, requests: list[dict[str, Any]]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in requests), encoding="utf-8")
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """300 requests with a prompt and a number of tokens."""
    return write(tmp_path / "log.jsonl", rows(300))
