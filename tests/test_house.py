"""No file and no function is longer than one can read in one go."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSES = ("sim", "real", "traces", "plots")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def files(house: str) -> Iterator[tuple[str, str]]:
    """(name, text) of every module."""
    for path in sorted((ROOT / house).rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def functions(text: str) -> Iterator[tuple[str, int]]:
    """(name, lines of code) of every function; signature and docstring, a command's help, do not count."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            yield node.name, (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("house", HOUSES)
def test_no_file_is_too_long(house: str) -> None:
    lengths = {name: len(text.splitlines()) for name, text in files(house)}
    assert lengths
    assert {name: n for name, n in lengths.items() if n > MAX_FILE_LINES} == {}


@pytest.mark.parametrize("house", HOUSES)
def test_no_function_is_too_long(house: str) -> None:
    lengths = [(name, function, n) for name, text in files(house) for function, n in functions(text)]
    assert lengths
    assert [length for length in lengths if length[2] > MAX_FUNCTION_LINES] == []
