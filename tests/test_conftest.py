"""The slow files that `make test-fast` leaves out exist, and carry the mark."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SLOW


def test_the_slow_files_exist_and_are_in_order() -> None:
    assert [
        name for name in SLOW if not (Path(__file__).parents[1] / name.partition("::")[0]).is_file()
    ] == []
    assert list(SLOW) == sorted(SLOW)


def test_this_file_is_not_slow(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("slow") is None
