from __future__ import annotations

import csv
import json

import pytest

from sim.hardware import catalogue as profiles
from sim.hardware.kv_memory import kv_bytes_per_token
from sim.hardware.model_shape import known_model

torch = pytest.importorskip("torch", reason="the real extra is not installed")

from real import calibrate as script  # noqa: E402
from real.calibration import memory_floor  # noqa: E402
from real.calibration.cells import FLOOR_CONTEXT, FLOOR_ROWS, CellBounds  # noqa: E402
from real.calibration.memory import memory_part  # noqa: E402
from real.calibration.memory_floor import PeakRates, at_context, floor_s, floors, measure_peak_rates  # noqa: E402
from sim.cli import run_script  # noqa: E402

VICUNA = known_model("vicuna-7b")


def steps(*rows):
    names = ("num_decode", "decode_context_tokens", "num_prefill", "step_ms")
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_the_floor_is_weights_and_context_over_bandwidth():
    weights = (VICUNA.num_parameters - VICUNA.vocab * VICUNA.hidden) * 2
    assert floor_s(VICUNA, 0, 1e12) == pytest.approx(weights / 1e12)
    more = floor_s(VICUNA, 64 * 512, 1e12) - floor_s(VICUNA, 0, 1e12)
    assert more == pytest.approx(64 * 512 * kv_bytes_per_token(VICUNA) / 1e12)
    assert floor_s(VICUNA, 512, 2e12) == pytest.approx(floor_s(VICUNA, 512, 1e12) / 2)


def test_every_kind_of_decode_iteration_is_set_beside_its_floor_and_the_other_engine():
    # As strings, as a resumed calibration has them; the row with prefill is none of ours.
    mine = steps(
        (2, 1024, 0, 9.0), ("1", "512.0", "0", "5.0"), (1, 512, 0, 7.0), (1, 512, 0, 6.0), (1, 9, 1, 50)
    )
    other = steps((1, 512, 0, 12.0), (4, 2048, 0, 13.0))
    one, two = floors(mine, VICUNA, 4e12, other)
    assert (one.rows, one.context, one.step_ms, one.beside_ms) == (1, 512, 6.0, 12.0)
    assert one.floor_ms == pytest.approx(1e3 * floor_s(VICUNA, 512, 4e12))
    assert one.ratio == pytest.approx(6.0 / one.floor_ms)
    assert one.of_beside == 0.5
    assert (two.rows, two.context, two.beside_ms, two.of_beside) == (2, 512, None, None)
    table = memory_floor.markdown([one, two]).splitlines()
    assert table[0].endswith("| beside ms | step / beside |")
    assert table[2].endswith(f"| {one.ratio:.2f} | 12.000 | 0.50 |")
    assert table[3].endswith("| – | – |")
    assert memory_floor.markdown([two]).splitlines()[0].endswith("| ratio |")
    assert json.dumps(one.to_json(), allow_nan=False)


def test_the_context_nearest_to_the_wanted_one_is_shown():
    found = floors(
        steps((1, 100, 0, 1.0), (1, 600, 0, 2.0), (4, 400, 0, 3.0), (128, 65536, 0, 4.0)), VICUNA, 1e12
    )
    assert [(f.rows, f.context) for f in at_context(found)] == [(1, 600), (4, 100)]


def test_the_grid_holds_the_context_of_the_floor():
    cells = CellBounds(256, 1024, 512).cells(300_000)
    assert {cell.rows for cell in cells if cell.context == FLOOR_CONTEXT} >= {1, 2, 4, 8, 16, 32, FLOOR_ROWS}
    assert not any(cell.context == FLOOR_CONTEXT for cell in CellBounds(64, 128, 64).cells(300_000))
    spared = CellBounds(256, 1024, 512, floor=False).cells(300_000)
    assert len(spared) < len(cells) and set(spared) < set(cells)


