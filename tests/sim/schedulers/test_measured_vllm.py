"""A measured run of vLLM, met by its rules and its step times."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from sim import simulate
from traces.trace import Trace

STEPS, RUN = "rtx4090-llama-3.1-8b-steps.csv", "rtx4090-llama-3.1-8b-vllm.csv"
DATA = Path(os.environ.get("SEQSCHED_DATA", "/nowhere"))


@pytest.mark.skipif(
    not ((DATA / STEPS).exists() and (DATA / RUN).exists()),
    reason=f"SEQSCHED_DATA names no folder with {STEPS} and {RUN}",
)
def test_a_measured_vllm_run_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its step times and settings alone; nothing is fitted to the run."""
    import pandas as pd

    from sim.hardware import regime_fit
    from sim.hardware.fitting import fit, read_steps

    monkeypatch.setattr(regime_fit, "NUM_FOLDS", 2)  # the terms come out the same, in a fifth of the time

    measured = pd.read_csv(DATA / RUN)
    n = len(measured)
    trace = Trace(
        "measured",
        np.arange(n),
        measured.prompt_tokens.to_numpy(),
        measured.output_tokens.to_numpy(),
        arrival_s=measured.arrival_s.to_numpy(),
    )
    machine, _ = fit(read_steps(DATA / STEPS), "rtx4090", date="2026-01-01")
    policy = "continuous:max_num_seqs=256,max_num_batched_tokens=2048"
    s = simulate(trace, policy=policy, profile=machine, kv_blocks=2588).summary
    end = (measured.arrival_s + measured.e2el_ms / 1e3).max() - measured.arrival_s.min()
    assert s["completed"] == n
    assert s["output_throughput"] == pytest.approx(measured.output_tokens.sum() / end, rel=0.05)
    for name, tolerance in (("tpot", 0.06), ("ttft", 0.10), ("e2el", 0.07)):
        column = measured[f"{name}_ms"]
        assert s[f"mean_{name}_ms"] == pytest.approx(column.mean(), rel=tolerance), name
        assert s[f"p99_{name}_ms"] == pytest.approx(np.percentile(column, 99), rel=0.10), name
    assert s["preemptions"] > 0
    assert math.isclose(s["kv_peak_fraction"], 1.0, abs_tol=0.01)
