"""`seqsched list` and `--help` name all that the tables have, and nothing is kept by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.cli import main
from sim.cli.listing import KINDS, Kind
from sim.fleet.routers import ROUTERS
from sim.perception.registry import PREDICTORS
from sim.scenario.policies import POLICIES
from traces.known_formats import FORMATS
from traces.registry import Registry
from traces.synthetic import GENERATORS


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command prints, without the borders of tables and the breaks of lines."""
    try:
        main(list(arguments))
    except SystemExit as ended:
        assert not ended.code
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_has_every_name_and_every_option(kind: Kind, capsys: pytest.CaptureFixture[str]) -> None:
    text, registry = shown(capsys, "list", kind), KINDS[kind][1]
    for name in registry.names:
        assert name in text
        assert len(registry.describe(name)) > 10 and " ".join(registry.describe(name).split()[:6]) in text
        for option, (_, sentence) in registry.options_of(name).items():
            assert option in text and " ".join(sentence.split()[:6]) in text
            assert sentence, f"{name}: {option} has no sentence"


def test_without_a_kind_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "list")
    assert all(name in text for _, registry in KINDS.values() for name in registry.names)
    assert "fcr=on" in text and "sigma Standard deviation" in text


@pytest.mark.parametrize(
    ("command", "registries"),
    [
        (["simulate"], [POLICIES, PREDICTORS, ROUTERS, GENERATORS, FORMATS]),
        (["compare"], [PREDICTORS, ROUTERS, GENERATORS, FORMATS]),
        (["plan"], [PREDICTORS, ROUTERS, GENERATORS, FORMATS]),
        (["trace", "inspect"], [GENERATORS, FORMATS]),
        (["trace", "convert"], [GENERATORS, FORMATS]),
        (["trace", "generate"], [GENERATORS]),
    ],
)
def test_the_help_of_a_command_has_every_name(
    command: list[str], registries: list[Registry], capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(capsys, *command, "--help")
    assert [name for registry in registries for name in registry.names if name not in text] == []
    assert "some.module:Class" in text and "seqsched list" in text
    assert "--empty-" not in text


def test_an_unknown_kind_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["list", "schedulers"])
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1


OUTSIDE = """
from dataclasses import dataclass
import numpy as np
from sim.fleet.routing import BaseRouter
from traces import checks
from traces.readers import Format, make_trace


@dataclass(frozen=True)
class Always:
    tokens: int = 64
    charge: bool = False

    def predict(self, trace, rng):
        return np.full(len(trace), self.tokens)


class First(BaseRouter):
    def choose(self, request):
        return min(self.members)


class Nowhere(BaseRouter):
    def choose(self, request):
        return len(self.members)


class Chats(Format):
    required = ("asked", "answered")

    def read(self, table, reading):
        return make_trace(table, checks.tokens(table, "asked"), checks.tokens(table, "answered"))
"""


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (
            ["--num-prompts", "8", "--predictor", "my_own:Always:tokens=80"],
            0,
            "my_own:Always:tokens=80",
        ),
        (["--num-prompts", "8", "--replicas", "2", "--router", "my_own:First"], 0, "my_own:First"),
        (["--trace", "my_own:Chats:file=chats.csv"], 0, '"trace": "my_own:Chats:file=chats.csv"'),
        (["--replicas", "2", "--router", "my_own:Nowhere"], 2, "choose returned 2; replicas are 0 to 1"),
        (["--predictor", "my_own:Always:tokens=x"], 2, "tokens: 'x' is not a whole number"),
        (["--predictor", "my_own:Alway"], 2, "did you mean Always?"),
        (["--trace", "my_own:Chats:file=none.csv"], 2, "none.csv: no such file"),
        (["--router", "round-robbin"], 2, "did you mean round-robin?"),
    ],
)
def test_a_module_in_the_working_folder_is_found(
    arguments: list[str],
    status: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_own.py").write_text(OUTSIDE, encoding="utf-8")
    (tmp_path / "chats.csv").write_text("asked,answered\n3,4\n5,6\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_own", raising=False)
    code = 0
    try:
        main(["simulate", "--json", *arguments])
    except SystemExit as ended:
        code = int(ended.code or 0)
    out, err = capsys.readouterr()
    assert code == status and said in out + err
    assert err.count("\n") == (0 if status == 0 else 1)
