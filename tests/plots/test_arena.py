"""The arena's picture: a number per cell, names once, and no colour where it may be chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from plots import arena, style
from traces.errors import InputError

POLICIES = (
    ("continuous", "none"),
    ("continuous:order=mlfq", "none"),
    ("continuous:order=ltr", "rank:tau=0.6"),
)


def table() -> pd.DataFrame:
    """The second policy gains by chance only, the third is twice as fast."""
    rows = []
    for case in ("27,062 KV blocks", "3,382 KV blocks, bursty arrivals"):
        for load in (0.9, 1.2):
            for seed in (0, 1, 2):
                for k, (policy, predictor) in enumerate(POLICIES):
                    value = (100, (50, 200, 90)[seed], 50)[k]
                    rows.append((case, load, seed, policy, predictor, float(value), 100, 0, None))
    columns = [
        "case",
        "load",
        "seed",
        "policy",
        "predictor",
        "mean_ttft_ms",
        "completed",
        "failed",
        "failed_reason",
    ]
    return pd.DataFrame(rows, columns=columns)


def test_a_row_per_policy_and_a_column_per_case_and_load() -> None:
    _, (ax,) = style.figure(6, 4)
    arena.panel(table(), ax, "mean_ttft_ms", has_names=True)
    numbers = [t for t in ax.texts if t.get_text().replace(".", "").isdigit()]
    assert [t.get_text() for t in numbers].count("2.00") == 4 and len(numbers) == 8
    assert [t.get_text() for t in ax.get_yticklabels()] == ["", "rank tau=0.6"]
    assert {"mlfq", "ltr"} <= {t.get_text() for t in ax.texts}
    assert [t.get_text() for t in ax.get_xticklabels()] == ["90", "120"] * 2
    grey = {t.get_text() for t in numbers if t.get_color() == arena.CHANCE}
    assert grey == {f"{(100**3 / (50 * 200 * 90)) ** (1 / 3):.2f}"}
    drawn = np.ma.masked_invalid(np.ma.getdata(ax.images[0].get_array()))
    assert drawn.shape == (2, 4) and drawn.mask[0].all() and not drawn.mask[1].any()


def test_labels_say_what_differs_and_no_more() -> None:
    policy = "continuous:order=shortest-remaining,preempt_until=0.8,ask_every=50"
    assert arena.policy_label(policy) == "shortest-remaining,\npreempt_until=0.8, ask_every=50"
    assert arena.predictor_label("learned:file=p.npz") == "learned"
    assert arena.predictor_label("tuned:charge=off,sigma=0.3") == "tuned sigma=0.3"
    assert arena.predictor_label("none") == ""


def test_the_figure_is_written(tmp_path: Path) -> None:
    style.save(arena.figure(table(), ["mean_ttft_ms"]), tmp_path / "arena.png")
    assert (tmp_path / "arena.png").stat().st_size > 10_000


def test_metrics_are_those_of_the_table() -> None:
    with pytest.raises(InputError, match=r"metrics: 'mean_itl_ms' is not one of mean_ttft_ms"):
        arena.check_metrics(["mean_itl_ms"])


@pytest.mark.parametrize("baseline", ["continuous", "continuous:prefix_caching=on"])
def test_a_narrow_picture_cuts_nothing_off_its_label(baseline: str) -> None:
    frame = table().replace("continuous", baseline)
    fig = arena.figure(frame[frame["load"] == 0.9], ["mean_ttft_ms"])
    fig.draw_without_rendering()
    label = fig.axes[-1].xaxis.label
    assert "may be chance" in label.get_text().replace("\n", " ")
    extent = label.get_window_extent()
    assert extent.x0 >= 0 and extent.x1 <= fig.bbox.x1 and extent.y0 >= 0
