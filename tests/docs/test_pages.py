"""What the pages show is what commands and code give, and what they name is there."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from sim.cli import build_app, main
from tests.docs.pages import PAGES, ROOT, Code, Output, Page

ALL = [Page(path) for path in PAGES]
OUTPUTS = [(page, output) for page in ALL for output in page.outputs]
CODE = [(page, code) for page in ALL for code in page.code]
SHELL = [(page, words) for page in ALL for words in page.shell]


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip("` \n")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_pages_hold_what_they_show() -> None:
    assert {page.name for page, _ in OUTPUTS} >= {"README.md", "docs/plan-capacity.md", "docs/sweep.md"}
    assert {page.name for page, _ in CODE} >= {"README.md", "docs/sweep.md", "docs/trust.md"}
    assert sum(code.shown is not None for _, code in CODE) >= 3


@pytest.mark.slow
@pytest.mark.parametrize(("page", "output"), OUTPUTS, ids=lambda o: getattr(o, "name", None))
def test_a_command_prints_what_the_page_shows(
    page: Page,
    output: Output,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if output.needs_data and not os.environ.get("SEQSCHED_DATA"):
        pytest.skip("SEQSCHED_DATA names no folder with the public data sets")
    for name, content in page.files.items():
        (folder / name).write_text(content, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    program, *arguments = shlex.split(output.command)
    if program == "seqsched":
        try:
            main(arguments)
        except SystemExit as ended:
            assert ended.code == 1 or output.is_on_stderr  # it ran, and a check failed
        out, err = capsys.readouterr()
        printed = lines(err if output.is_on_stderr else out)
    else:
        assert program == "python"
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
        printed = lines(capsys.readouterr().out)[:-1]  # the last line is for programs
    assert printed == lines(output.shown)


@pytest.mark.parametrize(("page", "code"), CODE, ids=lambda o: getattr(o, "name", None))
def test_code_runs_and_prints_what_the_page_shows(
    page: Page, code: Code, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in page.files.items():
        (folder / name).write_text(content, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    exec(compile(code.text, page.name, "exec"), {})
    if code.shown is not None:
        assert lines(capsys.readouterr().out) == lines(code.shown)


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page: Page) -> None:
    for link in page.links:
        target, _, anchor = link.partition("#")
        path = (page.path.parent / target).resolve() if target else page.path
        assert path.exists(), link
        assert not anchor or anchor in Page(path).anchors, link


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_every_command_that_a_page_names_is_one(page: Page) -> None:
    targets = re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for path, *arguments in page.shell:
        program = Path(path).name  # of an environment, too
        if program == "seqsched":
            build_app(tokens=arguments).parse_args(arguments, exit_on_error=False, print_error=False)
        elif program == "make":
            assert arguments[0] in targets
        elif program == "python" and arguments[0] == "-m":
            assert arguments[1] == "seqsched" or (ROOT / f"{arguments[1].replace('.', '/')}.py").is_file()
        elif program == "python":
            assert (ROOT / arguments[0]).is_file() or arguments[0] in page.files
        else:
            assert program in ("awk", "dask", "pip", "git", "cd")


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_files_and_modules_that_a_page_names_are_there(page: Page) -> None:
    for name in re.findall(r"`((?:sim|real|traces|plots|tests|docs)/[\w./-]*)`", page.text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(?:python -m )?((?:sim|real|traces|plots|tests)(?:\.\w+)+)`", page.text):
        parts = name.split(".")
        found = [ROOT.joinpath(*parts[:n]) for n in (len(parts), len(parts) - 1)]
        assert any(path.is_dir() or path.with_suffix(".py").is_file() for path in found), name
