"""What the guide to planning shows is what its command prints, and its commands are commands."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from sim.cli import build_app, main

GUIDE = (Path(__file__).parents[1] / "docs" / "plan-capacity.md").read_text(encoding="utf-8")


@pytest.mark.skipif(
    not os.environ.get("SEQSCHED_DATA"), reason="SEQSCHED_DATA names no folder with real data"
)
def test_the_guide_shows_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    ((command, shown),) = re.findall(r"<!-- output: (.+?) -->\n```\n(.*?)\n```", GUIDE, re.DOTALL)
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(command)[1:])
    assert ended.value.code == 1
    assert capsys.readouterr().out.strip() == shown


def test_every_command_of_the_guide_is_one() -> None:
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)).replace("\\\n", " ")
    commands = [line for line in blocks.splitlines() if line.startswith("seqsched plan")]
    assert len(commands) == 4
    for line in commands:
        build_app().parse_args(shlex.split(line, comments=True)[1:], exit_on_error=False, print_error=False)
