"""`make docs` reaches every public module, and each of them can be imported and rendered."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def api() -> ModuleType:
    pytest.importorskip("torch", reason="real/ needs torch (the extra `real`)")
    spec = importlib.util.spec_from_file_location("docs_api", ROOT / "docs" / "api.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_public_module_is_found_and_can_be_imported(api: ModuleType) -> None:
    names = set(api.public_modules())
    for path in (p for folder in ("sim", "traces", "real", "plots") for p in (ROOT / folder).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if path.parent.parent.name != "facade":
            assert name in names
    assert "seqsched" in names
    for name in names:
        module = importlib.import_module(name)
        assert [public for public in getattr(module, "__all__", ()) if not hasattr(module, public)] == []


@pytest.mark.parametrize("name", ["seqsched", "sim"])
def test_a_page_shows_signature_and_docstring(
    api: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = pytest.importorskip("pdoc.doc", reason="pdoc is not installed (the extra `dev`)")
    module = importlib.import_module(name)
    with monkeypatch.context() as context:
        for public in module.__all__:  # taken back at the end: no other test sees what pdoc needs
            context.setitem(vars(module), public, getattr(module, public))
        api.resolve(name)
        members = pages.Module.from_name(name).members
        assert "Replay a trace under one policy" in members["simulate"].docstring
        assert "policies" in str(members["compare"].signature)
