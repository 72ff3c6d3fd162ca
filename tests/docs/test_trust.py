"""Every key that docs/trust.md names is known, and its table of what-ifs is that of the help."""

from __future__ import annotations

import re
from dataclasses import fields

from sim.hardware import load
from sim.hardware.catalogue import names
from sim.hardware.overrides import HELP, HELP_IN_FULL, WHAT_IFS, field_names, markdown
from sim.hardware.roofline import estimate
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


def test_the_errors_of_a_roofline_are_those_against_the_composed_profiles() -> None:
    rows = re.findall(r"^\| (A100-80GB|H100|H200) \| (sglang|trtllm) \| (.*) \|$", PAGE.text, re.MULTILINE)
    assert len(rows) == sum("vicuna-7b-sglang" in n or "vicuna-7b-trtllm" in n for n in names()) == 6
    for gpu, engine, cells in rows:
        guess, made = (
            profile.step_cost
            for profile in (estimate("vicuna-7b", gpu), load(f"{gpu.lower()}-vicuna-7b-{engine}"))
        )
        errors = [guess.decode_s(n, 512 * n) / made.decode_s(n, 512 * n) - 1 for n in (1, 16, 64, 256)]
        errors += [guess.padded_prefill_s(1, t) / made.padded_prefill_s(1, t) - 1 for t in (512, 2048)]
        assert cells.split(" | ") == [f"{100 * e:+.0f} %".replace("-", "−") for e in errors]
