from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plots import policies, style
from sim import simulate
from sim.results.batch_record import BatchRecord
from sim.results.ledger import Ledger, ReplicaUse
from sim.results.result import Result, make_result
from traces import load

Results = dict[str, Result]


def without_throughput(result: Result) -> Result:
    return replace(result, summary={**result.summary, "request_throughput": None})


def test_throughput_bars_are_the_requests_per_second(four: Results) -> None:
    _, (ax,) = style.figure(8, 4)
    policies.throughput(four, ax)
    drawn = [bar.get_width() for bar in ax.containers[0]]
    assert drawn == [r.summary["request_throughput"] for r in four.values()]
    assert ax.get_xlabel() == "Request throughput (requests/s)"
    assert ax.get_xlim()[0] == 0
    assert ax.yaxis_inverted(), "the first policy is on top"


def test_throughput_writes_the_ratio_to_the_first(four: Results) -> None:
    _, (ax,) = style.figure(8, 4)
    policies.throughput(four, ax)
    values = [r.summary["request_throughput"] for r in four.values()]
    texts = [t.get_text() for t in ax.texts]
    assert [t.split("(")[1] for t in texts] == [f"{v / values[0]:.2f}×)" for v in values]
    assert [float(t.split()[0]) for t in texts] == pytest.approx(values, rel=0.005)


def test_throughput_that_is_undefined_says_so(four: Results) -> None:
    _, (ax,) = style.figure(8, 4)
    policies.throughput({n: without_throughput(r) for n, r in four.items()}, ax)
    assert {t.get_text() for t in ax.texts} == {"undefined"}


def test_token_bars_add_up_to_the_tokens_of_the_run(eight: Results) -> None:
    _, (ax,) = style.figure(8, 6)
    policies.tokens(eight, ax)
    drawn = np.array([[bar.get_width() for bar in part] for part in ax.containers]).T
    completed = np.array([r.summary["completed"] for r in eight.values()])
    assert drawn * completed[:, None] == pytest.approx(
        np.array([r.tokens for r in eight.values()], dtype=float)
    )
    assert (drawn[2:4, 2] > 0).any(), "a run with failures is among them"
    lefts = np.array([[bar.get_x() for bar in part] for part in ax.containers]).T
    assert lefts[:, 1:] == pytest.approx(np.cumsum(drawn, axis=1)[:, :-1])


def test_token_bars_state_the_useful_share(four: Results) -> None:
    _, (ax,) = style.figure(8, 4)
    policies.tokens(four, ax)
    shares = [r.tokens.useful / sum(r.tokens) for r in four.values()]
    assert [t.get_text().split("(")[1] for t in ax.texts] == [f"{100 * s:.1f} % useful)" for s in shares]
    assert "tokens" in ax.get_xlabel()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "useful",
        "padding",
        "recomputed",
        "perception",
    ]


def test_latency_curves_are_the_distribution_in_seconds(four: Results) -> None:
    _, (ax,) = style.figure(8, 4)
    policies.latency_cdf(four, ax)
    for line, result in zip(ax.get_lines(), four.values(), strict=True):
        assert line.get_xdata()[1:] == pytest.approx(np.sort(result.columns["e2el_ms"]) / 1000)
        assert line.get_ydata()[-1] == pytest.approx(100)
    assert ax.get_xlabel() == "End-to-end latency (s)"
    assert ax.get_ylabel().endswith("(%)")
    assert len({str(line._unscaled_dash_pattern) for line in ax.get_lines()}) == 4


def test_latency_of_requests_that_did_not_complete_is_missing_from_the_top(four: Results) -> None:
    name, result = next(iter(four.items()))
    columns = {k: v.copy() for k, v in result.columns.items()}
    quarter = len(columns["e2el_ms"]) // 4
    columns["e2el_ms"][:quarter] = columns["finish_s"][:quarter] = np.nan
    _, (ax,) = style.figure(8, 4)
    policies.latency_cdf({name: replace(result, columns=columns)}, ax)
    assert ax.get_lines()[0].get_ydata()[-1] == pytest.approx(75)


def test_tpot_that_one_token_answers_do_not_have_is_left_out(four: Results) -> None:
    assert any((r.columns["output_tokens"] == 1).any() for r in four.values())
    _, (ax,) = style.figure(8, 4)
    policies.latency_cdf(four, ax, "tpot")
    assert [line.get_ydata()[-1] for line in ax.get_lines()] == pytest.approx([100] * 4)
    assert ax.get_xlabel().endswith("(ms)")


def test_latency_names_the_metrics_it_knows(four: Results) -> None:
    _, (ax,) = style.figure(8, 4)
    with pytest.raises(ValueError, match=r"latency \(itl\) must be one of ttft, tpot, e2el, wait"):
        policies.latency_cdf(four, ax, "itl")


@pytest.mark.parametrize("count", [1, 2, 8])
def test_no_text_overlaps_another_or_leaves_the_figure(
    eight: Results, count: int, touching: Callable[..., Any], all_texts: Callable[..., Any]
) -> None:
    chosen = dict(list(eight.items())[-count:])
    for name, fig in policies.figures(chosen).items():
        texts = all_texts(fig)
        assert touching(fig, texts) == [], name
        for text in texts:
            if text.get_text().strip() and text.get_visible():
                box, page = text.get_window_extent(), fig.bbox
                inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1
                assert inside, f"{name}: {text.get_text()!r}"


def test_figures_of_one_run_are_the_same_bytes_each_time(four: Results, tmp_path: Path) -> None:
    for turn in ("a", "b"):
        (tmp_path / turn).mkdir()
        for name, fig in policies.figures(dict(list(four.items())[:2])).items():
            style.save(fig, tmp_path / turn / f"{name}.png")
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names == ["latency.png", "throughput.png", "timeline.png", "token_grids.png", "tokens.png"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_a_run_in_which_nothing_completed_can_be_drawn(tmp_path: Path) -> None:
    ledger = Ledger(2, [0.0, 1.0], replicas=[ReplicaUse("", 1)])
    ledger.batches = [BatchRecord("Drop", (0, 1), 0, 0, 1.0, 1.0, 1.0)]
    ledger.reason = dict.fromkeys(range(2), "rejected: too long")
    result = make_result(
        ledger,
        request_id=np.arange(2),
        prompt_tokens=np.full(2, 9),
        output_tokens=np.full(2, 9),
        priority=None,
        labels={"policy": "strict"},
    )
    made = policies.figures({"strict": result})
    for name, fig in made.items():
        style.save(fig, tmp_path / f"{name}.png")
    said = {name: [t.get_text() for ax in fig.axes for t in ax.texts] for name, fig in made.items()}
    assert said["throughput"] == ["undefined"] and said["tokens"] == ["no tokens"]
    assert [*made] == ["throughput", "tokens", "latency"], "there are no padded batches"


def test_figures_need_a_policy() -> None:
    with pytest.raises(ValueError, match="0 policies"):
        policies.figures({})


def test_continuous_batching_has_no_padded_batches_to_draw(four: Results) -> None:
    continuous = simulate(load("fixed", num_prompts=8), policy="continuous")
    assert [*policies.figures({"continuous": continuous})] == ["throughput", "tokens", "latency"]
    made = policies.figures({"vanilla": four["vanilla"], "continuous": continuous})
    for stem in ("token_grids", "timeline"):
        texts = [text.get_text() for ax in made[stem].axes for text in ax.texts]
        assert any("no padded batches to draw" in text for text in texts), stem
