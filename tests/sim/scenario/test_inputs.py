"""Digests of settings: of files, and of the modules of formats and generators from outside."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.scenario.inputs import check_unchanged, digest_of
from traces.errors import InputError

OUTSIDE = """
from dataclasses import dataclass

from traces.readers import Format


class Chats(Format):
    pass


@dataclass(frozen=True)
class Replayed:
    file: str = ""

    def generate(self, num_prompts, seed):
        pass
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of an importable module `my_sources`, in the working folder, beside `chats.csv`."""
    path = tmp_path / "my_sources.py"
    path.write_text(OUTSIDE, encoding="utf-8")
    (tmp_path / "chats.csv").write_text("1", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield path
    sys.modules.pop("my_sources", None)


def test_a_trace_from_outside_counts_with_its_module_and_its_file(mine: Path) -> None:
    def digests() -> list[str]:
        texts = (
            "my_sources:Chats:file=chats.csv",
            "my_sources:Replayed:file=chats.csv",
            "my_sources:Replayed",
        )
        return [digest_of("trace", text) for text in texts]

    first = digests()
    assert all(first) and digest_of("trace", "fixed") == ""
    Path("chats.csv").write_text("2", encoding="utf-8")
    second = digests()
    assert [a == b for a, b in zip(first, second, strict=True)] == [False, False, True]
    mine.write_text(OUTSIDE + "\n", encoding="utf-8")
    assert not any(a == b for a, b in zip(second, digests(), strict=True))


def test_a_file_that_has_changed_is_named_and_a_policy_may_change(mine: Path) -> None:
    source, policy = "my_sources:Chats:file=chats.csv", "my_sources:Policy"
    inputs = [("trace", source, digest_of("trace", source)), ("policy", policy, "as it was")]
    check_unchanged(inputs, "study")
    Path("chats.csv").write_text("2", encoding="utf-8")
    with pytest.raises(InputError, match=f"^trace {source}: .* not what it was when the study began$"):
        check_unchanged(inputs, "study")
