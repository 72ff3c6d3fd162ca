"""The flags and the measured grid that docs/sweep.md names are there."""

from __future__ import annotations

import inspect
import re

from sim import plan, sweep
from sim.sweeps.grid import read_grid
from tests.docs.pages import ROOT, Page

PAGE = Page(ROOT / "docs" / "sweep.md")


def test_flags_and_lists_that_the_page_names_are_there() -> None:
    flags = {flag.replace("-", "_") for flag in re.findall(r"`--([a-z-]+)", PAGE.text)}
    flags |= {flag.replace("-", "_") for flag in re.findall(r"seqsched sweep .*? --([a-z-]+)", PAGE.text)}
    assert flags >= {"out", "prune", "retry_failed", "jobs", "backend"}
    assert flags - {"state", "server", "gpu"} <= set(inspect.signature(sweep).parameters)
    assert "state" in inspect.signature(plan).parameters  # the page says what a plan keeps, too
    assert "defaults" in inspect.signature(sweep).parameters  # of a server


def test_the_sweep_that_speed_is_measured_with_has_200_points_of_10_000_requests() -> None:
    grid = read_grid(ROOT / "plots" / "examples" / "sweep.toml")
    assert len(grid.points()) == 200 and grid.fixed["num_prompts"] == 10_000
