from __future__ import annotations

from typing import Any

import pytest

from plots.scale import scale


def measured(name: str, by: str, rows: list[tuple[int, float, float]]) -> dict[str, Any]:
    return {
        "name": name,
        "by": by,
        "rows": [{by: x, "cpu_s": seconds, "peak_mib": mib} for x, seconds, mib in rows],
        "time_exponent": 1.234,
        "memory_exponent": 0.567,
    }


def test_a_line_per_series_in_both_panels_with_its_exponent() -> None:
    fig = scale(
        [
            measured("in all", "replicas", [(1, 2.0, 80.0), (10, 4.0, 90.0), (100, 9.0, 120.0)]),
            measured("ten", "requests", [(1000, 0.1, 50.0), (10_000, 1.0, 60.0)]),
        ]
    )
    time, memory = fig.axes
    assert [list(line.get_ydata()) for line in time.lines] == [[2.0, 4.0, 9.0], [0.1, 1.0]]
    assert list(memory.lines[1].get_ydata()) == [50.0, 60.0]
    assert time.lines[0].get_label() == "in all: 10 × the replicas, 17 × the time"
    assert memory.lines[1].get_label() == "ten: 10 × the requests, 3.7 × the memory"
    assert {ax.get_xscale() for ax in fig.axes} == {ax.get_yscale() for ax in fig.axes} == {"log"}


def test_nothing_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="0 are given"):
        scale([])
