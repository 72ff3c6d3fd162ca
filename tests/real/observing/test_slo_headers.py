"""Bounds and classes go with the requests that state them, and stand in both logs."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

import traces
from real.observing.observe import observe
from real.observing.slo_headers import CLASS_HEADER, class_in, stated
from real.serving.log import Log
from sim.scenario.settings import WorkloadSettings
from sim.studies.server_log import read_log
from tests.real.observing.server import Behaviour, serving
from tests.real.observing.test_observe import trace
from tests.real.serving.running import layer_before
from tests.real.serving.upstream import Fake, listening
from traces.trace import Trace

NAMES = ["chat", "Größe 1", "", "100%; a=b,c", "批"]


def bounded() -> Trace:
    nan = math.nan
    return replace(
        trace([2] * 5),
        ttft_slo_ms=np.array([300.0, nan, nan, 0.1, 5000]),
        e2el_slo_ms=np.array([nan, 1e-5, nan, 1e12, 60_000]),
        slo_class=np.array(NAMES, dtype=object),
    )


def test_each_request_has_the_headers_of_what_it_states() -> None:
    does = Behaviour()
    with serving(does) as url:
        watched = observe(url, WorkloadSettings(trace=bounded()))
    sent = [
        {name: value for name, value in headers.items() if "slo" in name.lower()} for headers in does.headers
    ]
    assert sent[:2] == [{}, {}]  # the probes
    assert sent[2] == {"x-llm-d-slo-ttft-ms": "300.0", CLASS_HEADER: "chat"} and sent[4] == {}
    assert [float(sent[k].get("x-seqsched-slo-e2el-ms", "nan")) for k in (3, 5, 6)] == [1e-5, 1e12, 60_000]
    assert watched.log.slo_class.tolist() == NAMES
    assert watched.log.ttft_slo_ms.tolist()[3:] == [0.1, 5000]


def test_what_serves_reads_them_and_its_log_has_them(tmp_path: Path) -> None:
    path, seen = tmp_path / "served.jsonl", tmp_path / "seen.csv"

    async def go() -> None:
        with Log(path) as log:
            async with listening(Fake()) as url, layer_before(url, log=log) as up:
                watched = await asyncio.to_thread(observe, up.url, WorkloadSettings(trace=bounded()))
                watched.save_log(seen)
                await up.idle()

    asyncio.run(go())
    served, told = traces.load(path), read_log(seen).trace
    assert served.slo_class is not None and told.slo_class is not None
    assert served.slo_class.tolist()[2:] == told.slo_class.tolist() == NAMES
    for name, bounds in bounded().slos.items():
        np.testing.assert_array_equal(served.slos[name][2:], bounds)
        np.testing.assert_array_equal(told.slos[name], bounds)


def test_a_class_is_read_as_it_was_written() -> None:
    odd = replace(trace([1] * 3), slo_class=np.array(["a b", "ü%41", '"x";=,'], dtype=object))
    values = [each[CLASS_HEADER] for each in stated(odd)]
    assert all(value.isascii() and value.isprintable() for value in values)
    assert [class_in(value) for value in values] == ["a b", "ü%41", '"x";=,']
    assert class_in("caf\xc3\xa9") == class_in("caf%C3%A9") == "café"
    assert class_in("%ff") == class_in("\xff") == "�"
