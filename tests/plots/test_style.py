from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from plots import style
from traces.errors import InputError


def test_label_puts_the_options_below_the_name() -> None:
    assert style.label("vanilla") == "vanilla"
    assert style.label("sequence:vbs=off,fcr=off") == "sequence\nvbs=off, fcr=off"


def test_label_stays_within_its_width_and_height() -> None:
    spec = "some.module:AnUncommonlyLongSchedulerName:alpha=1,beta=a_very_long_value_indeed,c=3,d=4,epsilon=5"
    lines = style.label(spec, width=16, max_lines=3).split("\n")
    assert len(lines) == 3
    assert max(len(line) for line in lines) <= 16
    assert lines[0].startswith("AnUncom") and lines[-1].endswith("…")


def test_label_of_a_class_from_outside_leaves_out_its_module() -> None:
    assert style.label("my.module:Mine") == "Mine"
    assert style.label("my.module:Mine:a=1") == "Mine\na=1"


def test_labels_that_shortening_made_equal_are_numbered() -> None:
    specs = [f"sequence:vbs=memory,fcr=on,margin=0.9,bin_width=5{k}" for k in range(3)]
    made = style.labels(specs, width=18, max_lines=2)
    assert len(set(made)) == 3


def test_a_dollar_is_no_formula(tmp_path: Path) -> None:
    fig, (ax,) = style.figure(3, 2)
    ax.set_title(style.label("costs:$a_{$,b=$"))
    style.save(fig, tmp_path / "a.png")


def test_neighbouring_colours_differ_in_luminance() -> None:
    light = [float(np.dot(to_rgb(c), (0.299, 0.587, 0.114))) for c in style.COLOURS]
    assert min(abs(a - b) for a, b in pairwise(light)) > 0.15
    assert max(light) < 0.75, "a line must stand out from white"


def test_the_parts_of_a_bar_differ_in_luminance_or_hatch() -> None:
    parts = (style.USEFUL, style.RECOMPUTED, style.PERCEPTION, style.PADDING)
    light = [float(np.dot(to_rgb(c), (0.299, 0.587, 0.114))) for c in parts]
    assert light == sorted(light)
    assert light[1] - light[0] > 0.3 and light[3] - light[1] > 0.15


def test_colours_and_dashes_together_tell_sixteen_policies_apart() -> None:
    assert len({(style.colour(k), str(style.dash(k))) for k in range(16)}) == 16


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_saved_bytes_are_the_same_each_time(tmp_path: Path, suffix: str) -> None:
    def draw() -> matplotlib.figure.Figure:
        fig, (ax,) = style.figure(4, 3)
        ax.bar([0, 1], [2, 3], hatch="//", label="a label")
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return fig

    once, again = draw(), draw()
    for name, fig in (("a", once), ("b", again), ("c", once)):
        style.save(fig, tmp_path / f"{name}.{suffix}")
    first, *others = [(tmp_path / f"{name}.{suffix}").read_bytes() for name in "abc"]
    assert others == [first, first]
    assert b"date" not in first.lower()


def test_a_picture_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    fig, _ = style.figure(2, 2)

    def half(file: object, **_: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise RuntimeError("no more ink")

    monkeypatch.setattr(fig, "savefig", half)
    with pytest.raises(RuntimeError, match="ink"):
        style.save(fig, path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_save_names_a_suffix_it_does_not_know(tmp_path: Path) -> None:
    fig, _ = style.figure(2, 2)
    with pytest.raises(InputError, match=r"suffix '\.pdf' is not one of \.png, \.svg"):
        style.save(fig, tmp_path / "a.pdf")


def test_drawing_leaves_no_global_state(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    fig, _ = style.figure(2, 2)
    style.save(fig, tmp_path / "a.svg")
    assert dict(matplotlib.rcParams) == before


def test_cumulative_ends_below_all_where_some_have_no_value() -> None:
    x, share = style.cumulative(np.array([3.0, 1.0]), whole=4)
    assert x.tolist() == [1.0, 1.0, 3.0]
    assert share.tolist() == [0.0, 25.0, 50.0]
    assert [len(part) for part in style.cumulative(np.empty(0))] == [0, 0]


def test_cumulative_thins_out_without_moving_the_curve() -> None:
    x, share = style.cumulative(np.arange(100_000.0), max_points=500)
    assert len(x) == 501
    assert np.allclose(share[1:], (x[1:] + 1) / 1000)


@pytest.mark.parametrize("name", [r"a$\frac$b", "$", "$$", r"$\nonsense{$", r"\$a$b$"])
def test_no_name_is_a_formula(name: str, tmp_path: Path) -> None:
    fig, (ax,) = style.figure(3, 2)
    ax.plot([1, 1000], [1, 2], label=name)
    ax.set_title(name)
    ax.set_xscale("log")
    ax.set_yticks([1, 2], [name, "other"])
    ax.legend()
    style.save(fig, tmp_path / "figure.svg")
    style.save(fig, tmp_path / "figure.png")


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (5.0, 16.0, ["5", "7", "10"]),
        (60.0, 220.0, ["70", "100", "200"]),
        (0.4, 30.0, ["0.5", "1", "2", "5", "10", "20"]),
        (0.5, 5e5, ["1", "100", "10,000"]),
        (95.0, 104.0, ["96", "98", "100", "102", "104"]),
    ],
)
def test_a_log_axis_has_numbers_to_read_it_by(low: float, high: float, shown: list[str]) -> None:
    fig, (ax,) = style.figure(4, 3)
    style.log_scale(ax, "x", low, high)
    fig.draw_without_rendering()
    within = [label for label in ax.get_xticklabels() if low <= label.get_position()[0] <= high]
    assert [label.get_text() for label in within] == shown
    boxes = [label.get_window_extent() for label in within]
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
