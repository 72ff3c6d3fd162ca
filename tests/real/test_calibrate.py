from __future__ import annotations

import json
from collections import Counter

import pytest

from sim.hardware import catalogue as profiles
from sim.hardware.fitting import read_steps
from traces.errors import InputError

pytest.importorskip("torch", reason="the real extra is not installed")

from real import calibrate as script
from real.calibration.calibration import Calibration, memory_of
from real.calibration.cells import Cell, CellBounds, batch_sizes, halvings, uneven_cells
from sim.cli import run_script

SMALL = ["--max-rows", "4", "--max-context", "24", "--max-prompt", "12", "--repeats", "2", "--threads", "1"]


def calibrate(capsys, *arguments):
    """(exit status, last line of stdout as JSON or None, stderr)"""
    status = 0
    try:
        run_script(script.calibrate, [*map(str, arguments)])
    except SystemExit as exit_:
        status = exit_.code or 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    return status, json.loads(lines[-1]) if lines and not status else None, said.err


@pytest.mark.parametrize("engine", ["transformers-eager", "cuda-graphs"])
def test_a_machine_is_measured_and_says_when_on_what_and_with_which_versions(engine, tmp_path, capsys):
    out = tmp_path / "here.json"
    status, said, _ = calibrate(capsys, "--out", out, "--engine", engine, "--kv-tokens", 2048, *SMALL)
    assert status == 0
    made = profiles.load(str(out))
    assert made.engine == engine
    assert made.kv_tokens() == 2048
    assert made.provenance.kind == "measured"
    assert made.provenance.date.startswith("20")
    assert {"torch", "transformers", "python"} <= made.provenance.versions.keys()
    assert "tiny (random weights), float32, cpu" in made.provenance.source
    assert {"decode_only", "mixed"} <= made.provenance.residuals.keys()
    assert (tmp_path / "here.png").stat().st_size > 1000
    steps = read_steps(tmp_path / "here.steps.csv")
    assert len(steps) == said["rows"]
    assert ((steps["num_decode"] > 0) & (steps["num_prefill"] > 0)).any() == (engine == "cuda-graphs")
    assert made.step_cost.decode_s(4, 64) > 0


def test_an_interrupted_calibration_goes_on_where_it_stopped(make_engine, loaded, tmp_path):
    engine, path = make_engine("transformers-eager", 512), tmp_path / "steps.csv"
    cells = CellBounds(2, 16, 8).cells(512)
    first = Calibration(engine, loaded, cells, path)
    first.measure(len(cells) + 3)
    with path.open("a") as file:
        file.write("1,23,0,half a li")
    again = Calibration(engine, loaded, cells, path)
    assert len(again.rows) == len(cells) + 3
    assert again.passes == 1
    again.measure(len(cells) - 3)
    assert again.passes == 2
    assert set(again.done.values()) == {2}
    assert len(read_steps(path)) == 2 * len(cells)
    profile, report = again.fit("here")
    assert profile.memory == memory_of(loaded, 512)
    assert len(report.measured_s) == len({(c.rows, c.context, c.prefill_tokens, c.chunks) for c in cells})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("num_decode,step_ms\n1,2\n", "first line is not"),
        ("engine", "'cuda-graphs' is not 'transformers-eager'"),
    ],
)
def test_rows_of_something_else_are_refused(content, says, make_engine, loaded, tmp_path):
    path = tmp_path / "steps.csv"
    if content == "engine":
        other = Calibration(make_engine("cuda-graphs", 512), loaded, CellBounds(1, 16, 8).cells(512), path)
        other.measure(1)
    else:
        path.write_text(content)
    with pytest.raises(InputError, match=says):
        Calibration(make_engine("transformers-eager", 512), loaded, CellBounds(1, 16, 8).cells(512), path)


