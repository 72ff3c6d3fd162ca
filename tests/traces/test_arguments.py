"""Arguments of public calls: each wrong one is named in one line, with its value and what is expected."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict, Unpack

import numpy as np
import pytest

import traces
from sim import compare, plan, simulate, sweep
from sim.studies.load_curves import load_curves
from sim.testing import check_predictor, check_router, check_scheduler
from traces.arguments import check_value, checked
from traces.errors import InputError


class Runs(Protocol):
    def run(self, what: str) -> None: ...


class Rest(TypedDict, total=False):
    colour: str
    sizes: Sequence[int]


@checked
def call(
    path: str | os.PathLike[str] = "",
    *,
    count: int = 0,
    share: float | None = None,
    made: str | Callable[[int], int] = "x",
    names: Sequence[str] | str = (),
    bounds: Mapping[str, float] | Iterable[str] | None = None,
    place: Literal["here", "there"] | Runs = "here",
    is_on: bool = True,
    **rest: Unpack[Rest],
) -> str:
    """Takes some of everything."""
    return f"{path}{count}"


class Place:
    def run(self, what: str) -> None:
        """Runs."""


@pytest.mark.parametrize(
    "given",
    [
        {"path": Path("x"), "count": np.int64(3), "share": np.float32(0.5), "made": int, "place": Place()},
        {"share": 1, "names": ["a", "b"], "bounds": "ttft:5", "place": "there", "is_on": False},
        {"share": None, "bounds": {"ttft": 5}, "names": "a", "colour": "red", "sizes": [1, 2]},
        {"bounds": (text for text in ("a", "b")), "sizes": np.arange(3)},
    ],
)
def test_what_the_annotations_allow_goes_through(given: dict[str, Any]) -> None:
    assert call(**given) == f"{given.get('path', '')}{given.get('count', 0)}"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"path": 5}, "path: 5 is not a text or a path"),
        ({"path": None}, "path: None is not a text or a path"),
        ({"count": True}, "count: True is not a whole number"),
        ({"count": 2.0}, "count: 2.0 is not a whole number"),
        ({"share": "x"}, "share: 'x' is not a number"),
        ({"made": None}, "made: None is not a text or a function or class"),
        ({"names": 5}, "names: 5 is not a list of texts or a text"),
        ({"names": ["a", 5]}, "names: 5 is not a text"),
        ({"bounds": 5}, "bounds: 5 is not a mapping or a list of texts"),
        ({"place": object}, "is not a text or a Runs (methods run)"),
        ({"is_on": 1}, "is_on: 1 is not True or False"),
        ({"colour": 5}, "colour: 5 is not a text"),
        ({"sizes": "12"}, "sizes: '12' is not a list of whole numbers"),
        ({"color": "red"}, "unknown setting color; did you mean colour?"),
        ({"xyz": 1}, "unknown setting xyz; the settings are path, count, share"),
    ],
)
def test_what_they_do_not_allow_is_named(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as refused:
        call(**given)
    assert says in str(refused.value)


def test_a_number_of_arguments_that_does_not_fit_is_named() -> None:
    with pytest.raises(InputError, match="call: too many positional arguments"):
        call("a", "b")  # type: ignore[misc]


def test_a_list_in_a_list_is_looked_into() -> None:
    check_value("pairs", [["a"], ["b", "c"]], Sequence[Sequence[str]])
    with pytest.raises(InputError, match="pairs: 5 is not a text"):
        check_value("pairs", [["a"], ["b", 5]], Sequence[Sequence[str]])


def test_the_call_keeps_its_name_text_and_signature() -> None:
    assert simulate.__name__ == "simulate" and "policy" in (simulate.__doc__ or "")
    assert call.__module__ == __name__


SMALL: dict[str, Any] = {"num_prompts": 3}
SLO = "ttft_p99:2000"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: simulate(policy=5, **SMALL), "policy: 5 is not a text or a function"),  # type: ignore[arg-type]
        (lambda: simulate(profile=None, **SMALL), "profile: None is not a text or a Profile"),
        (lambda: simulate(5), "trace: 5 is not a Trace or a text"),  # type: ignore[arg-type]
        (lambda: simulate(failures=5, replicas=2, **SMALL), "failures: 5 is not a text or a path"),
        (lambda: simulate(fleet=["h200-vicuna-7b"], **SMALL), "fleet: 'h200-vicuna-7b' is not a Profile"),
        (lambda: simulate(router=5, **SMALL), "router: 5 is not a text or a function"),
        (lambda: simulate(goodput=5, **SMALL), "goodput: 5 is not a mapping or a list of texts"),
        (lambda: simulate(set=5, **SMALL), "set: 5 is not a mapping or a list of texts or a text"),
        (lambda: simulate(kv_blocks=0, **SMALL), "kv_blocks: 0 is below 1"),
        (lambda: simulate(on_progress=5, **SMALL), "on_progress: 5 is not a function"),  # type: ignore[arg-type]
        (lambda: compare(polices="vanilla"), "unknown setting polices; did you mean policies?"),  # type: ignore[call-arg]
        (lambda: compare(), "compare: missing a required argument: 'policies'"),  # type: ignore[call-arg]
        (lambda: compare(policies=[5]), "policies: 5 is not a text"),  # type: ignore[list-item]
        (lambda: plan(slos=SLO), "unknown setting slos; did you mean slo?"),  # type: ignore[call-arg]
        (lambda: plan(slo=SLO, spare=None), "spare: None is not a whole number"),  # type: ignore[arg-type]
        (lambda: plan(slo=SLO, jobs="all"), "jobs: 'all' is not a whole number"),  # type: ignore[arg-type]
        (lambda: plan(slo=SLO, replicas=4), "replicas: 4 needs max_rate"),
        (lambda: sweep(5), "source: 5 is not a text or a path or a mapping"),  # type: ignore[arg-type]
        (lambda: sweep({"grid": {"seeds": [0]}}, job=1), "unknown setting job; did you mean jobs?"),  # type: ignore[call-arg]
        (lambda: sweep({"grid": {"seeds": [0]}}, backend=5), "backend: 5 is not a text or a Place"),  # type: ignore[arg-type]
        (lambda: load_curves("fixed", rate=[1]), "unknown setting rate; did you mean rates?"),  # type: ignore[call-arg]
        (lambda: load_curves("fixed", rates=["a"]), "rates: 'a' is not a number"),  # type: ignore[list-item]
        (lambda: traces.load(5), "source: 5 is not a text or a path"),  # type: ignore[arg-type]
        (lambda: traces.load("fixed", sed=0), "unknown setting sed; did you mean seed?"),  # type: ignore[call-arg]
        (lambda: check_scheduler(5), "factory: 5 is not a text or a function"),  # type: ignore[arg-type]
        (lambda: check_predictor(5), "predictor: 5 is not a text or a Predictor"),  # type: ignore[arg-type]
        (lambda: check_router("random", worlds=3), "unknown setting worlds; did you mean num_worlds?"),  # type: ignore[call-arg]
    ],
)
def test_no_public_call_ends_in_a_traceback(wrong: Callable[[], object], says: str) -> None:
    with pytest.raises(InputError) as refused:
        wrong()
    assert says in str(refused.value) and "\n" not in str(refused.value)
