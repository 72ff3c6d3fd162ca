"""Numbers with units as people write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces import quantities


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        *[(text, 2e3) for text in ("2000", "2s", "2000ms", "2e3 ms", "2000000us", "2e9ns")],
        *[("2000000\N{MICRO SIGN}s", 2e3), ("2000000\N{GREEK SMALL LETTER MU}s", 2e3)],
        *[("1.5min", 9e4), ("1h", 3.6e6), ("-3ms", -3.0), ("inf", float("inf"))],
    ],
)
def test_a_duration_is_of_milliseconds_or_of_its_unit(text: str, ms: float) -> None:
    assert quantities.milliseconds(text) == pytest.approx(ms)


def test_a_number_alone_is_of_the_unit_that_was_asked_for() -> None:
    assert quantities.milliseconds("90") == 90 == quantities.seconds("90")
    assert quantities.seconds("90ms") == pytest.approx(0.09)
    assert quantities.seconds("2h") == 7200


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        *[(f"5{per}", 5) for per in ("", "/s", "/sec", "/second")],
        *[("60/min", 1), ("90/minute", 1.5), ("7200/h", 2), ("1800/hour", 0.5), ("inf", float("inf"))],
    ],
)
def test_a_rate_is_per_second_or_per_its_unit(text: str, rate: float) -> None:
    assert quantities.per_second(text) == pytest.approx(rate)


def test_shares_and_percent() -> None:
    assert quantities.share("99%") == pytest.approx(quantities.share("0.99"))
    assert quantities.percent("15%") == quantities.percent("15") == 15


@pytest.mark.parametrize(
    ("read", "texts"),
    [
        (quantities.milliseconds, ["", "s", "2m", "2 days", "2s3", "2/s", "2S", "1,5s"]),
        (quantities.seconds, ["", "5m", "2%"]),
        (quantities.per_second, ["", "5/", "/s", "5/ms", "2s", "5/s/s"]),
        (quantities.percent, ["", "%", "5%%", "5s"]),
    ],
)
def test_anything_else_is_refused(read: Callable[[str], float], texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(ValueError, match=r".*"):
            read(text)


@given(
    st.floats(1e-6, 1e9), st.sampled_from([("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1), ("min", 60)])
)
def test_the_unit_never_shifts_a_number(value: float, unit: tuple[str, float]) -> None:
    name, length_s = unit
    assert quantities.seconds(f"{value!r}{name}") == pytest.approx(value * length_s, rel=1e-12)
    assert quantities.milliseconds(f"{value!r}{name}") == pytest.approx(1e3 * value * length_s, rel=1e-12)
