"""What predictors say is checked, whoever wrote them; upper lengths cover their share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import traces
from sim import simulate
from sim.hardware.profile import Profile
from sim.perception.predictions import Perception, asking_tokens, perceive
from sim.perception.predictors import TUNED, Tuned
from sim.perception.registry import make_predictor
from sim.scenario.inputs import digest_of
from traces.errors import InputError
from traces.trace import Trace

OUTSIDE = """
from dataclasses import dataclass
import numpy as np


@dataclass(frozen=True)
class Always:
    tokens: int = 64
    charge: bool = False

    def __post_init__(self):
        if self.tokens < 1:
            raise ValueError(f"tokens: {self.tokens} must be at least 1")

    def predict(self, trace, rng):
        return np.full(len(trace), self.tokens)


class Bare:
    def predict(self, trace, rng):
        return [3.9] * len(trace)


class Broken:
    def predict(self, trace, rng):
        return trace.no_such_column


class Leaves:
    def predict(self, trace, rng):
        raise SystemExit(0)


class Silent:
    pass
"""


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="module")
def generated() -> Trace:
    return traces.load("alpaca-vicuna", num_prompts=10_000)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of an importable module `my_own`."""
    path = tmp_path / "my_own.py"
    path.write_text(OUTSIDE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    sys.modules.pop("my_own", None)


@dataclass(frozen=True)
class Returns:
    """Predicts whatever it is told to."""

    value: Any
    charge: bool = False

    def predict(self, trace: Trace, rng: np.random.Generator) -> Any:
        return self.value


def predicted(value: Any) -> Perception:
    return perceive(Returns(value), traces.load("fixed", num_prompts=3), rng())


# Predictors from outside


def test_a_predictor_from_outside(mine: Path, profile: Profile) -> None:
    def lengths(predictor: Any) -> list[float]:
        result = simulate("fixed", num_prompts=5, predictor=predictor, profile=profile)
        return list(result.requests.predicted_tokens)

    assert lengths("my_own:Always") == [64] * 5
    assert lengths("my_own:Always:tokens=80") == [80] * 5
    assert lengths("my_own:Bare") == [3] * 5
    assert lengths(Returns([1, 2, 3, 4, 5])) == [1, 2, 3, 4, 5]


def test_a_predictor_from_outside_may_be_charged(mine: Path, profile: Profile) -> None:
    charged = simulate("fixed", num_prompts=5, predictor="my_own:Always:charge=on", profile=profile)
    assert charged.summary["perception_s"] > 0
    assert charged.summary["predictor"] == "my_own:Always:charge=on"


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("my_own:Always:tokens=0", "predictor my_own:Always: tokens: 0 must be at least 1"),
        (
            "my_own:Always:tokens=x",
            "predictor my_own:Always: tokens: 'x' is not a whole number",
        ),
        (
            "my_own:Always:token=3",
            "predictor my_own:Always: unknown option 'token'; it has tokens, charge; did you mean tokens?",
        ),
        (
            "my_own:Silent",
            "predictor 'my_own:Silent': has no method predict(trace, rng)",
        ),
        (
            "my_own:Broken",
            "predictor my_own:Broken: predict raised AttributeError: 'Trace' object has no attribute "
            "'no_such_column' (my_own.py, line 26)",
        ),
        (
            "my_own:Leaves",
            "predictor my_own:Leaves: predict raised SystemExit: 0 (my_own.py, line 31)",
        ),
    ],
)
def test_what_is_wrong_with_one_from_outside_is_one_line(
    spec: str, line: str, mine: Path, profile: Profile
) -> None:
    with pytest.raises(InputError) as caught:
        simulate("fixed", num_prompts=3, predictor=spec, profile=profile)
    assert str(caught.value) == line


def test_what_is_no_predictor_is_refused() -> None:
    with pytest.raises(InputError, match=r"^predictor builtins:int: has no method predict\(trace, rng\)$"):
        make_predictor(3)  # type: ignore[arg-type]


def test_an_error_of_our_own_is_no_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tuned, "predict", lambda self, trace, rng: {}["nothing"])
    with pytest.raises(KeyError):
        perceive(Tuned(), traces.load("fixed", num_prompts=3), rng())


