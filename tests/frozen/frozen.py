"""Runs a command in this process, and makes of what it left a text that is the same on every machine."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from sim.cli import main
from sim.version import __version__

from .commands import OUTPUTS, TEXTS

HERE = Path(__file__).parent
INPUTS = HERE / "inputs"
HISTORY = HERE / "history.json"

DIGITS = 10
FITTED_DIGITS = 6
FITTED = frozenset({"calibrate"})
"""Commands that solve least squares, whose last digits depend on the machine."""

PICTURES = (".png", ".svg", ".html")
"""Files that are not frozen: their bytes depend on the drawing library."""

FLOAT = re.compile(r"(?<![\w.])-?\d+(?:\.\d+(?:[eE][-+]?\d+)?|[eE][-+]?\d+)(?![\w.])")
VERSION = re.compile(rf"(?<![\w.]){re.escape(__version__)}(?![\w.])")
KEY = re.compile(r"(?<![\w.])[0-9a-f]{16,24}(?![\w.])")
SENTENCE = re.compile(
    r'(?P<field>"(?:answer|what|value)": )?"(?P<sentence>(?(field)|(?=(?:[^" ]* ){4}))(?:[^"\\\n]|\\.)*)"'
)
NUMBER = re.compile(r"(?<![\w.=-])-?\d[\d,]*(?:\.\d+)?")
DATE = re.compile(r'("date": )"\d{4}-\d{2}-\d{2}"')


def frozen_output(name: str) -> str:
    """The figures that a command of `OUTPUTS` ends with: exit status, JSON on standard output, files."""
    parts = _parts_of(OUTPUTS[name])
    del parts["stderr"]
    if not parts["stdout"].startswith("{"):
        del parts["stdout"]
    digits = FITTED_DIGITS if name in FITTED else DIGITS
    return _sections({part: masked(text, digits, words=False) for part, text in parts.items()})


def frozen_text(name: str) -> str:
    """The words that a command of `TEXTS` ends with: exit status, standard output, standard error, files."""
    return _sections({part: masked(text, FITTED_DIGITS) for part, text in _parts_of(TEXTS[name]).items()})


def _parts_of(command: str) -> dict[str, str]:
    """Exit status, standard output and error of a command, and the files that it writes by their names."""
    with _folder() as folder:
        before = {path.name for path in folder.iterdir()}
        status, out, err = _run(shlex.split(command))
        parts = {"exit status": f"{status}", "stdout": out, "stderr": err}
        for path in sorted(folder.iterdir()):
            if path.name not in before and path.suffix not in PICTURES:
                parts[path.name] = path.read_text(encoding="utf-8")
    return parts


def _sections(parts: Mapping[str, str]) -> str:
    return "".join(f"--- {part}\n{text.rstrip()}\n" for part, text in parts.items() if text)


def masked(text: str, digits: int = DIGITS, *, words: bool = True) -> str:
    """The text without what depends on machine, day or release, and without its words where they are not
    wanted; see the package's docstring.
    """
    text = KEY.sub("KEY", VERSION.sub("VERSION", text))  # first: some keys are numbers with an exponent
    text = FLOAT.sub(lambda found: repr(float(f"{float(found[0]):.{digits}g}")), text)
    text = DATE.sub(r'\1"DATE"', text)
    return text if words else SENTENCE.sub(_numbers_alone, text)


def _numbers_alone(found: re.Match[str]) -> str:
    """A JSON string with nothing but the numbers in it."""
    return " ".join([f'{found["field"] or ""}"TEXT', *NUMBER.findall(found["sentence"])]) + '"'


def path_of(name: str, folder: str) -> Path:
    """Where the output or text of that name is kept; `folder`: outputs or texts."""
    return HERE / folder / f"{name}.txt"


def digest(text: str) -> str:
    """What the history holds of an output."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_history() -> dict[int, dict[str, Any]]:
    """Results version -> its `reason` and its `outputs`, name -> digest."""
    if not HISTORY.exists():
        return {}
    content: Mapping[str, dict[str, Any]] = json.loads(HISTORY.read_text(encoding="utf-8"))
    return {int(version): entry for version, entry in content.items()}


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Work in a copy of the inputs, as on a terminal of 100 columns without settings of one's own."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("SEQSCHED_")}
    bare |= {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    with TemporaryDirectory() as name, mock.patch.dict(os.environ, bare, clear=True):
        folder = Path(name)
        shutil.copytree(INPUTS, folder, dirs_exist_ok=True)
        with contextlib.chdir(folder):
            yield folder


def _run(arguments: list[str]) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as ended:
            status = int(ended.code or 0)
    return status, out.getvalue(), err.getvalue()
