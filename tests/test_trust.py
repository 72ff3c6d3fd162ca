"""What docs/trust.md shows is what its code prints, and every key that it names is known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sim.hardware import load
from sim.hardware.overrides import HELP, HELP_IN_FULL, WHAT_IFS, field_names, markdown

PAGE = (Path(__file__).parents[1] / "docs" / "trust.md").read_text(encoding="utf-8")


def test_the_example_prints_what_the_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    (code, shown) = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", PAGE, re.DOTALL)[0]
    exec(compile(code, "docs/trust.md", "exec"), {})
    assert capsys.readouterr().out == shown


def test_the_page_explains_every_what_if_as_the_help_does() -> None:
    assert markdown() in PAGE, f"docs/trust.md: put in place of its table of keys\n{markdown()}"
    assert all(f"{key}={what.value}" in HELP_IN_FULL and key in HELP for key, what in WHAT_IFS.items())


def test_every_key_of_the_page_is_known() -> None:
    keys = set(re.findall(r"`([a-z_.]+)=[^`]*`", PAGE))
    keys -= {"set"}  # the keyword of the Python call
    assert keys <= {*WHAT_IFS, *field_names(load("h200-vicuna-7b"))}
