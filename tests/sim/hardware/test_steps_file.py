"""Steps files: their unit is held against the hardware, their other columns and separators are noticed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from sim.hardware.datasheets import known_gpu
from sim.hardware.model_shape import known_model
from sim.hardware.steps_file import COLUMNS, LONGEST, check_hardware, read_steps
from traces import InputError

CARD, SHAPE = known_gpu("RTX 4090"), known_model("llama-3.1-8b")
LEAST_MS = 1e3 * SHAPE.read_bytes / CARD.bandwidth_bytes_per_s
ROWS = ((4, 400, 0, 0, 0, 17.5), (1, 100, 0, 0, 0, 16.6), (0, 0, 1, 512, 131072, 55.25))


def steps(tmp_path: Path, factor: float = 1.0, separator: str = ",", more: str = "") -> Path:
    """A steps file whose times are multiplied."""
    lines = [separator.join(COLUMNS) + (more and separator + more)]
    for row in ROWS:
        cells = [*map(str, row[:-1]), repr(row[-1] * factor), *(["9"] if more else [])]
        lines.append(separator.join(cells))
    path = tmp_path / "steps.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_weights_take_what_the_datasheets_say() -> None:
    assert pytest.approx(14.89, abs=0.01) == LEAST_MS


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (
            1e-3,
            r"row 2, step_ms: 0\.0166 is below 14\.89, what reading the weights of .*in seconds\?",
        ),
        (1e-6, r"step_ms: 1\.66e-05 is below 14\.89, .*: is step_ms in another unit\?"),
        (
            0.25,
            r"step_ms: 4\.15 is below 14\.89, .*quantised, or split among GPUs\? leave out --gpu and --model",
        ),
        (
            1e3,
            r"step_ms: 1\.66e\+04, the shortest, is more than 100 times 14\.89, .*: steps in microseconds\?",
        ),
    ],
)
def test_steps_that_the_gpu_cannot_have_taken_are_refused(tmp_path: Path, factor: float, said: str) -> None:
    path = steps(tmp_path, factor)
    with pytest.raises(InputError, match=said) as caught:
        check_hardware(read_steps(path), str(path), SHAPE, CARD)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("factor", [1.0, 0.9, 30.0])
def test_steps_that_it_may_have_taken_are_not(tmp_path: Path, factor: float) -> None:
    path = steps(tmp_path, factor)
    check_hardware(read_steps(path), str(path), SHAPE, CARD)


def test_without_a_gpu_only_the_impossible_is_refused(tmp_path: Path) -> None:
    path = steps(tmp_path, 1e-3)
    with pytest.raises(InputError, match=r"0\.0166 is below 0\.05, which no GPU reaches: steps in seconds\?"):
        check_hardware(read_steps(path), str(path), None, None)
    for factor in (0.25, 1e3):
        check_hardware(read_steps(steps(tmp_path, factor)), str(path), None, None)


def test_other_columns_are_said_not_to_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "traces")
    read_steps(steps(tmp_path))
    assert caplog.messages == []
    path = steps(tmp_path, more="host_ms")
    read_steps(path)
    assert caplog.messages == [f"{path}: steps; columns not used: host_ms"]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_the_header_tells_the_separator(tmp_path: Path, separator: str) -> None:
    assert read_steps(steps(tmp_path, separator=separator))["step_ms"].tolist() == [17.5, 16.6, 55.25]


def test_a_column_in_another_unit_is_pointed_at(tmp_path: Path) -> None:
    path = steps(tmp_path)
    path.write_text(path.read_text().replace("step_ms", "step_s"))
    with pytest.raises(
        InputError, match=r"column step_ms is missing; step_s: is that step_ms in another unit, seconds\?; a"
    ):
        read_steps(path)


def test_a_decimal_comma_is_named(tmp_path: Path) -> None:
    path = steps(tmp_path, separator=";")
    path.write_text(path.read_text().replace("16.6", "16,6"))
    with pytest.raises(
        InputError, match=r"row 2, step_ms: '16,6' is not a number \(a decimal point is needed\)"
    ):
        read_steps(path)


# The longest context

TWO = f"{','.join(COLUMNS)},{LONGEST}\n4,400,0,0,0,17.5,{{longest}}\n0,0,1,512,131072,55.25,0\n"


def test_all_contexts_are_equal_where_the_file_does_not_say(tmp_path: Path) -> None:
    assert read_steps(steps(tmp_path))[LONGEST].tolist() == [100, 100, 0]
    (tmp_path / "two.csv").write_text(TWO.format(longest=250))
    assert read_steps(tmp_path / "two.csv")[LONGEST].tolist() == [250, 0]


@pytest.mark.parametrize(
    ("longest", "said"),
    [
        (401, "row 1, decode_context_max: 401 is above decode_context_tokens, the sum of all contexts"),
        (99, "row 1, decode_context_max: 99 is below decode_context_tokens / num_decode, the mean context"),
        ("long", "row 1, decode_context_max: 'long' is not a number"),
        ("", "row 1, decode_context_max: empty"),
    ],
)
def test_an_impossible_longest_context_is_refused(tmp_path: Path, longest: object, said: str) -> None:
    (tmp_path / "two.csv").write_text(TWO.format(longest=longest))
    with pytest.raises(InputError, match=said):
        read_steps(tmp_path / "two.csv")


def test_a_file_that_is_part_of_several_may_lack_a_regime(tmp_path: Path) -> None:
    (tmp_path / "part.csv").write_text(f"{','.join(COLUMNS)}\n1,10,0,0,0,5\n")
    with pytest.raises(InputError, match="no rows with prefill"):
        read_steps(tmp_path / "part.csv")
    assert len(read_steps(tmp_path / "part.csv", in_part=True)) == 1
