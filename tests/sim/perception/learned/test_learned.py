"""A learned predictor predicts as it was fitted, fast, and its file holds nothing that can be run."""

from __future__ import annotations

import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.perception.accuracy import error_report, rank_report
from sim.perception.learned import LEVELS, LearnedPredictor, LengthPrediction
from sim.perception.learned.features import LEXICAL, lexical, same_prompt, terms
from sim.perception.learned.linear import Linear
from sim.perception.learned.model import HeldOut, hash_of
from sim.perception.predictions import perceive
from sim.perception.registry import make_predictor
from traces.errors import InputError
from traces.trace import Trace

WORDS = {"story": 0, "tell": 1, "tell me": 2}
SEEN = ("tell me a story", "what is 2 + 2?")


def made(num_pairs: int = 200) -> LearnedPredictor:
    """A predictor of made-up weights, to which `SEEN` and other prompts were known."""
    rng = np.random.default_rng(0)
    actual = np.maximum(1, np.rint(np.exp(5 + rng.normal(size=num_pairs)))).astype(np.int64)
    middle = actual * np.exp(0.5 * rng.normal(size=num_pairs))
    spread = np.exp(np.linspace(-1, 1, len(LEVELS)))
    hashes = [hash_of(text) for text in SEEN] + list(range(num_pairs - len(SEEN)))
    coefficients = np.column_stack([np.linspace(4, 6, len(LEVELS)), *np.full((4, len(LEVELS)), 0.3)])
    return LearnedPredictor(
        Linear(
            WORDS,
            (1.0, 2.0, 1.5),
            (0.5, -0.2, 1.0),
            np.zeros(len(LEXICAL)),
            np.ones(len(LEXICAL)),
            np.linspace(-0.1, 0.1, len(LEXICAL)),
            0.1,
        ),
        (0.0, 1.0),
        (2.0, 1.0),
        np.array([-0.5, 0.5]),
        coefficients,
        2000,
        HeldOut(
            np.array(hashes, dtype=np.uint64),
            middle[:, None] * spread,
            actual,
            np.zeros(num_pairs, dtype=np.bool_),
        ),
        {"log": "made up", "report": {}},
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("learned") / "p"
    made().save(path)
    return path


def trace_of(actual: np.ndarray, prompts: list[str] | None = None) -> Trace:
    n = len(actual)
    prompt = None if prompts is None else np.array(prompts, dtype=object)
    return Trace("made up", np.arange(n), np.full(n, 10), actual, prompt=prompt)


@given(st.text(max_size=300))
def test_quantiles_rise_and_are_lengths(text: str) -> None:
    predicted = made().predict_text(text)
    assert list(predicted.quantiles) == sorted(predicted.quantiles)
    assert predicted.quantiles[0] >= 1 and predicted.quantiles[-1] <= 2000.001
    levels = [0.0, 0.07, 0.5, 0.93, 1.0]
    between = [predicted.quantile(level) for level in levels]
    assert between == sorted(between) and round(between[2]) == predicted.tokens


def test_a_score_by_hand() -> None:
    linear = made().linear
    counts = lexical("tell me a story, story")
    found = {"tell": 2.0, "tell me": 1.5, "story": 1.0 + np.log(2)}
    norm = np.sqrt(sum(value**2 for value in found.values()))
    weights = {"story": 0.5, "tell": -0.2, "tell me": 1.0}
    expected = sum(weights[term] * value for term, value in found.items()) / norm + 0.1
    expected += float(np.clip(counts, -5, 5) @ linear.dense)
    assert linear.of("tell me a story, story", counts) == pytest.approx(expected)


def test_a_prediction_takes_well_under_a_millisecond(path: Path) -> None:
    predictor = LearnedPredictor.load(path)
    for text in ("tell me a story about a dragon " * 6, "word, and 12 others? " * 5000):
        times = []
        for _ in range(50):
            start = time.perf_counter()
            predictor.predict_text(text)
            times.append(time.perf_counter() - start)
        assert min(times) < 1e-3


def test_a_file_is_read_as_it_was_written(path: Path, tmp_path: Path) -> None:
    one, other = made(), LearnedPredictor.load(path)
    for text in ("", "tell me a story", "Write 200 words: 你好"):
        assert one.predict_text(text) == other.predict_text(text)
    other.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert all(name.endswith(".npy") for name in archive.namelist())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(at=st.integers(0, 10**9), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_file_is_one_line(path: Path, tmp_path: Path, at: int, byte: int, cut: bool) -> None:
    data = bytearray(path.read_bytes())
    at %= len(data)
    data[at] = byte
    (tmp_path / "p").write_bytes(bytes(data[:at] if cut else data))
    try:
        predictor = LearnedPredictor.load(tmp_path / "p")
    except InputError as error:
        assert str(tmp_path / "p") in str(error) and "\n" not in str(error)
        return
    assert predictor.predict_text("tell me a story") == made().predict_text("tell me a story")


def rewritten(path: Path, target: Path, **arrays: np.ndarray) -> Path:
    with np.load(path) as old:
        content = {name: old[name] for name in old.files} | arrays
    with target.open("wb") as stream:
        np.savez(stream, **content)  # type: ignore[arg-type]
    return target


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"weights": np.array([1.0, np.nan, 1.0])}, "weights is not finite everywhere"),
        ({"weights": np.array([1.0])}, "weights has shape (1,), not (3,)"),
        ({"actual": np.array(["a"] * 200)}, "actual holds <U1"),
        ({"actual": np.zeros(200, dtype=np.int64)}, "a length is below 1"),
        ({"actual": np.full(200, 10**12)}, "a length is above 10000000"),
        ({"scale": np.zeros(len(LEXICAL))}, "a spread is not above 0"),
        ({"idf": np.array([object()] * 3, dtype=object)}, "damaged"),
        (
            {"about": np.frombuffer(b'{"format": "other"}', dtype=np.uint8)},
            "is no predictor that seqsched wrote",
        ),
        (
            {
                "about": np.frombuffer(
                    b'{"format": "seqsched-length-predictor", "version": 2}', dtype=np.uint8
                )
            },
            "is of version 2, 1 is read; train it again",
        ),
    ],
)
def test_what_is_not_sound_is_refused(
    path: Path, tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(InputError) as error:
        LearnedPredictor.load(rewritten(path, tmp_path / "p", **arrays))
    assert message in str(error.value)


def test_other_files_are_no_predictors(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for name, message in (("text", "is no predictor"), ("none", "cannot be read"), (".", "is a directory")):
        with pytest.raises(InputError, match=message):
            LearnedPredictor.load(tmp_path / name)


def test_a_trace_with_texts_is_predicted_by_them(path: Path) -> None:
    predictor = make_predictor(f"learned:file={path}")
    model = made()
    trace = trace_of(np.array([5, 9, 7]), [SEEN[0], "tell me more", SEEN[1]])
    predicted = predictor.predict(trace, np.random.default_rng(0)).tolist()
    held_out = model.held_out.predicted
    assert predicted == [held_out[0], model.predict_text("tell me more").tokens, held_out[1]]
    assert model.num_seen([*SEEN, "TELL  me a story!"]) == 3


def test_a_trace_without_texts_gets_the_errors_of_the_training(path: Path) -> None:
    held_out = made().held_out
    trace = trace_of(held_out.actual)
    perception = perceive(make_predictor(f"learned:file={path}"), trace, np.random.default_rng(0))
    assert not perception.charged
    then, now = (error_report(p, held_out.actual) for p in (held_out.predicted, perception.predicted))
    assert now.error == pytest.approx(then.error, rel=0.15)
    ranks = [rank_report(p, held_out.actual).kendall_tau for p in (held_out.predicted, perception.predicted)]
    assert ranks[0] == pytest.approx(ranks[1], rel=0.1)


def test_quantiles_for_schedulers(path: Path) -> None:
    predictor = make_predictor(f"learned:file={path}")
    levels = np.array([0.05, 0.5, 0.9])
    for prompts in (["tell me more", "a story"], None):
        trace = trace_of(np.array([50, 90]), prompts)
        predicted = predictor.predict(trace, np.random.default_rng(0))
        quantiles = predictor.quantiles(trace, predicted, levels)  # type: ignore[attr-defined]
        assert quantiles.shape == (2, 3) and (np.diff(quantiles, axis=1) >= 0).all()
    assert abs(quantiles[:, 1] - predicted).max() <= 0.1 * predicted.max() + 1


def test_an_unsound_option_is_one_line(path: Path) -> None:
    with pytest.raises(InputError, match="neighbours: 0 must be at least 1"):
        make_predictor(f"learned:file={path},neighbours=0")


@given(st.text(max_size=80))
def test_terms_and_counts_of_any_text(text: str) -> None:
    assert len(lexical(text)) == len(LEXICAL) and np.isfinite(lexical(text)).all()
    words = [term for term in terms(text) if " " not in term]
    assert len(terms(text)) == max(0, 2 * len(words) - 1)
    assert same_prompt(text.upper()) == same_prompt(same_prompt(text.upper()))


def test_a_prediction_between_levels() -> None:
    predicted = LengthPrediction(tuple(float(2**k) for k in range(len(LEVELS))))
    assert predicted.quantile(0.45) == pytest.approx(2**4.5) and predicted.quantile(0.99) == 2.0**10


def test_embeddings_are_looked_at_where_there_are_any() -> None:
    plain = made()
    dense = len(LEXICAL) + 2
    linear = replace(
        plain.linear,
        centre=np.zeros(dense),
        scale=np.ones(dense),
        dense=np.append(plain.linear.dense, [1.0, -2.0]),
        embed=lambda texts: np.array([[len(text), 1.0] for text in texts]),
    )
    text = "abc"
    difference = linear.of(text, lexical(text)) - plain.linear.of(text, lexical(text))
    assert difference == pytest.approx(3 * 1.0 - 2.0 * 1.0)
