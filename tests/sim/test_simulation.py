"""simulate and compare: what they take, what they refuse, and what they hold fixed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import traces
from sim import Comparison, compare, simulate
from sim.hardware.profile import Profile
from sim.scenario.policies import make_scheduler
from sim.scenario.scenario import scenario
from sim.schedulers import MicrobatchScheduler
from sim.work import Limits
from traces.errors import InputError
from traces.trace import Trace

OUTSIDE = """
from dataclasses import dataclass
from sim.schedulers import MicrobatchScheduler


class Plain(MicrobatchScheduler):
    def __init__(self, limits, **options):
        super().__init__(limits, batch_size=int(options.get("rows", 2)))
        self.Options = None


Plain.Options = None


@dataclass(frozen=True)
class Settings:
    rows: int = 3

    def __post_init__(self):
        if self.rows < 1:
            raise ValueError(f"rows: {self.rows} must be at least 1")


class Checked(MicrobatchScheduler):
    Options = Settings

    def __init__(self, limits, **options):
        super().__init__(limits, batch_size=Settings(**options).rows)


not_a_class = 3
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package with a module `policies` that lies outside the project."""
    package = tmp_path / "a_house_elsewhere"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "policies.py").write_text(OUTSIDE)
    (package / "broken.py").write_text("def f(:\n")
    (tmp_path / "policies_in_one_file.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield package.name
    for name in list(sys.modules):
        if name.startswith((package.name, "policies_in_one_file")):
            del sys.modules[name]


def trace_of(output: list[int], **columns: Any) -> Trace:
    n = len(output)
    return Trace("made up", np.arange(n), np.full(n, 10), np.array(output), **columns)


def sizes(result: Any) -> list[int]:
    return [len(d["requests"]) for d in result.decisions]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_prompts": 0}, "num_prompts: 0 is not between 1 and 5"),
        ({"num_prompts": 6}, "num_prompts: 6 is not between 1 and 5"),
        ({"sample_seed": -1}, "sample_seed: -1 is not between 0"),
        ({"seed": -1}, "seed: -1 must be at least 0"),
        ({"request_rate": 0}, "request_rate: 0 is not above 0"),
        ({"request_rate": float("nan")}, "request_rate: nan is not above 0"),
        ({"burstiness": 0}, "burstiness: 0 is not above 0"),
        ({"time_scale": float("inf")}, "time_scale: inf is not above 0"),
        ({"max_concurrency": 0}, "max_concurrency: 0 must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0 must be between 1"),
        ({"max_new_tokens": 10**8}, "max_new_tokens: 100000000 must be between 1"),
        ({"kv_blocks": 0}, "kv_blocks: 0 is below 1"),
        ({"goodput": {"itl": 5}}, "goodput: 'itl' is not one of ttft, tpot, e2el, wait"),
        ({"goodput": {"ttft": 0}}, "goodput: ttft:0 must be above 0 ms"),
        ({"goodput": {"ttft": None}}, "goodput: ttft:None is not a number"),
        ({"goodput": ["ttft"]}, "goodput: ttft: is not a number"),
        ({"goodput": ["ttft:x"]}, "goodput: ttft:x is not a number"),
        ({"goodput": ["ttft:nan"]}, "goodput: ttft:nan must be above 0 ms"),
        ({"predictor": "none"}, "predictor 'none' is not one of"),
        ({"profile": "tpu"}, "profile: 'tpu' is neither a file nor a shipped profile"),
        ({"policy": "fifo"}, "policy 'fifo' is not one of vanilla, sequence"),
        ({"policy": ""}, "the name is empty"),
        ({"policy": "vanilla:batch_size=0"}, "policy vanilla: batch_size: 0 must be at least 1"),
        ({"policy": "vanilla:batch_size=2.5"}, "policy vanilla: batch_size: '2.5' is not a whole number"),
        ({"policy": "sequence:vbs=maybe"}, "policy sequence: vbs: 'maybe' must be one of table, memory, off"),
        ({"policy": "sequence:fcr=maybe"}, "policy sequence: fcr: 'maybe' must be on or off"),
        ({"policy": "sequence:speed=9"}, "policy sequence: unknown option 'speed'"),
        ({"policy": "sequence:vbs"}, "'vbs' is not key=value"),
        ({"policy": "sequence:vbs=off,vbs=off"}, "vbs is given twice"),
        ({"policy": "no.such.module:Class"}, "No module named"),
        ({"policy": "sim.schedulers:Nothing"}, "has no attribute 'Nothing'"),
        ({"policy": ".relative:Class"}, "policy '.relative:Class'"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str, profile: Profile) -> None:
    with pytest.raises(InputError) as caught:
        simulate(trace_of([3] * 5), **{"profile": profile, **settings})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_policy_from_outside(outside: str, profile: Profile) -> None:
    def run(policy: str) -> list[int]:
        return sizes(simulate(trace_of([3] * 6), policy=policy, profile=profile))

    assert run(f"{outside}.policies:Plain") == [2, 2, 2]
    assert run(f"{outside}.policies:Plain:rows=4") == [4, 2]
    assert run(f"{outside}.policies:Checked") == [3, 3]
    assert run(f"{outside}.policies:Checked:rows=5") == [5, 1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("policies:Checked:rows=0", "rows: 0 must be at least 1"),
        ("policies:Checked:rows=x", "rows: 'x' is not a whole number"),
        ("policies:Checked:cols=1", "unknown option 'cols'"),
        ("policies:Plain:rows=x", "invalid literal"),
        ("policies:not_a_class", "not_a_class is not a class"),
        ("policies:Missing", "has no attribute 'Missing'"),
        ("policies:", "is not one of vanilla"),
        ("broken:Class", "broken"),
    ],
)
def test_bad_policies_from_outside(name: str, message: str, outside: str, profile: Profile) -> None:
    with pytest.raises(InputError) as caught:
        simulate(trace_of([3]), policy=f"{outside}.{name}", profile=profile)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_policy_in_one_file(outside: str, profile: Profile) -> None:
    assert sizes(simulate(trace_of([3] * 4), policy="policies_in_one_file:Plain", profile=profile)) == [2, 2]


def test_a_policy_as_a_callable(profile: Profile) -> None:
    def threes(limits: Limits) -> MicrobatchScheduler:
        return MicrobatchScheduler(limits, batch_size=3)

    result = simulate(trace_of([3] * 4), policy=threes, profile=profile)
    assert sizes(result) == [3, 1]
    assert result.summary["policy"] == "threes"
    assert isinstance(make_scheduler(MicrobatchScheduler, Limits(100)), MicrobatchScheduler)


def test_compare_shares_everything_random(profile: Profile) -> None:
    settings = {"num_prompts": 80, "request_rate": 3.0, "predictor": "tuned", "profile": profile}
    both = compare("alpaca-vicuna", policies="vanilla; sequence:vbs=off", **settings)
    first, second = both.results.values()
    assert list(both.results) == ["vanilla", "sequence:vbs=off"]
    for column in ("arrival_s", "prompt_tokens", "output_tokens"):
        assert (first.columns[column] == second.columns[column]).all()
    alone = simulate("alpaca-vicuna", policy="sequence:vbs=off", **settings)
    assert alone.summary == second.summary
    assert alone.requests.to_csv() == second.requests.to_csv()


def test_ratios_and_frame(profile: Profile) -> None:
    both = compare(trace_of([3, 400] * 30), policies=["vanilla", "sequence"], profile=profile)
    rate = {name: s["request_throughput"] for name, s in both.summaries.items()}
    assert both.ratios() == {"vanilla": 1.0, "sequence": rate["sequence"] / rate["vanilla"]}
    assert both.ratios("request_goodput") == {"vanilla": None, "sequence": None}
    frame = both.to_frame()
    assert list(frame.index) == ["vanilla", "sequence"]
    assert list(frame.columns) == list(both.summaries["vanilla"])
    assert frame.average_length["sequence"] < frame.average_length["vanilla"]


@pytest.mark.parametrize("policies", ["", ";", [], "vanilla;vanilla", "vanilla;fifo"])
def test_bad_comparisons(policies: Any, profile: Profile) -> None:
    with pytest.raises(InputError):
        compare(trace_of([3]), policies=policies, profile=profile)


def test_progress_is_told_of_every_run_to_its_end(profile: Profile) -> None:
    seen: list[tuple[int, int]] = []
    made: Comparison = compare(
        trace_of([3, 5]),
        policies="vanilla:batch_size=1;continuous",
        profile=profile,
        on_progress=lambda ended, requests: seen.append((ended, requests)),
    )
    assert seen == [(1, 2), (2, 2), (1, 2), (2, 2)]
    assert list(made.results) == ["vanilla:batch_size=1", "continuous"]


def test_a_result_cannot_be_changed(profile: Profile) -> None:
    result = simulate(trace_of([3, 5]), profile=profile)
    with pytest.raises(ValueError, match="read-only"):
        result.columns["finish_s"][0] = 0.0
    with pytest.raises(TypeError):
        result.columns["finish_s"] = np.zeros(2)  # type: ignore[index]


def test_sampling_is_the_papers_and_sets_the_order_of_arrival(profile: Profile) -> None:
    trace = trace_of(list(range(1, 101)), arrival_s=np.linspace(0, 50, 100))
    order = np.random.RandomState(42).permutation(100)[:30]
    result = simulate(trace, num_prompts=30, sample_seed=42, policy="vanilla:batch_size=1", profile=profile)
    assert result.columns["request_id"].tolist() == order.tolist()
    assert result.columns["output_tokens"].tolist() == (order + 1).tolist()
    assert (np.diff(result.columns["arrival_s"]) >= 0).all()
    assert [d["requests"] for d in result.decisions] == [[i] for i in range(30)]
    first = simulate(trace, num_prompts=30, profile=profile)
    assert first.columns["request_id"].tolist() == list(range(30))


def test_seeds(profile: Profile) -> None:
    def run(seed: int) -> str:
        return simulate(
            "alpaca-vicuna", num_prompts=30, request_rate=1.0, seed=seed, profile=profile
        ).to_json()

    assert run(0) == run(0)
    assert run(0) != run(1)


def test_outputs_are_capped(profile: Profile) -> None:
    result = simulate(trace_of([5, 50, 500]), max_new_tokens=20, policy="vanilla", profile=profile)
    assert result.columns["output_tokens"].tolist() == [5, 20, 20]
    assert result.summary["total_output_tokens"] == 45
    assert {d["limit"] for d in result.decisions} == {20}


@pytest.mark.parametrize(
    ("own", "longest", "cap"), [(None, 5, 512), (None, 900, 900), (64, 5, 64), (64, 60, 64)]
)
def test_the_cap_is_that_of_the_source(own: int | None, longest: int, cap: int, profile: Profile) -> None:
    assert scenario(trace_of([longest], max_new_tokens=own), profile=profile).max_new_tokens == cap


def test_kv_blocks_bound_the_memory(profile: Profile) -> None:
    # 25 blocks of 16 hold six rows of 10 + 50 tokens.
    result = simulate(trace_of([50] * 20, max_new_tokens=50), policy="vanilla", kv_blocks=25, profile=profile)
    assert sizes(result) == [6, 6, 6, 2]
    assert result.summary["kv_peak_fraction"] == 360 / 400
    assert scenario(trace_of([1]), profile=profile).limits.kv_tokens == 200_000


def test_goodput_specs(profile: Profile) -> None:
    def bounds(goodput: Any) -> Any:
        return scenario(trace_of([1]), goodput=goodput, profile=profile).goodput_ms

    assert bounds(None) == {}
    assert bounds(["ttft:2000", "tpot:100.5"]) == {"ttft": 2000, "tpot": 100.5}
    assert bounds("ttft:2000 tpot:100.5") == {"ttft": 2000, "tpot": 100.5}
    assert bounds({"e2el": 3}) == {"e2el": 3}


def test_labels(profile: Profile) -> None:
    s = simulate(trace_of([1]), policy="vanilla", predictor="exact", seed=4, profile=profile).summary
    assert [s[k] for k in ("policy", "predictor", "profile", "trace")] == [
        "vanilla",
        "exact",
        "tiny",
        "made up",
    ]
    assert (s["seed"], s["replicas"]) == (4, 1)


def test_arrivals(profile: Profile) -> None:
    own = trace_of([1] * 3, arrival_s=np.array([0.0, 2.0, 5.0]))

    def arrival(trace: Trace, **settings: Any) -> list[float]:
        times: list[float] = simulate(trace, profile=profile, **settings).columns["arrival_s"].tolist()
        return times

    assert arrival(own) == [0, 2, 5]
    assert arrival(own, time_scale=0.5) == [0, 1, 2.5]
    assert arrival(own, request_rate=float("inf")) == [0, 0, 0]
    assert arrival(trace_of([1] * 3)) == [0, 0, 0]
    slow, fast = (np.array(arrival(own, request_rate=rate)) for rate in (1.0, 2.0))
    assert np.allclose(slow, 2 * fast)


def test_a_trace_by_name_or_by_hand(profile: Profile) -> None:
    by_name = simulate("fixed:output_tokens=7", num_prompts=5, profile=profile)
    by_hand = simulate(traces.load("fixed:output_tokens=7", num_prompts=5), profile=profile)
    assert by_name.summary == by_hand.summary
