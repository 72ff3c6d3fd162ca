"""Settings of all tests: how Hypothesis looks for worlds, and which tests `make test-fast` leaves out.

Hypothesis looks for new worlds on a desk, and at the same ones in CI: no landing depends on dice.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

SLOW = (
    "tests/plots/test_calibration.py",
    "tests/plots/test_capacity.py",
    "tests/plots/test_examples.py",
    "tests/plots/test_gain_map.py",
    "tests/plots/test_load.py",
    "tests/plots/test_policies.py",
    "tests/plots/test_report.py",
    "tests/plots/test_sensitivity.py",
    "tests/real/calibration/test_memory_floor.py",
    "tests/real/engines/test_engines.py",
    "tests/real/execution/test_executor.py",
    "tests/real/test_calibrate.py",
    "tests/real/test_perception.py",
    "tests/real/test_quality.py",
    "tests/real/test_tune.py",
    "tests/real/test_validate.py",
    "tests/sim/cli/test_predictor.py",
    "tests/sim/execution/test_environment.py",
    "tests/sim/execution/test_leap.py",
    "tests/sim/learning/test_training.py",
    "tests/sim/parallel/test_cores.py",
    "tests/sim/parallel/test_dask.py",
    "tests/sim/perception/learned/test_embedding.py",
    "tests/sim/planning/test_plan.py",
    "tests/sim/scenario/test_settings.py::test_a_type_checker_catches_a_misspelt_setting_in_code_of_others",
    "tests/sim/schedulers/test_ahead.py",
    "tests/sim/sweeps/test_sweep.py",
    "tests/sim/test_fleet_invariants.py",
    "tests/sim/test_invariants.py",
    "tests/sim/test_public_traces.py",
    "tests/sim/test_theory.py",
    "tests/traces/test_fit_alpaca.py",
)
"""Files with whole experiments, real models, several processes or hundreds of random worlds. A slow test
elsewhere has the mark itself.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in the slow files."""
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
