"""A folder to run commands in."""

from __future__ import annotations

from pathlib import Path

import pytest

TRACE = "request_id,arrival_s,prompt_tokens,output_tokens\n0,0.0,10,5\n1,0.5,12,7\n2,1.0,9,3\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a small trace in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trace.csv").write_text(TRACE, encoding="utf-8")
    return tmp_path
