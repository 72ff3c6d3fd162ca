"""The policies by name: which scheduler the options of a family ask for."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

import pytest

from sim.schedulers import (
    SCHEDULERS,
    AheadScheduler,
    ContinuousScheduler,
    MicrobatchScheduler,
    OpenSequenceScheduler,
    SequenceScheduler,
    SglangScheduler,
    TrtllmScheduler,
)
from sim.work import Limits


@pytest.mark.parametrize(
    ("name", "options", "is_ahead", "expected"),
    [
        ("vanilla", {}, False, MicrobatchScheduler),
        ("sequence", {}, False, SequenceScheduler),
        ("sequence", {"max_wait_s": 0.1}, False, OpenSequenceScheduler),
        ("continuous", {}, False, ContinuousScheduler),
        ("continuous", {"async_scheduling": True}, False, AheadScheduler),
        ("continuous", {}, True, AheadScheduler),
        ("continuous", {"async_scheduling": False}, True, ContinuousScheduler),
        ("continuous", {"rules": "sglang"}, True, SglangScheduler),
        ("continuous", {"rules": "trtllm"}, False, TrtllmScheduler),
    ],
)
def test_the_options_choose_the_scheduler(
    name: str, options: dict[str, Any], is_ahead: bool, expected: type
) -> None:
    assert type(SCHEDULERS[name](Limits(1000, async_scheduling=is_ahead), **options)) is expected


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_policy_has_options_and_refuses_others(name: str) -> None:
    make: Any = SCHEDULERS[name]
    assert is_dataclass(make.Options)
    with pytest.raises(TypeError, match="colour"):
        make(Limits(1000), colour=1)
