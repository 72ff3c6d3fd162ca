"""Bounds that requests state: read, checked, written back, and kept with their requests."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from traces import InputError, Trace, write
from traces.arrivals import assign, at_rate, busiest, stretched, window
from traces.formats import read
from traces.inspection import describe
from traces.scaling import scale_lengths
from traces.whole_sessions import sessions_of

NAN = math.nan
SUFFIXES = ("csv", "jsonl", "parquet")

Put = Callable[..., Path]


def stated(n: int, **columns: Any) -> Trace:
    """Row k states 10 + k ms and, where k is odd, 1 + k ms per token."""
    rows = np.arange(n)
    return Trace(
        "stated",
        rows,
        rows + 5,
        np.full(n, 20),
        arrival_s=rows * 0.5,
        ttft_slo_ms=rows + 10.0,
        tpot_slo_ms=np.where(rows % 2, rows + 1.0, NAN),
        **columns,
    )


def rows_of(trace: Trace) -> list[int]:
    """Which row of `stated` each is, by its bounds."""
    assert trace.ttft_slo_ms is not None and trace.tpot_slo_ms is not None
    rows: list[int] = (trace.ttft_slo_ms - 10).astype(int).tolist()
    np.testing.assert_array_equal(trace.tpot_slo_ms, [k + 1.0 if k % 2 else NAN for k in rows])
    return rows


def table(put: Put, suffix: str, *cells: object) -> Path:
    """A file with these bounds on the first token."""
    rows = [{"prompt_tokens": 5, "output_tokens": 6, "ttft_slo_ms": cell} for cell in cells]
    if suffix == "jsonl":
        return put("".join(json.dumps(row) + "\n" for row in rows), "t.jsonl")
    if suffix == "csv":
        texts = ("" if cell is None else cell for cell in cells)
        return put(
            "prompt_tokens,output_tokens,ttft_slo_ms\n" + "".join(f"5,6,{t}\n" for t in texts), "t.csv"
        )
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = put(b"", "t.parquet")
    pq.write_table(pa.table({name: [row[name] for row in rows] for name in rows[0]}), path)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_empty_cell_states_none(put: Put, suffix: str) -> None:
    for cells in ((200.5, None, 5000.0), (200.5, 300.0), (None, None)):
        trace = read(table(put, suffix, *cells))
        assert trace.ttft_slo_ms is not None and trace.tpot_slo_ms is None
        np.testing.assert_array_equal(trace.ttft_slo_ms, [NAN if c is None else c for c in cells])
        assert trace.notes == ()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (0.0, "0 is not above 0"),
        (-5.0, "-5.0 is below 0"),
        (math.inf, "is not"),
        (1e13, "is above 1000000000000"),
        ("soon", "'soon' is not a number"),
    ],
)
def test_what_is_no_bound_is_refused_in_one_line(put: Put, suffix: str, cell: object, said: str) -> None:
    if suffix == "parquet" and isinstance(cell, str):
        pytest.skip("a column of Parquet has one type")
    with pytest.raises(InputError) as caught:
        read(table(put, suffix, 200.0, cell))
    unit = "line" if suffix == "jsonl" else "row"
    assert f", {unit} 2, ttft_slo_ms: " in str(caught.value) and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_that_failed_are_not_looked_at(put: Put) -> None:
    head = "status,prompt_tokens,output_tokens,tpot_slo_ms\n"
    trace = read(put(f"{head}ok,5,6,25\ntimeout,5,,0\nok,5,6,\n", "t.csv"))
    assert trace.tpot_slo_ms is not None
    np.testing.assert_array_equal(trace.tpot_slo_ms, [25, NAN])


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf])
def test_a_trace_refuses_them_too(bad: float) -> None:
    with pytest.raises(InputError, match=rf"made, row 2, tpot_slo_ms: {bad} is not above 0 and finite"):
        Trace("made", *[np.ones(2, dtype=int)] * 3, tpot_slo_ms=np.array([NAN, bad]))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_reads_back(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    write(stated(6), tmp_path / f"t.{suffix}")
    assert rows_of(read(tmp_path / f"t.{suffix}")) == list(range(6))


def test_choosing_scaling_and_moving_keep_each_with_its_request() -> None:
    trace, rng = stated(20), np.random.default_rng(0)
    assert rows_of(trace.select([1, 4, 9])) == [1, 4, 9]
    sampled = trace.sample(8, sample_seed=3)
    assert rows_of(sampled) == sampled.request_id.tolist()
    assert rows_of(scale_lengths(trace, 2.0, 0.5).with_output_cap(4)) == list(range(20))
    for moved in (assign(trace, request_rate=3.0, rng=rng), at_rate(trace, 9.0), stretched(trace, 2.0)):
        assert rows_of(moved) == list(range(20))
    for part in (window(trace, seed=1, num_requests=30), busiest(trace, 5)):
        assert rows_of(part) == part.request_id.tolist()


def test_sessions_keep_them_when_they_move_and_come_again() -> None:
    trace = stated(6, waits_for=np.array([[-1], [-1], [0], [1], [2], [-1]]), think_s=np.zeros(6))
    grouped = sessions_of(trace)
    assert grouped is not None
    chosen = grouped.chosen(np.array([1, 0, 1]), np.array([0.0, 0.1, 50.0]))
    assert rows_of(chosen) == (chosen.prompt_tokens - 5).tolist() and len(chosen) == 7
    moved = assign(trace, request_rate=2.0, rng=np.random.default_rng(0))
    assert rows_of(moved) == moved.request_id.tolist() and len(moved) == 6


def test_what_is_stated_is_described() -> None:
    table = describe(stated(4))
    assert table.loc["ttft_slo_ms", ["count", "min", "max"]].tolist() == [4, 10, 13]
    assert table.loc["tpot_slo_ms", ["count", "min", "max"]].tolist() == [2, 2, 4]
    trace = stated(4)
    assert "tpot_slo_ms" not in describe(trace.select([0, 2])).index
