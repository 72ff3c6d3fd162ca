"""Every key that docs/trust.md names is known, and its table of what-ifs is that of the help."""

from __future__ import annotations

import re
from dataclasses import fields

from sim.hardware import load
from sim.hardware.overrides import HELP, HELP_IN_FULL, WHAT_IFS, field_names, markdown
from sim.schedulers.continuous_options import ContinuousOptions
from tests.docs.pages import ROOT, Page

PAGE = Page(ROOT / "docs" / "trust.md")


def test_the_page_explains_every_what_if_as_the_help_does() -> None:
    assert markdown() in PAGE.text, f"docs/trust.md: put in place of its table of keys\n{markdown()}"
    assert all(f"{key}={what.value}" in HELP_IN_FULL and key in HELP for key, what in WHAT_IFS.items())


def test_every_key_of_the_page_is_known() -> None:
    keys = set(re.findall(r"`([a-z_.]+)=[^`]*`", PAGE.text))
    keys -= {"set"}  # the keyword of the Python call
    keys -= {option.name for option in fields(ContinuousOptions)}
    assert keys <= {*WHAT_IFS, *field_names(load("h200-vicuna-7b"))}