def test_bad_input_is_one_line(tmp_path, capsys):
    for arguments in (
        ["--engine", "vllm"],
        ["--dtype", "int3"],
        ["--seed", "-1"],
        ["--max-seconds", "nan"],
        ["--threads", "0"],
        ["--kv-tokens", "15"],
        ["--kv-tokens", "16"],
        ["--device", "tpu"],
    ):
        status, _, err = calibrate(capsys, "--out", tmp_path / "p.json", *SMALL, *arguments)
        assert status == 2, arguments
        assert len(err.strip().splitlines()) == 1


def test_time_that_is_up_still_lets_every_cell_be_visited_once(make_engine, loaded):
    calibration = Calibration(make_engine("transformers-eager", 512), loaded, CellBounds(2, 16, 8).cells(512))
    script.measure(calibration, repeats=5, max_seconds=0.0)
    assert set(calibration.done.values()) == {1}


def test_rows_of_before_are_left_out_where_the_others_cover_every_cell(make_engine, loaded):
    calibration = Calibration(make_engine("transformers-eager", 512), loaded, CellBounds(2, 16, 8).cells(512))
    calibration.complete(1)
    num_before = len(calibration.rows)
    for row in calibration.rows:
        row["step_ms"] = 1e4
    calibration.measure(num_before - 1)
    slow, _ = calibration.fit("too few since", num_before)
    calibration.measure(1)
    profile, _ = calibration.fit("enough since", num_before)
    assert slow.step_cost.decode_s(2, 32) > 2 and profile.step_cost.decode_s(2, 32) < 2
    everything, _ = calibration.fit("all")
    assert everything.step_cost.decode_s(2, 32) > 2


@pytest.mark.parametrize(("capacity", "mixed"), [(131072, True), (16384, False), (300, True)])
def test_the_grid_holds_what_the_cache_holds(capacity, mixed):
    cells = CellBounds(256, 1024, 512, mixed=mixed).cells(capacity)
    assert len(set(cells)) == len(cells)
    assert all(cell.kv_tokens <= capacity for cell in cells)
    kinds = Counter(cell.kind for cell in cells)
    assert kinds["decode"] > 10
    assert kinds["prefill"] > 3
    assert (kinds["mixed"] > 0) == mixed
    assert {1, 2, 4, 8} <= {cell.rows for cell in cells}


def test_contexts_that_differ_have_their_mean_and_their_longest():
    for cell in uneven_cells(256, 1000, 65_536):
        assert len(cell.contexts) == cell.rows and sum(cell.contexts) == cell.rows * cell.context
        assert max(cell.contexts) == cell.longest == cell.contexts[cell.rows // 4 - 1]
        assert cell.context // 2 < min(cell.contexts) < cell.context
        assert cell.rows * cell.longest < cell.kv_tokens <= 65_536
    assert {cell.rows for cell in uneven_cells(256, 1000, 65_536)} == {4, 16, 64, 256}
    bounds = CellBounds(64, 512, 64, uneven=True)
    uneven = [cell for cell in bounds.cells(65_536) if cell.longest]
    assert uneven and not any(cell.longest for cell in CellBounds(64, 512, 64).cells(65_536))
    for cell in uneven:  # the fit sets each between even ones
        even = {c.context for c in bounds.cells(65_536) if c.rows == cell.rows and not c.longest}
        assert min(even) <= cell.context < cell.longest <= max(even)


def test_what_a_cell_computes():
    mixed = Cell(4, 100, 1, 64, 32)
    assert (mixed.kind, mixed.prefill_tokens, mixed.prefill_attention) == ("mixed", 64, 64 * (32 + 32))
    assert mixed.contexts == [100] * 4
    padded = Cell(0, 0, 8, 16)
    assert padded.contexts == []
    assert (padded.kind, padded.prefill_tokens, padded.prefill_attention) == ("prefill", 128, 8 * 16 * 16 / 2)


def test_sizes_rise_to_the_largest():
    assert batch_sizes(100) == [1, 2, 4, 8, 16, 32, 48, 64, 96, 100]
    assert halvings(100, 8, 4) == [8, 16, 64, 100]
    assert halvings(1, 1) == [1]
    assert halvings(5, 16) == [5]
