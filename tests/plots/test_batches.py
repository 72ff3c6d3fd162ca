from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch

from plots import batches, style
from sim.results.batch_record import BatchRecord
from sim.results.ledger import Ledger, ReplicaUse
from sim.results.result import Result, make_result

Results = dict[str, Result]


def area(ax: Axes, part: str) -> float:
    """What the shape of this part covers, in data units squared."""
    total = 0.0
    for patch in ax.patches:
        if isinstance(patch, PathPatch) and patch.get_label() == part:
            for corners in patch.get_path().to_polygons():
                x, y = corners[:-1].T
                total += abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    return total


def tiny() -> Result:
    """Three requests of 2, 5 and 9 tokens: all cut at 5, the last run again alone."""
    ledger = Ledger(3, [0.0, 0.0, 0.0], replicas=[ReplicaUse("", 1000)])
    ledger.batches = [
        BatchRecord("Perceive", (0, 1, 2), 8, 9, 0.0, 0.5, 1.0, 10),
        BatchRecord("PaddedBatch", (0, 1, 2), 5, 5, 1.0, 1.5, 4.0, 10, 0.5),
        BatchRecord("PaddedBatch", (2,), 20, 9, 4.0, 4.5, 8.0, 10, 0.4),
    ]
    ledger.first_token_s, ledger.finish_s = [1.5, 1.5, 4.5], [4.0, 4.0, 8.0]
    ledger.row_length, ledger.failed_tokens, ledger.final_batch = [5, 5, 9], [0, 0, 5], [1, 1, 2]
    return make_result(
        ledger,
        request_id=np.arange(3),
        prompt_tokens=np.full(3, 10),
        output_tokens=np.array([2, 5, 9]),
        priority=None,
        labels={"policy": "by hand"},
    )


def test_token_grid_draws_every_token_once() -> None:
    _, (ax,) = style.figure(4, 4)
    batches.token_grid(tiny(), ax)
    assert area(ax, "useful") == 2 + 5 + 9
    assert area(ax, "padding") == 3
    assert area(ax, "cut off and recomputed") == 5
    assert ax.get_ylim() == (4, 0), "a row per attempt, the first on top"
    assert "effective token ratio 84.2 %" in ax.get_title()
    assert "66.7 % of all attempts" in ax.get_title()
    assert ax.get_xlabel().endswith("(tokens)") and ax.get_ylabel().endswith("(attempts)")


def test_token_grids_of_all_groups_hold_the_tokens_of_the_run(eight: Results) -> None:
    for name, result in eight.items():
        drawn = np.zeros(3)
        finished = result.summary["completed"]
        for group in range(ceil(finished / 20)):
            _, (ax,) = style.figure(4, 4)
            try:
                batches.token_grid(result, ax, group, 20)
            except ValueError:
                continue  # a batch larger than a group leaves the next one empty
            drawn += [area(ax, p) for p in ("useful", "padding", "cut off and recomputed")]
        assert drawn == pytest.approx(np.array(result.tokens[:3], dtype=float)), name


def test_token_grid_ends_where_the_group_has_finished(four: Results) -> None:
    _, (ax,) = style.figure(4, 4)
    batches.token_grid(four["vanilla"], ax, group=1, group_size=32)
    assert ax.get_ylim() == (32, 0)
    outputs = four["vanilla"].columns["output_tokens"]
    assert area(ax, "useful") == outputs[32:64].sum()
    assert ax.get_ylabel().endswith("\nrequests 33 to 64 of 96 to finish")


def test_token_grid_names_the_groups_there_are(four: Results) -> None:
    _, (ax,) = style.figure(4, 4)
    with pytest.raises(ValueError, match=r"group \(3\) must be below 3"):
        batches.token_grid(four["vanilla"], ax, group=3, group_size=32)
    with pytest.raises(ValueError, match=r"group_size \(0\)"):
        batches.token_grid(four["vanilla"], ax, group_size=0)


def test_token_grids_share_one_scale(four: Results) -> None:
    drawn = [ax for ax in batches.token_grids(four).axes if ax.axison]
    assert len(drawn) == 4
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in drawn}) == 1
    widest = max(b.iterations for r in four.values() for b in r.batches)
    assert drawn[0].get_xlim()[1] >= widest


def test_token_grids_say_which_run_has_no_such_group(four: Results) -> None:
    fig = batches.token_grids(four, group=9)
    assert all("must be below" in ax.texts[0].get_text() for ax in fig.axes)


def test_timeline_is_rows_times_seconds(four: Results) -> None:
    result = four["sequence"]
    _, (ax,) = style.figure(6, 3)
    batches.batch_timeline(result, ax)
    spans = {
        kind: sum(len(b.request_ids) * (b.end_s - b.start_s) for b in result.batches if b.kind == kind)
        for kind in ("PaddedBatch", "Perceive")
    }
    assert area(ax, "finished rows") + area(ax, "rows cut off") == pytest.approx(spans["PaddedBatch"])
    assert area(ax, "rows cut off") > 0
    assert area(ax, "perception") == pytest.approx(spans["Perceive"])
    assert ax.get_xlim()[1] == pytest.approx(result.summary["duration"])
    assert ax.get_xlabel().endswith("(s)") and ax.get_ylabel().endswith("(rows)")


def test_timeline_ends_when_told() -> None:
    _, (ax,) = style.figure(6, 3)
    batches.batch_timeline(tiny(), ax, until_s=4.0)
    assert ax.get_xlim() == (0, 4.0)
    assert area(ax, "finished rows") == 2 * 3.0
    assert area(ax, "rows cut off") == 1 * 3.0


def test_timelines_end_where_batches_could_not_be_told_apart(
    four: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MAX_BATCHES", 3)
    end = min(r.batches[2].end_s for r in four.values() if len(r.batches) > 3)
    axes = batches.batch_timelines(four).axes
    assert {ax.get_xlim() for ax in axes} == {(0, end)}
    assert f"the first {end:,.0f} of" in axes[-1].get_xlabel()


def test_timelines_share_one_scale(four: Results) -> None:
    fig = batches.batch_timelines(four)
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in fig.axes}) == 1
