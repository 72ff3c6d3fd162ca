"""Whatever the format, unit, separator, layout and packing: a file is read right or refused, never guessed.

Arrivals in particular are never off by a power of ten.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from traces import InputError
from traces.formats import read
from traces.units import PER_SECOND, Unit

Put = Callable[..., Path]
Row = dict[str, Any]

START = datetime(2026, 1, 5, 10, tzinfo=UTC)
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda content: content,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
OWN = ("prompt_tokens", "output_tokens")
COLUMNS = {
    "own": ("arrival", *OWN),
    "timestamp": ("timestamp", *OWN),
    "azure": ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    "burstgpt": ("Timestamp", "Request tokens", "Response tokens"),
    "mooncake": ("timestamp", "input_length", "output_length"),
    "bailian": ("timestamp", "input_length", "output_length"),
    "vidur": ("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
    "servingsim": ("arrival_time", "input_toks", "output_toks"),
}
HABITS: dict[str, Unit] = {"burstgpt": "s", "bailian": "s", "vidur": "s"}
"""Formats whose times have a unit by definition."""


def rows_of(form: str, unit: Unit, times_s: list[float], start_s: float, is_whole: bool) -> list[Row]:
    """Requests at these times, with lengths that tell them apart."""
    time, prompt, output = COLUMNS[form]
    if form in ("own", "servingsim"):
        time = f"{time}_{unit}"
    rows = []
    for number, at_s in enumerate(times_s):
        at: object = (start_s + at_s) * PER_SECOND[unit]
        if form == "azure":
            at = (START + timedelta(seconds=at_s)).isoformat(sep=" ")
        elif is_whole and isinstance(at, float):
            at = round(at)
        rows.append({time: at, prompt: 10 + number, output: 1 + number % 7})
        if form == "bailian":
            rows[-1] |= {"chat_id": number, "turn": 1}
    return rows


def text_of(rows: list[Row], layout: str) -> str:
    if layout == "lines":
        return "".join(json.dumps(row) + "\n" for row in rows)
    if layout == "list":
        return json.dumps(rows)
    if layout == "indented":
        return "\n".join(json.dumps(row, indent=2) for row in rows)
    separator, has_decimal_commas = layout[0], layout.endswith("comma")

    def cell(value: object) -> str:
        text = repr(value) if isinstance(value, float) else str(value)
        return text.replace(".", ",") if has_decimal_commas and isinstance(value, float) else text

    lines = [rows[0].keys(), *([cell(value) for value in row.values()] for row in rows)]
    return "".join(separator.join(line) + "\n" for line in lines)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    form=st.sampled_from([*COLUMNS]),
    layout=st.sampled_from(["lines", "list", "indented", ",", ";", "\t", "|", "; comma", "\t comma"]),
    packing=st.sampled_from([*PACKINGS]),
    unit=st.sampled_from([*PER_SECOND]),
    gaps_s=st.lists(st.floats(0.05, 5), min_size=3, max_size=20),
    start_s=st.sampled_from([0.0, 12.5, 353399.25, START.timestamp()]),
    is_whole=st.booleans(),
)
def test_a_file_is_read_right_or_refused(
    put: Put,
    form: str,
    layout: str,
    packing: str,
    unit: Unit,
    gaps_s: list[float],
    start_s: float,
    is_whole: bool,
) -> None:
    unit = HABITS.get(form, unit)
    if form == "servingsim" and layout[0] in ",;\t|":
        layout = "lines"  # it comes as JSON
    times_s = [0.0]
    for gap in gaps_s:
        times_s.append(times_s[-1] + gap)
    rows = rows_of(form, unit, times_s, start_s, is_whole)
    path = put(PACKINGS[packing](text_of(rows, layout).encode()), "trace.dat")
    try:
        trace = read(path)
    except InputError as error:
        assert form in ("timestamp", "mooncake", *HABITS)
        assert "--time-unit" in str(error)
        trace = read(path, time_unit=unit)
    assert trace.prompt_tokens.tolist() == [10 + number for number in range(len(rows))]
    assert trace.output_tokens.tolist() == [1 + number % 7 for number in range(len(rows))]
    assert trace.arrival_s is not None
    slack = 0.5 / PER_SECOND[unit] * is_whole * 2 + 1e-6
    assert trace.arrival_s.tolist() == pytest.approx(times_s, rel=1e-9, abs=slack)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
    zone=st.sampled_from([None, "Asia/Kolkata"]),
    gaps_s=st.lists(st.integers(1, 5000), min_size=1, max_size=9),
)
def test_dates_of_parquet_are_read_right(put: Put, unit: str, zone: str | None, gaps_s: list[int]) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    times_s = [0]
    for gap in gaps_s:
        times_s.append(times_s[-1] + gap)
    when = [(START + timedelta(seconds=at)).replace(tzinfo=None) for at in times_s]
    count = list(range(1, len(when) + 1))
    columns = {
        "TIMESTAMP": pa.array(when, pa.timestamp(unit)),
        "ContextTokens": count,
        "GeneratedTokens": count,
    }
    if zone is not None:
        columns["TIMESTAMP"] = columns["TIMESTAMP"].cast(pa.timestamp(unit, zone))
    sink = io.BytesIO()
    parquet.write_table(pa.table(columns), sink)
    trace = read(put(sink.getvalue()))
    assert trace.arrival_s is not None and trace.arrival_s.tolist() == times_s
