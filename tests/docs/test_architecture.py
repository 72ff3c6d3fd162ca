"""docs/architecture shows the imports that the code has."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.pages import ROOT

pytest.importorskip("grimp", reason="grimp is not installed (it comes with import-linter)")


@pytest.fixture(scope="module")
def architecture() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_architecture", ROOT / "docs" / "architecture.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def edges(architecture: ModuleType) -> dict[str, set[str]]:
    found: dict[str, set[str]] = architecture.edges()
    return found


def test_picture_and_table_are_those_of_the_code(architecture: ModuleType) -> None:
    for path, text in architecture.files():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `python docs/architecture.py`"


def test_every_arrow_points_down(architecture: ModuleType, edges: dict[str, set[str]]) -> None:
    for house in ("sim", "real"):
        floor = {room: i for i, rooms in enumerate(architecture.floors(house)) for room in rooms}
        assert set(floor) == {room for room in edges if room.startswith(f"{house}.")}
        for room, others in edges.items():
            assert all(floor[room] < floor[other] for other in others if room in floor and other in floor)


def test_a_longer_path_leaves_an_arrow_out(architecture: ModuleType, edges: dict[str, set[str]]) -> None:
    inner = architecture.reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    assert inner == {"a": set(), "b": set(), "c": set()}  # each is a house of its own
    assert architecture.reduced({"h.a": {"h.b", "h.c"}, "h.b": {"h.c"}, "h.c": {"i"}}) == {
        "h.a": {"h.b"},
        "h.b": {"h.c"},
        "h.c": set(),
    }
    assert architecture.picture(edges).count('class="arrow"') > 20


def test_rooms_have_a_sentence(architecture: ModuleType, edges: dict[str, set[str]]) -> None:
    assert [room for room in edges if not Path(ROOT, *room.split(".")).exists() and "." not in room] == []
    for room in edges:
        assert architecture.sentence(room).endswith((".", "?")), room