def test_ceilings_come_from_bytes_and_operations_over_median_times(monkeypatch):
    monkeypatch.setitem(memory_floor.COPY_BYTES, "cpu", 1000)
    monkeypatch.setitem(memory_floor.PRODUCT_SIZE, "cpu", 10)
    times = iter([5.0, 1.0, 0.5] * 100)

    def seconds_of(function):
        function()
        return next(times)

    found = measure_peak_rates(torch.device("cpu"), torch.float32, seconds_of)
    assert found.copy_bytes_per_s == 2 * 1000 / 1.0
    assert found.product_flops_per_s == 2 * 10**3 / 1.0
    assert PeakRates(4.2e12, 7e14).to_json() == {
        "copy_bandwidth": "4200.0 GB/s",
        "matrix_product": "700 TFLOP/s",
    }


def test_calibration_writes_the_floor_beside_the_profile(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(memory_floor.COPY_BYTES, "cpu", 1 << 20)
    monkeypatch.setitem(memory_floor.PRODUCT_SIZE, "cpu", 64)
    small = [
        "--max-rows",
        "2",
        "--max-context",
        "24",
        "--max-prompt",
        "8",
        "--repeats",
        "1",
        "--threads",
        "1",
    ]
    small += ["--kv-tokens", "512"]
    run_script(script.calibrate, ["--out", str(tmp_path / "eager.json"), *small])
    capsys.readouterr()
    beside = ["--beside", str(tmp_path / "eager.steps.csv"), "--engine", "cuda-graphs"]
    run_script(script.calibrate, ["--out", str(tmp_path / "here.json"), *beside, *small])
    out = capsys.readouterr().out
    said = json.loads(out.splitlines()[-1])
    assert set(said["floor_ratio"]) == set(said["step_over_beside"]) == {"1", "2"}
    assert "| sequences | context each |" in out
    with (tmp_path / "here.floor.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert float(row["ratio"]) == pytest.approx(float(row["step_ms"]) / float(row["floor_ms"]))
        assert float(row["of_beside"]) == pytest.approx(float(row["step_ms"]) / float(row["beside_ms"]))
    made = profiles.load(str(tmp_path / "here.json"))
    grid = made.provenance.grid
    assert grid["copy_bandwidth"].endswith("GB/s")
    assert "times the memory floor for 1 to 2 sequences" in grid["decode_over_floor"]
    assert "not measured: no CUDA" in grid["memory"]
    assert (made.step_cost.ragged_prefill, made.step_cost.ragged_decode) == (True, False)
    assert not profiles.load(str(tmp_path / "eager.json")).step_cost.ragged_prefill


def test_a_calibration_that_is_complete_still_measures_host_time_and_ceilings(make_engine, loaded, tmp_path):
    from real.calibration.calibration import Calibration

    cells = CellBounds(1, 16, 8).cells(256)
    first = Calibration(make_engine("transformers-eager", 256), loaded, cells, tmp_path / "steps.csv")
    first.measure(len(cells))
    again = Calibration(make_engine("transformers-eager", 256), loaded, cells, tmp_path / "steps.csv")
    script.measure(again, 1, 0.0)
    assert len(again.rows) == len(cells)
    assert again.peak_rates is not None


@pytest.mark.parametrize(
    ("workspace", "share"),
    [(None, 1.0), (5 << 30, 0.94), (1 << 40, 1.0)],
    ids=["unknown", "measured", "too much"],
)
def test_the_memory_part_holds_exactly_what_was_allocated(workspace, share):
    total, weights, per_token = 80 << 30, 13 << 30, 524_288
    for capacity in (1, 777, 100_001, 117_000):
        made = memory_part(total, weights, workspace, capacity, per_token)
        assert made.capacity_tokens == capacity
        assert made.gpu_bytes == total
        assert made.utilization <= share
    assert made.workspace_bytes == (
        5 << 30 if workspace == 5 << 30 else made.gpu_bytes - weights - made.kv_bytes
    )
