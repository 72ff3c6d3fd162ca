"""A tiny world run under several policies, and a way to see whether drawn texts touch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from sim.hardware.roofline import estimate
from sim.planning.answer import Plan
from sim.planning.plan import plan
from sim.results.result import Result
from sim.simulation import compare
from traces.trace import Trace

FOUR = ("vanilla", "sequence:vbs=off,fcr=off", "sequence", "sequence:vbs=memory,fcr=on,margin=0.9")
EIGHT = (
    *FOUR,
    "sequence:vbs=memory,fcr=off,margin=25,group_size=64",
    "sequence:vbs=table,fcr=on,max_wait_s=2.5,batch_size=8",
    "vanilla:batch_size=4",
    "sequence:vbs=table,fcr=on,margin=0.95,bin_width=100,perceive_batch=16",
)


@pytest.fixture(scope="session")
def trace() -> Trace:
    n, rng = 96, np.random.default_rng(3)
    return Trace(
        name="tiny",
        request_id=np.arange(n),
        prompt_tokens=rng.integers(10, 80, n),
        output_tokens=np.concatenate([[1, 300], rng.integers(1, 300, n - 2)]),
        max_new_tokens=300,
    )


@pytest.fixture(scope="session")
def planned() -> Plan:
    """A plan with everything in it: two policies, two machines, a spare, prices, curves, sensitivity."""
    return plan(
        "lognormal:output_median=40",
        slo="ttft_p90:1500 attainment:0.8",
        goodput={"ttft": 1500.0, "tpot": 90.0},
        request_rate=4.0,
        policies="continuous;continuous:max_num_seqs=8,order=shortest-predicted",
        spare=1,
        price={"H200": 3.5, "A100-80GB": 1.8},
        num_requests=60,
        max_requests=120,
        max_seeds=3,
        jobs=1,
        curves=True,
        sensitivity=True,
    )


@pytest.fixture(scope="session")
def eight(trace: Trace) -> dict[str, Result]:
    made = compare(
        trace,
        policies=EIGHT,
        predictor="noisy:sigma=0.5,round_to=50",
        profile=estimate("vicuna-7b", "A100-80GB", efficiency=0.5),
    )
    return made.results


@pytest.fixture(scope="session")
def four(eight: dict[str, Result]) -> dict[str, Result]:
    return {name: eight[name] for name in FOUR}


@pytest.fixture
def touching() -> Callable[[Figure, Iterable[Text]], list[tuple[str, str]]]:
    """The pairs among these texts whose boxes overlap once the figure is laid out."""

    def find(fig: Figure, texts: Iterable[Text]) -> list[tuple[str, str]]:
        fig.draw_without_rendering()
        shown = [t for t in texts if t.get_visible() and t.get_text().strip()]
        assert shown, "no text was given to compare"
        boxes: Sequence[Any] = [t.get_window_extent() for t in shown]
        return [
            (shown[i].get_text(), shown[j].get_text())
            for i, j in combinations(range(len(shown)), 2)
            if boxes[i].overlaps(boxes[j])
        ]

    return find


@pytest.fixture
def all_texts() -> Callable[[Figure], list[Text]]:
    """Every text of a figure that is drawn: titles, labels of axes and ticks, legends, annotations."""

    def collect(fig: Figure) -> list[Text]:
        fig.draw_without_rendering()
        found = [*fig.texts, *(t for legend in fig.legends for t in legend.get_texts())]
        found += [t for t in (fig._suptitle, fig._supxlabel) if t is not None and t not in found]
        for ax in fig.axes:
            if not ax.axison:
                continue
            found += [*ax.texts, ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label]
            for axis in (ax.xaxis, ax.yaxis):
                low, high = sorted(axis.get_view_interval())
                found += [
                    t.label1
                    for t in axis.get_major_ticks()
                    if low <= t.get_loc() <= high and t.label1.get_visible()
                ]
            legend = ax.get_legend()
            found += legend.get_texts() if legend is not None else []
        return found

    return collect
