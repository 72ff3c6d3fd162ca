"""Synthetic traces: what each generator draws, its bounds, and that equal seeds give equal traces."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces import synthetic
from traces.errors import InputError
from traces.synthetic import alpaca_prompt_tokens, alpaca_vicuna_model, generate
from traces.trace import Trace

seeds = st.integers(0, 2**32 - 1)
tokens = st.integers(1, 10_000)


def equal(a: Trace, b: Trace) -> bool:
    arrays = ("request_id", "prompt_tokens", "output_tokens")
    same = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)
    return same and (a.samples is None or np.array_equal(a.samples, b.samples))


def test_names_are_sorted_and_each_generates_its_default() -> None:
    assert synthetic.GENERATORS.names == ("alpaca-vicuna", "fixed", "lognormal", "sessions")
    for name in synthetic.GENERATORS.names:
        trace = generate(name)
        assert (len(trace), trace.name) == (1000, name)
        assert (trace.arrival_s is None) == (name != "sessions")
        assert trace.notes and trace.max_new_tokens is not None
        assert trace.prompt_tokens.dtype == trace.output_tokens.dtype == np.int64


@pytest.mark.parametrize("name", synthetic.GENERATORS.names)
@given(seed=seeds, n=st.integers(1, 60))
def test_equal_seeds_give_equal_traces_and_short_ones_begin_long_ones(name: str, seed: int, n: int) -> None:
    whole = generate(name, 60, seed)
    assert equal(whole, generate(name, 60, seed))
    assert equal(generate(name, n, seed), whole.select(range(n)))


@pytest.mark.parametrize("name", ["alpaca-vicuna", "lognormal"])
def test_another_seed_gives_another_trace_and_columns_use_their_own_streams(name: str) -> None:
    one, two = generate(name, 5000, 1), generate(name, 5000, 2)
    assert not np.array_equal(one.output_tokens, two.output_tokens)
    assert not np.array_equal(one.prompt_tokens, two.prompt_tokens)
    ranks = [np.argsort(np.argsort(x)) for x in (one.prompt_tokens, one.output_tokens)]
    assert abs(np.corrcoef(ranks)[0, 1]) < 0.06


@given(prompt=tokens, output=tokens)
def test_fixed_is_the_same_request_again_and_again(prompt: int, output: int) -> None:
    trace = generate(f"fixed:prompt_tokens={prompt},output_tokens={output}", 3)
    assert trace.prompt_tokens.tolist() == [prompt] * 3
    assert trace.output_tokens.tolist() == [output] * 3
    assert trace.max_new_tokens == output


@given(median=st.floats(1, 1e6), sigma=st.floats(0, 5), most=tokens, seed=seeds)
def test_lognormal_stays_within_its_bounds(median: float, sigma: float, most: int, seed: int) -> None:
    spec = f"lognormal:prompt_median={median!r},prompt_sigma={sigma!r},max_prompt_tokens={most}"
    prompts = generate(spec, 50, seed).prompt_tokens
    assert prompts.min() >= 1 and prompts.max() <= most


def test_lognormal_has_the_median_and_sigma_asked_for() -> None:
    trace = generate("lognormal:output_median=500,output_sigma=0.5,max_output_tokens=100000", 50_000)
    assert np.median(trace.output_tokens) == pytest.approx(500, rel=0.02)
    assert np.log(trace.output_tokens).std() == pytest.approx(0.5, rel=0.02)
    assert generate("lognormal:output_sigma=0", 5).output_tokens.tolist() == [128] * 5


def test_alpaca_prompts_have_the_stated_distribution() -> None:
    prompts = alpaca_prompt_tokens(100_000, np.random.default_rng(0))
    assert np.median(prompts) == 50
    assert prompts.min() > synthetic.TEMPLATE_TOKENS and prompts.max() == 256
    assert "drawn, not measured" in " ".join(generate("alpaca-vicuna", 1).notes)


@given(seed=seeds, cap=st.integers(1, 512))
def test_alpaca_vicuna_output_is_the_clipped_greedy_sample(seed: int, cap: int) -> None:
    trace = generate(f"alpaca-vicuna:max_new_tokens={cap}", 50, seed)
    assert trace.samples is not None and trace.samples.shape == (50, 4)
    assert trace.sample_names == ("t0.0", "t0.3", "t0.5", "t0.7")
    assert np.array_equal(trace.output_tokens, np.minimum(trace.samples[:, 0], cap))
    assert trace.samples.min() >= 3 and trace.samples.max() <= 514


def test_alpaca_vicuna_meets_its_stated_statistics() -> None:
    stated = alpaca_vicuna_model()["goodness_of_fit"]["data"]
    samples = generate("alpaca-vicuna", 50_000, seed=3).samples
    assert samples is not None
    # Sampling errors of 50,000 rows come on top of the stated deviations.
    np.testing.assert_allclose(samples.mean(axis=0), stated["mean_tokens"], rtol=0.02)
    np.testing.assert_allclose(samples.max(axis=1).mean(), stated["max_mean_tokens"], rtol=0.02)
    np.testing.assert_allclose((samples >= 512).mean(axis=0), stated["share_at_512"], atol=0.002)
    pairs = np.triu_indices(4, 1)
    np.testing.assert_allclose(np.corrcoef(samples.T)[pairs], stated["pearson"], atol=0.02)
    np.testing.assert_allclose(np.corrcoef(np.log(samples).T)[pairs], stated["log_pearson"], atol=0.02)


def test_the_committed_model_is_small_and_says_where_it_comes_from() -> None:
    model = alpaca_vicuna_model()
    parameters = json.loads(json.dumps([model["dependence"], model["lengths"]]), parse_int=float)

    def count(node: object) -> int:
        if isinstance(node, dict):
            return sum(count(value) for value in node.values())
        return sum(count(value) for value in node) if isinstance(node, list) else 1

    assert count(parameters) < 200
    assert model["provenance"]["rows"] == 10_000
    assert model["provenance"]["sha256"].startswith("3db0410a0b9cfaf9")
    thresholds = np.array(model["lengths"]["score_thresholds"])
    assert (np.diff(thresholds, axis=1) >= 0).all()


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (
            "alpaca",
            "trace 'alpaca' is not one of alpaca-vicuna, fixed, lognormal, sessions, nor .*alpaca-vicuna?",
        ),
        ("", "the name is empty"),
        ("fixed:length=3", "unknown option 'length'.*prompt_tokens, output_tokens"),
        ("fixed:prompt_tokens", "'prompt_tokens' is not key=value"),
        ("fixed:prompt_tokens=1,prompt_tokens=2", "prompt_tokens is given twice"),
        ("fixed:prompt_tokens=3.5", "prompt_tokens: '3.5' is not a whole number"),
        ("fixed:prompt_tokens=0", "fixed: prompt_tokens 0 is not between 1 and 1e\\+06"),
        ("lognormal:output_sigma=wide", "output_sigma: 'wide' is not a number"),
        ("lognormal:output_sigma=-1", "lognormal: output_sigma -1 is not between 0 and 5"),
        ("lognormal:output_median=inf", "output_median inf is not between 1 and 1e\\+06"),
        ("alpaca-vicuna:max_new_tokens=513", "max_new_tokens 513 is not between 1 and 512"),
    ],
)
def test_a_bad_spec_is_one_line_that_names_value_and_bound(spec: str, named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        generate(spec)
    assert "\n" not in str(caught.value)


def test_nan_is_refused() -> None:
    with pytest.raises(InputError, match="nan"):
        generate("lognormal:output_sigma=nan")
    with pytest.raises(InputError, match="output_sigma nan is not between"):
        synthetic.Lognormal(output_sigma=float("nan"))


@pytest.mark.parametrize(
    ("n", "seed", "named"), [(0, 0, "num_prompts: 0"), (10**8, 0, "num_prompts: 100000000")]
)
def test_a_bad_size_is_named(n: int, seed: int, named: str) -> None:
    with pytest.raises(InputError, match=named):
        generate("fixed", n, seed)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_bad_seed_is_named(seed: int) -> None:
    with pytest.raises(InputError, match=f"seed: {seed} is not between 0 and 4294967295"):
        generate("fixed", 1, seed)


def test_ten_thousand_rows_take_less_than_a_tenth_of_a_second() -> None:
    generate("alpaca-vicuna", 10)

    def seconds() -> float:
        start = time.perf_counter()
        generate("alpaca-vicuna", 10_000)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.1


def test_importing_the_module_leaves_pandas_and_scipy_alone() -> None:
    code = "import sys, traces.synthetic, traces.arrivals; print({'pandas', 'scipy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
