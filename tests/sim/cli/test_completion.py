"""Shell completion knows every command and flag, and goes where the user asks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from sim.cli import COMMANDS, GROUPS, build_app, main


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command_and_its_flags(shell: Literal["bash", "zsh", "fish"]) -> None:
    script = build_app().generate_completion(prog_name="seqsched", shell=shell)
    names = [*COMMANDS, *GROUPS, *(sub for _, subs in GROUPS.values() for sub in subs)]
    assert [name for name in names if name not in script] == []
    assert "kv-blocks" in script and "request-rate" in script


def test_completion_is_written_to_the_file_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "seqsched.toml").write_text("[simulate]\nseed = 3\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    main(["--install-completion", "--shell", "fish", "--output", "seqsched.fish"])
    assert "complete -c seqsched" in (tmp_path / "seqsched.fish").read_text(encoding="utf-8")
    assert "seqsched.fish" in capsys.readouterr().out
