"""Met, missed, or too noisy to tell; and how they end a run."""

from __future__ import annotations

import numpy as np
import pytest

from tests.servers.verdicts import STATUS, Outcome, Verdict, status_of

BOUND = 0.15


@pytest.mark.parametrize(
    ("error", "spread", "outcome"),
    [
        (0.10, 0.02, "met"),
        (-0.15, 0.15, "met"),
        (0.20, 0.02, "missed"),
        (-0.20, 0.15, "missed"),
        # Runs differ by more than the bound: neither a small error says anything, nor a large one.
        (0.01, 0.40, "too noisy to tell"),
        (-0.39, 0.40, "too noisy to tell"),
        (0.41, 0.40, "missed"),
        (np.nan, 0.02, "missed"),
        (0.01, np.nan, "missed"),
    ],
)
def test_an_error_is_held_against_its_bound_and_what_runs_differ_by(
    error: float, spread: float, outcome: Outcome
) -> None:
    verdict = Verdict("mean TTFT", error, BOUND, spread)
    assert verdict.outcome == outcome
    assert str(verdict).endswith(f": {outcome}") and verdict.to_json()["outcome"] == outcome


def test_a_miss_ends_a_run_whatever_else_is_noisy() -> None:
    assert status_of([]) == status_of(["met", "met"]) == 0
    assert status_of(["met", "too noisy to tell"]) == STATUS["too noisy to tell"] == 3
    assert status_of(["too noisy to tell", "missed", "met"]) == STATUS["missed"] == 1
