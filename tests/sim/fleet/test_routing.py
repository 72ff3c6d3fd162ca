"""Routers from outside: ten lines are enough, and what is wrong with one is one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import simulate
from sim.fleet.routing import BaseRouter, CheckedRouter, RouterContext
from sim.hardware.profile import Profile
from sim.request import Request
from sim.scenario.inputs import digest_of
from traces.errors import InputError

OUTSIDE = '''
from dataclasses import dataclass
from sim.fleet.routing import BaseRouter


@dataclass(frozen=True)
class Options:
    spread: int = 1


class Sticky(BaseRouter):
    """The same replicas for requests of the same remainder."""

    Options = Options

    def __init__(self, context, **options):
        super().__init__(context)
        self.spread = Options(**options).spread

    def choose(self, request):
        return min(self.members, key=lambda k: ((k - request.id // self.spread) % self.context.num_replicas))


class Far(BaseRouter):
    def choose(self, request):
        return 7


class Stubborn(BaseRouter):
    def choose(self, request):
        return 0


class Confused(BaseRouter):
    def choose(self, request):
        return "the first"


class Broken(BaseRouter):
    def choose(self, request):
        return self.members[request.no_such_field]


class Deaf:
    def __init__(self, context):
        pass

    def choose(self, request):
        return 0


class Leaves(BaseRouter):
    def ended(self, request, replica):
        raise SystemExit(0)

    def choose(self, request):
        return self.members[0]
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of an importable module `my_routers`."""
    path = tmp_path / "my_routers.py"
    path.write_text(OUTSIDE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    sys.modules.pop("my_routers", None)


def context(num_replicas: int = 3) -> RouterContext:
    return RouterContext(
        num_replicas, np.random.default_rng(0), lambda request, replica, answer_tokens=None: 1.0
    )


def request(id: int = 0) -> Request:
    return Request(id, 0.0, 10, 512)


def places(router: Any, profile: Profile, **settings: Any) -> list[int]:
    """The replica that served each of six requests."""
    given = {"policy": "continuous", "replicas": 3, "request_rate": 4.0, "profile": profile, **settings}
    return list(simulate("fixed", num_prompts=6, router=router, **given).requests.replica)


def test_a_router_from_outside(mine: Path, profile: Profile) -> None:
    assert places("my_routers:Sticky", profile) == [0, 1, 2, 0, 1, 2]
    assert places("my_routers:Sticky:spread=2", profile) == [0, 0, 1, 1, 2, 2]


def test_a_router_is_a_class_from_python(profile: Profile) -> None:
    class First(BaseRouter):
        def choose(self, request: Request) -> int:
            return min(self.members)

    result = simulate("fixed", num_prompts=4, replicas=2, router=First, profile=profile)
    assert set(result.requests.replica) == {0} and result.summary["router"] == "First"
    with pytest.raises(InputError, match=r"^router <lambda>: choose raised AttributeError"):
        places(lambda context: object(), profile)


def test_a_router_from_outside_survives_failures(mine: Path, profile: Profile, tmp_path: Path) -> None:
    outages = tmp_path / "outages.csv"
    outages.write_text("replica,down_s,up_s\n1,0.1,100\n", encoding="utf-8")
    assert places("my_routers:Sticky", profile, failures=outages) == [0, 2, 2, 0, 2, 2]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Far", "router my_routers:Far: choose returned 7; replicas are 0 to 2"),
        ("Confused", "router my_routers:Confused: choose returned 'the first', not the number of a replica"),
        (
            "Broken",
            "router my_routers:Broken: choose raised AttributeError: 'Request' object has no attribute "
            "'no_such_field' (my_routers.py, line 41)",
        ),
        (
            "Deaf",
            "router my_routers:Deaf: sent raised AttributeError: 'Deaf' object has no attribute 'sent'",
        ),
        ("Leaves", "router my_routers:Leaves: ended raised SystemExit: 0 (my_routers.py, line 54)"),
        ("Sticky:sprad=2", "my_routers:Sticky: unknown option 'sprad'; it has spread; did you mean spread?"),
        ("Sticki", "module 'my_routers' has no attribute 'Sticki'; did you mean Sticky?"),
    ],
)
def test_what_is_wrong_with_one_from_outside_is_one_line(
    name: str, line: str, mine: Path, profile: Profile
) -> None:
    with pytest.raises(InputError) as caught:
        places(f"my_routers:{name}", profile)
    assert str(caught.value).endswith(line) and "\n" not in str(caught.value)


def test_a_choice_that_is_down_is_refused(mine: Path, profile: Profile, tmp_path: Path) -> None:
    outages = tmp_path / "outages.csv"
    outages.write_text("replica,down_s,up_s\n0,0.1,100\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"^router my_routers:Stubborn: choose returned 0; it is down$"):
        places("my_routers:Stubborn", profile, failures=outages)


@given(events=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30))
def test_the_base_knows_who_is_up(events: list[tuple[int, bool]]) -> None:
    base, up = BaseRouter(context(4)), {0, 1, 2, 3}
    for replica, is_up in events:
        if is_up and replica not in up:
            base.up(replica)
            up.add(replica)
        elif not is_up and replica in up:
            base.down(replica)
            up.remove(replica)
        assert sorted(base.members) == sorted(up)
        assert all(base.members[base.place[k]] == k for k in up) and len(base.place) == len(up)


@given(choice=st.integers(-5, 5) | st.booleans() | st.none() | st.floats() | st.integers(0, 2).map(np.int64))
def test_any_choice_is_a_replica_that_is_up_or_refused(choice: Any) -> None:
    class Chooses(BaseRouter):
        def choose(self, request: Request) -> Any:
            return choice

    checked = CheckedRouter(Chooses(context()), "router Chooses", 3)
    checked.down(1)
    try:
        chosen = checked.choose(request())
    except InputError as error:
        assert str(error).startswith("router Chooses: choose returned ") and "\n" not in str(error)
    else:
        assert type(chosen) is int and chosen in (0, 2)


def test_a_resumed_run_notices_a_changed_router(mine: Path) -> None:
    before = digest_of("router", "my_routers:Sticky")
    assert before and digest_of("router", "round-robin") == ""
    mine.write_text(OUTSIDE + "\n", encoding="utf-8")
    assert digest_of("router", "my_routers:Sticky") not in ("", before)


@pytest.mark.parametrize("needs", ["distribution", ("lengths",)])
def test_needs_that_no_predictor_knows_are_named(needs: Any, profile: Profile) -> None:
    class Needy(BaseRouter):
        def __init__(self, context: RouterContext) -> None:
            super().__init__(context)
            self.needs = needs

        def choose(self, request: Request) -> int:
            return self.members[0]

    with pytest.raises(InputError, match=r"^router Needy: needs is .*, not a sequence of order, length"):
        places(Needy, profile)
    needs = ("distribution",)
    assert places(Needy, profile) == [0] * 6
