"""Values in a file of lines: found again, cut off where a line was half written, written by one at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sim.parallel.state_file import StateFile
from traces.errors import InputError


def read(fields: Mapping[str, Any]) -> float:
    return float(fields["value"])


def state(path: Path | None) -> StateFile[float]:
    return StateFile(path, read, "seqsched plan")


def keep(path: Path, *values: float) -> None:
    file = state(path)
    for value in values:
        file.append(f"k{value:g}", value, {"value": value})
    file.close()


def test_values_come_back_to_the_last_bit_and_the_last_of_a_key_counts(tmp_path: Path) -> None:
    keep(tmp_path / "a.jsonl", 0.1, 1 / 3)
    file = state(tmp_path / "a.jsonl")
    assert file.known == {"k0.1": 0.1, "k0.333333": 1 / 3}
    file.append("k0.1", 2.0, {"value": 2.0})
    file.close()
    again = state(tmp_path / "a.jsonl")
    assert again.known["k0.1"] == 2.0
    again.close()


def test_a_line_that_was_cut_off_is_dropped_wherever_it_breaks(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    keep(path, 1.0, 2.0)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first + 1, len(whole)):
        path.write_bytes(whole[:cut])
        file = state(path)
        assert file.known == {"k1": 1.0}
        file.append("k2", 2.0, {"value": 2.0})
        file.close()
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "content",
    ["not a state\n", '{"key": "a"}\n', "[1]\n", "no newline at the end", 100_000 * "[" + "\n"],
    ids=["text", "keys", "list", "line", "nested"],
)
def test_another_file_is_refused_and_left_alone(content: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=r"notes.txt, line 1: not a line that `seqsched plan` wrote"):
        state(path)
    assert path.read_text() == content
    path.write_text("")
    state(path).close()  # and it is not locked


def test_a_second_process_is_refused_until_the_first_has_closed_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    first = state(path)
    with pytest.raises(InputError, match=r"a\.jsonl: another process is writing it"):
        state(path)
    program = "from sim.parallel.state_file import StateFile as S; import sys; S(sys.argv[1], dict, 'x')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], env=environment, capture_output=True, text=True
    )
    assert "another process is writing it" in done.stderr
    first.append("k1", 1.0, {"value": 1.0})
    first.close()
    second = state(path)
    assert second.known == {"k1": 1.0}
    second.close()


def test_a_file_without_lines_is_removed_and_no_file_is_no_harm(tmp_path: Path) -> None:
    file = state(tmp_path / "a.jsonl")
    file.close()
    file.close()
    assert not list(tmp_path.iterdir())
    memory = state(None)
    memory.append("k", 1.0, {"value": 1.0})
    memory.close()
    assert memory.known == {"k": 1.0}


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        state(tmp_path / "missing" / "a.jsonl")


def test_a_device_or_a_pipe_is_refused_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    link = tmp_path / "link.jsonl"  # removing "it" would remove the link at most
    link.symlink_to(os.devnull)
    for path in (pipe, link):
        with pytest.raises(InputError, match=r"\.jsonl: is a device or a pipe, a file is needed"):
            state(path)
        assert path.exists()