@pytest.mark.parametrize(
    ("value", "ending"),
    [
        ([1, 2], "predict returned shape (2,); one length per request is (3,)"),
        (5, "predict returned shape (); one length per request is (3,)"),
        ([[1], [2], [3]], "predict returned shape (3, 1); one length per request is (3,)"),
        (None, "predict returned NoneType, not an array of numbers"),
        (["a", "b", "c"], "predict returned list, not an array of numbers"),
        ([1, [2], 3], "predict returned list, not an array of numbers"),
        ([True, False, True], "predict returned list, not an array of numbers"),
        ([1, -2, 3], "predict returned -2 for request 1; a length is from 0 to 1000000000 tokens"),
        ([1, 2, np.nan], "predict returned nan for request 2; a length is from 0 to 1000000000 tokens"),
        ([np.inf, 2, 3], "predict returned inf for request 0; a length is from 0 to 1000000000 tokens"),
        ([1, 2, 1e10], "predict returned 10000000000.0 for request 2; a length is from 0 to"),
    ],
)
def test_a_prediction_that_is_no_length_is_refused(value: Any, ending: str) -> None:
    with pytest.raises(InputError) as caught:
        predicted(value)
    assert ending in str(caught.value) and str(caught.value).startswith("predictor ")
    assert "test_predictions:Returns" in str(caught.value).replace(".", ":")


@given(st.lists(st.integers(-3, 10) | st.floats() | st.none() | st.text(max_size=2), max_size=4))
def test_any_prediction_is_three_lengths_or_refused(value: list[Any]) -> None:
    try:
        lengths = predicted(value).predicted
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert lengths.shape == (3,) and lengths.dtype == np.int64 and (lengths >= 0).all()


@pytest.mark.parametrize(
    ("name", "value"), [("question_tokens", -1), ("answer_tokens", "8"), ("slowdown", float("nan"))]
)
def test_what_asking_takes_is_checked(name: str, value: Any) -> None:
    made = Returns([1, 2, 3])
    object.__setattr__(made, name, value)
    with pytest.raises(InputError, match=f"{name} is .*; a number of at least 0 is needed"):
        asking_tokens(made)


def test_a_resumed_run_notices_a_changed_predictor(mine: Path) -> None:
    before = digest_of("predictor", "my_own:Always:tokens=5")
    assert before and digest_of("predictor", "constant:tokens=5") == ""
    mine.write_text(OUTSIDE + "\n", encoding="utf-8")
    assert digest_of("predictor", "my_own:Always:tokens=5") not in ("", before)
    (mine.parent / "pairs.csv").write_text("1", encoding="utf-8")
    with_file = digest_of("predictor", f"my_own:Always:file={mine.parent / 'pairs.csv'}")
    assert len(with_file.split()) == 2


# The upper quantile


@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_the_upper_length_covers_its_share(quantile: float, generated: Trace) -> None:
    said = perceive(Tuned(), generated, rng(), quantile)
    assert said.upper is not None
    below = generated.output_tokens <= said.upper
    assert below.mean() == pytest.approx(quantile, abs=0.02)
    for length in (100, 200, 400):
        alike = said.predicted == length
        assert below[alike].mean() == pytest.approx(quantile, abs=0.06)


def test_the_upper_length_is_calibrated_on_other_draws_of_the_same_predictions(generated: Trace) -> None:
    plain, with_upper = perceive(TUNED, generated, rng()), perceive(TUNED, generated, rng(), 0.9)
    assert plain.upper is None
    assert (plain.predicted == with_upper.predicted).all()


@dataclass(frozen=True)
class Writes:
    def predict(self, trace: Trace, rng: np.random.Generator) -> Any:
        trace.output_tokens[:] = 1
        return trace.output_tokens


def test_a_predictor_cannot_change_the_lengths_that_are_simulated(generated: Trace) -> None:
    before = generated.output_tokens.copy()
    with pytest.raises(InputError, match=r"Writes: predict raised ValueError: .* read-only"):
        perceive(Writes(), generated, rng())  # type: ignore[arg-type]
    assert (generated.output_tokens == before).all() and generated.output_tokens.flags.writeable


class Moody:
    @property
    def charge(self) -> bool:
        raise RuntimeError("not today")

    def predict(self, trace: Trace, rng: np.random.Generator) -> Any:
        return trace.output_tokens


def test_a_predictor_that_cannot_say_what_it_charges_is_named(generated: Trace) -> None:
    with pytest.raises(InputError, match="Moody: charge raised RuntimeError: not today"):
        perceive(Moody(), generated, rng())
