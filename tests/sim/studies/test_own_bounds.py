"""Which share of a log's requests is within bounds of its own, measured and predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sim import simulate
from sim.cli import main
from sim.studies.server_log import against
from tests.sim.studies.test_server_log import COLUMNS, SETTINGS, log  # noqa: F401
from traces import InputError


def test_shares_within_own_bounds_are_compared_by_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how: dict[str, Any] = {"num_prompts": 80, "request_rate": 20, **SETTINGS}
    median = simulate("alpaca-vicuna", policy="continuous", **how).summary["median_ttft_ms"]
    classes = f"[/x]:share=50%,ttft={median};batch:ttft={1.1 * median},tpot=40;free:share=10%"
    table = simulate("alpaca-vicuna", policy="continuous", slo_classes=classes, **how).requests
    within = (table.ttft_ms <= table.ttft_slo_ms) & ~(table.tpot_ms > table.tpot_slo_ms)
    bounded = table.slo_class != "free"
    path = tmp_path / "log.csv"
    columns = [*COLUMNS, "ttft_slo_ms", "tpot_slo_ms", "slo_class"]
    table[columns].assign(tpot_ms=table.tpot_ms.fillna(0.0)).to_csv(path, index=False)
    found = against(path, policy="continuous:max_num_seqs=4,async_scheduling=off", **SETTINGS)
    assert list(found.within) == ["all", "[/x]", "batch"]
    for name, (measured, predicted) in found.within.items():
        of_name = bounded if name == "all" else table.slo_class == name
        assert measured == pytest.approx(within[of_name].mean()) and predicted < measured
    shares = found.to_json()["slo_attainment"]["batch"]
    assert shares["error_points"] == pytest.approx(100 * (shares["predicted"] - shares["measured"]))
    main(["validate", "--against", str(path), "--policy", "continuous", "--profile", "h200-vicuna-7b"])
    shown = capsys.readouterr().out
    assert "slo_attainment_[/x]" in shown and "points" in shown
    with pytest.raises(InputError, match=r"slo_classes: .* the server of the log knew the bounds"):
        against(path, slo_classes=classes, **SETTINGS)


def test_where_no_request_states_bounds_nothing_is_said_of_them(log: Path) -> None:  # noqa: F811
    found = against(log, **SETTINGS)
    assert not found.within and "slo_attainment" not in found.to_json()
