"""Every key of a summary is explained, and every word is explained once."""

from __future__ import annotations

import re

from sim import simulate
from sim.results.metric_kinds import STATISTICS
from tests.docs.pages import ROOT, Page

GLOSSARY = Page(ROOT / "docs" / "glossary.md")
METRICS = Page(ROOT / "docs" / "metrics.md")


def test_every_key_of_a_summary_is_explained() -> None:
    text = METRICS.text.replace("{mean,median,std,p90,p99}", "{}")
    keys = {key for name in re.findall(r"`([a-z0-9_{}]+)`", text) for key in _every_statistic(name)}
    labels = set(re.findall(r"`([a-z0-9_]+)`", GLOSSARY.text.split("## Labels of a summary")[1]))
    summary = simulate(num_prompts=8, policy="continuous").summary
    assert [key for key in summary if key not in keys | labels] == []
    assert labels <= set(summary)


def test_every_word_is_explained_once() -> None:
    words = [w.strip() for term in re.findall(r"\*\*(.+?)\.?\*\*", GLOSSARY.text) for w in term.split(",")]
    assert len(words) > 50
    assert sorted(set(words)) == sorted(words)


def _every_statistic(name: str) -> list[str]:
    return [name.replace("{}", statistic) for statistic in STATISTICS] if "{}" in name else [name]
