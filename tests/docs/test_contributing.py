"""The scheduler shown in CONTRIBUTING.md runs as shown, from outside the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim import compare, simulate
from tests.docs.pages import ROOT, Page
from traces import load

GUIDE = Page(ROOT / "CONTRIBUTING.md")


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    text = GUIDE.files["shortest.py"]
    assert len(text.splitlines()) < 60
    (tmp_path / "shortest.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "shortest:Shortest"


def test_the_example_serves_every_request_and_beats_vanilla_with_true_lengths(example: str) -> None:
    trace = load("alpaca-vicuna", num_prompts=200)
    found = compare(trace, policies=["vanilla", example], predictor="exact")
    assert found.summaries[example]["completed"] == 200
    ratio = found.ratios()[example]
    assert ratio is not None and ratio > 1.2


def test_the_example_takes_options_asks_for_lengths_and_refuses_bad_ones(example: str) -> None:
    trace = load("alpaca-vicuna", num_prompts=200)
    result = simulate(trace, policy=f"{example}:batch_size=64", predictor="tuned")
    assert result.summary["perception_s"] > 0
    sizes = [len(d["requests"]) for d in result.decisions if d["kind"] == "PaddedBatch"]
    assert max(sizes) == 64 and sum(sizes) == 200
    with pytest.raises(ValueError, match=r"batch_size: 0 must be at least 1"):
        simulate(trace, policy=f"{example}:batch_size=0")
