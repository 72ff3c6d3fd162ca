"""What a policy makes is a scheduler with all its members, or one line says why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sim.scenario.policies import make_scheduler
from sim.schedulers.registry import SCHEDULERS
from sim.work import Limits
from traces.errors import InputError

LIMITS = Limits(1000)


class Wrapper:
    """Every member is that of a scheduler of ours, but for those that a test gives it."""

    def __init__(self, limits: Limits) -> None:
        self.inner = SCHEDULERS["vanilla"](limits)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Moody(Wrapper):
    @property
    def wake_at(self) -> float | None:
        raise RuntimeError("not now")


class Certain(Wrapper):
    upper_quantile = 1.5


class Answers(Wrapper):
    """Has an answer to everything, as a mock has."""

    def __getattr__(self, name: str) -> Any:
        return print


class Half:
    def __init__(self, limits: Limits) -> None:
        pass

    def submit(self, request: Any, now: float) -> None:
        pass


def nothing(limits: Limits) -> None:
    return None


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (nothing, "policy nothing: NoneType is no scheduler, it has no method submit, next_work"),
        (Half, "policy Half: Half is no scheduler, it has no method next_work"),
        (Moody, "policy Moody raised RuntimeError: not now"),
        (Certain, "policy Certain: upper_quantile is 1.5; None or a number from 0 to 1 is needed"),
        (Answers, "policy Answers: upper_quantile is <built-in function print>; None or a number"),
    ],
)
def test_what_is_no_scheduler_is_refused_in_one_line(policy: Callable[..., Any], said: str) -> None:
    for spec in (policy, f"{__name__}:{policy.__name__}"):
        with pytest.raises(InputError) as caught:
            make_scheduler(spec, LIMITS)
        text = str(caught.value).replace(f"{__name__}:", "")
        assert text.startswith(said) and "\n" not in text


def test_a_wrapper_that_forwards_everything_is_one() -> None:
    assert make_scheduler(Wrapper, LIMITS).has_place is False
