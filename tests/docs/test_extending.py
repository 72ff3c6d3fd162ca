"""The recipes of docs/extending.md name files that are there, for every kind of extension."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT, Page

PAGE = Page(ROOT / "docs" / "extending.md")
RECIPES = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.text, re.MULTILINE | re.DOTALL))
KINDS = (
    "A policy",
    "A predictor",
    "A router",
    "A trace format",
    "A metric",
    "A `--set` key",
    "A workload or fleet flag",
    "A kind of Work",
    "A profile",
    "A way to run many simulations",
    "Larger changes",
)


def test_there_is_a_recipe_for_each_kind() -> None:
    assert [kind for kind in KINDS if kind not in RECIPES] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_names_code_that_is_there(kind: str) -> None:
    named = re.findall(r"\[((?:sim|real|traces|plots|tests)/[^\]]*)\]\(\.\./([^)]*)\)", RECIPES[kind])
    assert named
    for shown, target in named:
        assert shown.rstrip("/") == target and (ROOT / target).exists(), shown


def test_the_tables_that_recipes_name_are_in_their_files() -> None:
    """A name in capitals before `in [file]` is defined in that file."""
    found = re.findall(r"`([A-Z_]{4,})`, in\s+\[([^\]]+)\]", PAGE.text)
    assert len(found) >= 4
    for name, path in found:
        assert re.search(rf"^{name}\b", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), (name, path)
