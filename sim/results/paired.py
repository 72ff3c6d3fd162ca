"""Policies compared on the same requests, seed by seed: gains over a baseline, and how sure they are.

Takes tables; knows nothing of how their rows came about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

NONE = "none"
"""The predictor of a policy that needs none."""

LATENCIES = tuple(f"{s}_{m}_ms" for m in ("ttft", "tpot", "e2el") for s in ("mean", "p99"))
SESSION_LATENCIES = ("mean_session_ms", "p99_session_ms")
"""Of traces with sessions, how long these took."""

WHERE = ["case", "load"]
WHO = ["policy", "predictor"]


def gains(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """How many times lower `metric` is than the baseline's: columns case, load, policy, predictor, gain, low
    and high.

    The geometric mean over seeds, each against the baseline of its own seed, with the 95 % interval of
    Student's t over their logarithms; NaN with one seed.
    """
    import pandas as pd
    from scipy import stats

    base = frame.groupby([*WHERE, "seed"], sort=False)[metric].first()  # the baseline comes first
    logs = frame.set_index([*WHERE, "seed"])
    logs = logs.assign(log=np.log(base.reindex(logs.index).to_numpy(float) / logs[metric].to_numpy(float)))
    rows: list[Mapping[str, Any]] = []
    for key, group in logs.reset_index().groupby([*WHERE, *WHO], sort=False):
        values = group["log"].to_numpy(float)
        n, mean = len(values), float(values.mean())
        half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5) if n > 1 else float("nan")
        ends = {"gain": np.exp(mean), "low": np.exp(mean - half), "high": np.exp(mean + half)}
        rows.append({**dict(zip([*WHERE, *WHO], key, strict=True)), **ends})
    return pd.DataFrame(rows)


def winners(frame: pd.DataFrame, metric: str, least: float = 1.05) -> pd.DataFrame:
    """The policy that gains most with each predictor, by case and load, and its gain; the baseline where none
    gains `least`, or where that may be chance.

    Columns case, load, predictor, policy, gain.
    """
    import pandas as pd

    baseline = frame["policy"].iloc[0]
    table, rows = gains(frame, metric), list[Mapping[str, Any]]()
    table = table[table["policy"] != baseline]
    for (case, load, predictor), group in table.groupby([*WHERE, "predictor"], sort=False):
        best = group.sort_values("gain", kind="stable").to_dict("records")[-1]
        is_sure = best["gain"] >= least and not best["low"] < 1.0
        policy, gain = (best["policy"], best["gain"]) if is_sure else (baseline, 1.0)
        where = {"case": case, "load": load, "predictor": predictor}
        rows.append({**where, "policy": policy, "gain": gain})
    return pd.DataFrame(rows)
