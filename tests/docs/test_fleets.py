"""docs/fleets.md names every router and every option of one."""

from __future__ import annotations

import re

from sim.fleet.routers import ROUTERS
from tests.docs.pages import ROOT, Page

TEXT = Page(ROOT / "docs" / "fleets.md").text


def test_every_router_stands_in_the_table() -> None:
    table = TEXT.split("| `--router` | a request goes to |", 1)[1].split("\n\n")[0]
    shown = [name for row in table.splitlines()[2:] for name in re.findall("`([a-z-]+)`", row.split("|")[1])]
    assert sorted(shown) == sorted(ROUTERS.names)


def test_every_option_of_a_router_is_named() -> None:
    options = {option for name in ROUTERS.names for option in ROUTERS.options_of(name)}
    assert {"slo_buffer_factor", "stale_s"} <= options
    assert [option for option in options if not re.search(rf"`[^`\n]*\b{option}\b", TEXT)] == []
