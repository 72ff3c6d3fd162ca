"""The Trace table."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from traces import InputError, Trace


def test_columns_lists_only_what_exists(small: Trace) -> None:
    bare = Trace("bare", small.request_id, small.prompt_tokens, small.output_tokens)
    assert bare.columns() == ("request_id", "prompt_tokens", "output_tokens")
    assert len(bare) == 4
    assert set(small.columns()) - set(bare.columns()) == {
        "arrival_s",
        "predicted_tokens",
        "priority",
        "prompt",
        "user",
        "deadline_s",
    }


def test_columns_of_different_lengths_are_refused(small: Trace) -> None:
    with pytest.raises(InputError, match="small: priority has 3 rows, request_id has 4"):
        replace(small, priority=np.zeros(3, dtype=np.int64))
    with pytest.raises(InputError, match=r"samples has shape \(4, 2\), not \(4, 1\)"):
        replace(small, sample_names=("one",))


def test_perceived_truth_is_the_largest_sample_else_the_output(small: Trace) -> None:
    assert small.perceived_truth.tolist() == [6, 512, 9, 100]
    assert replace(small, samples=None, sample_names=()).perceived_truth.tolist() == [5, 512, 7, 100]


def test_select_takes_every_column_along(small: Trace) -> None:
    chosen = small.select([0, 2])
    assert chosen.request_id.tolist() == [7, 5]
    assert chosen.prompt is not None and chosen.prompt.tolist() == ["a", "two\nlines"]
    assert chosen.samples is not None and chosen.samples.tolist() == [[5, 6], [7, 9]]
    assert replace(small, arrival_s=None).select([2, 0, 2]).request_id.tolist() == [5, 7, 5]
    with pytest.raises(InputError, match=r"small, row 2, arrival_s: 0\.0 is below 0\.3"):
        small.select([2, 0])


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("output_tokens", [5, 512, 0, -1], "row 3, output_tokens: 0 is below 1"),
        ("prompt_tokens", [-3, 20, 30, 40], "row 1, prompt_tokens: -3 is below 1"),
        ("arrival_s", [0.0, 2.0, 2.0, 1.5], "row 4, arrival_s: 1.5 is below 2.0, the row before; rows are"),
        ("arrival_s", [0.0, np.nan, 2.0, 3.0], "row 2, arrival_s: nan is not finite"),
        ("arrival_s", [0.0, 1.0, 2.0, np.inf], "row 4, arrival_s: inf is not finite"),
    ],
)
def test_what_a_simulation_relies_on_is_checked(
    small: Trace, column: str, values: list[float], said: str
) -> None:
    with pytest.raises(InputError, match=f"^small, {said}"):
        replace(small, **{column: np.array(values)})


def test_mean_rate_is_gaps_over_the_span(small: Trace) -> None:
    assert small.mean_rate == 3 / 4
    assert replace(small, arrival_s=small.arrival_s + 5).mean_rate == 3 / 4, "whatever the first arrival is"
    assert small.select([0]).mean_rate is None
    assert replace(small, arrival_s=np.zeros(4)).mean_rate is None
    assert replace(small, arrival_s=None).mean_rate is None


def test_sample_is_the_head_of_the_papers_permutation_in_order_of_arrival(small: Trace) -> None:
    order = np.random.RandomState(42).permutation(4)[:3]
    chosen = small.sample(3, sample_seed=42)
    assert chosen.request_id.tolist() == small.request_id[order].tolist()
    assert chosen.arrival_s is not None and (np.diff(chosen.arrival_s) >= 0).all()
    assert small.sample(2).request_id.tolist() == [7, 3]
    assert small.sample() is small


@pytest.mark.parametrize("count", [0, -1, 5])
def test_sample_refuses_a_count_outside_the_trace(small: Trace, count: int) -> None:
    with pytest.raises(InputError, match=rf"num_prompts: {count} is not between 1 and 4"):
        small.sample(count)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_sample_refuses_a_seed_that_numpy_does_not_take(small: Trace, seed: int) -> None:
    with pytest.raises(InputError, match=f"sample_seed: {seed} is not between"):
        small.sample(2, sample_seed=seed)


def test_output_cap_clips_outputs_and_leaves_samples(small: Trace) -> None:
    capped = small.with_output_cap(6)
    assert capped.output_tokens.tolist() == [5, 6, 6, 6]
    assert capped.max_new_tokens == 6
    assert capped.samples is small.samples


def test_to_frame_names_samples(small: Trace) -> None:
    frame = small.to_frame()
    assert list(frame.columns) == [*small.columns(), "L_t0.0", "L_t0.7"]
    assert frame["L_t0.7"].tolist() == [6, 100, 9, 90]


def test_importing_traces_loads_nothing_heavy() -> None:
    code = (
        "import sys, traces; heavy = {'pandas', 'scipy', 'matplotlib', 'pooch', 'pyarrow'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "from traces import InputError, Trace, load, write\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert {'load', 'Trace'} <= set(dir(traces))\n"
        "try: traces.nothing\n"
        "except AttributeError: pass\n"
        "else: raise AssertionError"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
