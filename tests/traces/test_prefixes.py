"""The share of prompt tokens in leading blocks that an earlier request had too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from traces.prefixes import share_seen_before
from traces.tables import open_table

Put = Callable[..., Path]


@pytest.mark.parametrize(
    ("rows", "share"),
    [
        ([(512, [1]), (1024, [1, 2]), (600, [1, 2]), (512, [2])], (512 + 600 + 512) / 2648),
        ([(500, [1]), (500, [2])], 0.0),
        ([(500, [1, 2]), (500, [3, 1])], 0.0),
        ([(500, 7), (500, [1])], None),
        ([(500, [[1]]), (500, [[1]])], None),
        ([(99999, [1]), (500, [1])], None),
    ],
)
def test_only_leading_blocks_count(put: Put, rows: list[tuple[int, object]], share: float | None) -> None:
    path = put("".join(json.dumps({"n": n, "ids": ids}) + "\n" for n, ids in rows))
    table = open_table(path, lambda column: True)
    assert share_seen_before(table, "ids", table.raw("n")) == (
        None if share is None else pytest.approx(share)
    )
