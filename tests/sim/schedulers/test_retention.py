"""What a wait wastes, by hand; which way is chosen; what waits add to memory over time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.request import Request
from sim.schedulers.continuous_options import ContinuousOptions
from sim.schedulers.disciplines import discipline
from sim.schedulers.retention import WAYS, Retention
from sim.work import Limits, MemoryTier

PREFILL = ((100, 1.0), (200, 1.5), (400, 3.5))
"""Seconds of prompts: 0.5 s for each 100 tokens up to 200, 1 s from there on."""
TIER = (MemoryTier("cpu", 10_000, 0.001),)


def limits(*, tiers: tuple[MemoryTier, ...] = TIER, overlap: bool = False) -> Limits:
    return Limits(1000, prefill_s=PREFILL, iteration_s=0.5, tiers=tiers, tiers_overlap=overlap)


def test_waste_is_memory_over_time() -> None:
    retention = Retention("least-waste", limits())
    # 3 s of 200 tokens; 1.5 s of 200 and 600 others; 0.2 s there and 0.2 s back of 200 and 600 others.
    assert [retention.waste(way, 3.0, 200, 600) for way in ("preserve", "discard", "swap")] == [
        600.0,
        1200.0,
        pytest.approx(320.0),
    ]
    overlapped = Retention("least-waste", limits(overlap=True))
    assert overlapped.waste("swap", 3.0, 200, 600) == pytest.approx(80.0)


@pytest.mark.parametrize(
    ("tokens", "seconds"), [(50, 0.75), (100, 1.0), (150, 1.25), (300, 2.5), (400, 3.5), (600, 5.5)]
)
def test_a_prompt_takes_what_lies_between_and_beyond_the_known_lengths(tokens: int, seconds: float) -> None:
    assert Retention("discard", limits()).forward_s(tokens) == pytest.approx(seconds)
    assert Retention("discard", Limits(1000)).forward_s(tokens) == 0.0


@pytest.mark.parametrize(
    ("wait_s", "context", "others", "has_tier", "way"),
    [
        (0.1, 200, 600, True, "preserve"),
        (100.0, 200, 600, True, "swap"),
        (100.0, 200, 600, False, "discard"),
        (5.9, 200, 600, False, "preserve"),
        (6.1, 200, 600, False, "discard"),  # 1.5 s of 800 tokens are 6 s of 200
        (1.4, 200, 0, False, "preserve"),
        (1.6, 200, 0, False, "discard"),
    ],
)
def test_the_least_waste_is_chosen(
    wait_s: float, context: int, others: int, has_tier: bool, way: str
) -> None:
    retention = Retention("least-waste", limits(tiers=TIER if has_tier else ()))
    assert retention.way(wait_s, context, others) == way
    for fixed in WAYS:
        assert Retention(fixed, limits()).way(wait_s, context, others) == fixed


def test_memory_that_goes_by_arc_keeps_no_copies_for_a_turn() -> None:
    """Which is what `swap` is refused for."""
    retention = Retention("least-waste", replace(limits(), tiers_eviction="arc"))
    assert retention.way(100.0, 200, 600) == "discard"


def request(wait_s: float | None, *, prompt: int = 190, predicted: int = 10) -> Request:
    return Request(0, 0.0, prompt, 100, predicted_tokens=predicted, predicted_wait_s=wait_s)


def test_memory_time_has_the_wait_as_it_is_spent() -> None:
    """10 iterations of 190 tokens and more, then 200 tokens in a wait, in iterations of half a second."""
    alone = 10 * 190 + 55
    for way, seconds in (("preserve", 3.0), ("swap", 0.4)):
        options = ContinuousOptions(order="memory-time", prefix_caching="on", waits=way)
        rank = discipline(options, limits(overlap=True))
        assert rank(request(None), 0) == alone
        assert rank(request(3.0), 0) == pytest.approx(alone + 200 * seconds / 0.5)
    options = ContinuousOptions(order="memory-time", prefix_caching="on")
    assert discipline(options, limits())(request(3.0), 0) == alone, "given up, a wait costs nothing"


def test_before_it_runs_memory_is_taken_to_be_full_of_others() -> None:
    """1.5 s of all 1,000 tokens are 7.5 s of 200."""
    options = ContinuousOptions(order="memory-time", prefix_caching="on", waits="least-waste")
    rank = discipline(options, limits(tiers=()))
    alone = rank(request(None), 0)
    assert rank(request(7.4), 0) == pytest.approx(alone + 200 * 7.4 / 0.5)
    assert rank(request(7.6), 0) == pytest.approx(alone + 200 * 1.5 / 0.5)
