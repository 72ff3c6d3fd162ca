"""The picture of fetching against computing shows what the numbers say."""

from __future__ import annotations

import numpy as np
import pytest

from plots import style, tiers


def test_what_is_computed_and_what_is_fetched_are_lines() -> None:
    _, (ax,) = style.figure(5, 4)
    tiers.fetch_or_compute([256, 4096], [20.0, 100.0], {"5GB/s": [25.0, 120.0], "50GB/s": [21.0, 30.0]}, ax)
    assert [line.get_label() for line in ax.lines] == ["computed", "fetched at 5GB/s", "fetched at 50GB/s"]
    assert [list(np.asarray(line.get_ydata())) for line in ax.lines] == [[20, 100], [25, 120], [21, 30]]


def test_a_gain_is_the_geometric_mean_with_all_seeds_between_the_ends_of_its_bar() -> None:
    _, (ax,) = style.figure(5, 4)
    tiers.gain_by_load([5.0, 10.0], {"cpu": [[1.0, 4.0], [2.0, 2.0]]}, ax)
    (container,) = ax.containers
    line, caps, _ = container
    assert list(np.asarray(line.get_ydata())) == pytest.approx([2.0, 2.0])
    assert [list(np.asarray(cap.get_ydata())) for cap in caps] == [[1.0, 2.0], [4.0, 2.0]]
