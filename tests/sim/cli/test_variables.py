"""A variable of the environment that looks like a setting and is none is named, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.cli import main

SMALL = ["simulate", "--trace", "fixed", "--num-prompts", "3", "--json"]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The lines of stderr about the environment."""
    main([*SMALL, *arguments])
    return [line for line in capsys.readouterr().err.splitlines() if "environment" in line]


def test_a_misspelt_variable_is_named_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEQSCHED_POLCY", "vanilla")
    monkeypatch.setenv("SEQSCHED_QQQ", "1")
    assert said(capsys) == [
        "seqsched: SEQSCHED_POLCY in the environment is no setting; did you mean SEQSCHED_POLICY?",
        "seqsched: SEQSCHED_QQQ in the environment is no setting",
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("SEQSCHED_POLICIES", "SEQSCHED_REPEAT", "SEQSCHED_STEPS", "SEQSCHED_REQUEST_RATE"),
        *("SEQSCHED_DATA", "SEQSCHED_UPSTREAM_KEY"),
    ],
)
def test_settings_of_any_command_are_known(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, "1")
    assert said(capsys) == []
