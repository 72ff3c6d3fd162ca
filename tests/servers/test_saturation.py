"""What a server can do, found by runs of which some meet a busy machine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("aiohttp", reason="needs the extra serve")

from sim.scenario.settings import WorkloadSettings
from tests.real.observing.server import Behaviour, serving
from tests.servers import saturation

TRACE = "lognormal:prompt_median=8,prompt_sigma=0.2,output_median=3,output_sigma=0.2,max_output_tokens=4"


def ends(slots: int, waves: int, wave_s: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """When requests end of which `slots` at a time take `wave_s` each."""
    return np.repeat(wave_s * np.arange(1, waves + 1), slots)


def test_the_rate_is_that_of_taken_slots() -> None:
    assert saturation.saturated_rate(ends(8, 5, 2.0), 8) == pytest.approx(4.0)
    # One straggler, alone with the server at the end, is no sign of what it can do; nor are failures.
    late = ends(8, 5, 2.0)
    late[-1] = 60.0
    assert saturation.saturated_rate(late, 8) == pytest.approx(4.0)
    assert saturation.saturated_rate(np.append(late, np.nan), 8) == pytest.approx(4.0)
    with pytest.raises(RuntimeError, match="8 of 9 requests completed"):
        saturation.saturated_rate(np.append(ends(8, 1, 2.0), np.nan), 8)


@pytest.mark.parametrize("waves_s", [(2.0, 9.0, 2.0), (9.0, 2.0, 2.0, 2.0, 8.0), (0.5, 2.0, 2.0)])
def test_a_run_that_met_a_busy_machine_decides_nothing(
    waves_s: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = iter([1.0, *waves_s])  # the first warms up

    def watched(url: str, workload: WorkloadSettings) -> Any:
        return SimpleNamespace(log=pd.DataFrame({"finish_s": ends(8, 5, next(runs))}))

    monkeypatch.setattr(saturation, "watched", watched)
    monkeypatch.setattr(saturation, "LEAST_RUNS", len(waves_s))
    monkeypatch.setattr(saturation, "LEAST_S", 0.0)
    assert np.median(saturation.saturated_rates("url", TRACE, 8)) == pytest.approx(4.0)


def test_short_runs_go_on_until_they_have_lasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saturation, "LEAST_S", 60.0)
    does = Behaviour()
    with serving(does) as url:
        assert min(saturation.saturated_rates(url, TRACE, 8)) > 0
    runs = saturation.MOST_RUNS
    assert len(does.seen) == 8 + runs * saturation.AT_ONCE + 2 * (1 + runs)  # two probes each


def test_an_interrupted_run_is_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saturation, "observe", lambda *_, **__: SimpleNamespace(is_interrupted=True))
    with pytest.raises(KeyboardInterrupt):
        saturation.watched("url", WorkloadSettings())
