"""A full disk, a closed stream, a reader that has gone: one line at most, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ["simulate --num-prompts 8", "simulate --num-prompts 8 --json", "list", "profile list"]
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


def shell(command: str, redirection: str) -> subprocess.CompletedProcess[str]:
    line = f"{sys.executable} -c 'from sim.cli import main; main()' {command} {redirection}"
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if "read as" not in line]


@needs_full
@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line(command: str) -> None:
    done = shell(command, "> /dev/full")
    assert done.returncode == 2
    assert said(done) == ["seqsched: standard output: No space left on device"]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_closed_output_is_one_line(command: str) -> None:
    done = shell(command, ">&-")
    assert done.returncode == 2
    assert said(done) == ["seqsched: standard output: is closed; > /dev/null throws it away"]


@pytest.mark.slow
def test_without_a_standard_error_only_results_are_printed() -> None:
    done = shell("simulate --num-prompts 8 --json", "2>&-")
    assert done.returncode == 0 and done.stdout.startswith("{") and done.stdout.endswith("}\n")


@needs_full
@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--save-result", "--save-requests", "--save-decisions", "--perfetto"])
def test_a_file_on_a_full_disk_is_named(flag: str) -> None:
    done = shell(f"simulate --num-prompts 8 {flag} /dev/full", "")
    assert done.returncode == 2
    assert said(done) == ["seqsched: /dev/full: cannot be written (No space left on device)"]
