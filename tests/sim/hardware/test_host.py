"""Terms of the host: what they do to iterations, that the roofline stops them, and how they are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.hardware import describe, load
from sim.hardware import host as hosts
from sim.hardware.ceilings import Ceilings
from sim.hardware.host import LEAST_SHARE, NO_HOST, TERMS, Host, named
from sim.hardware.overrides import apply, field_names
from sim.hardware.profile import Profile
from sim.scenario.policies import limits_of
from traces.errors import InputError

SHIPPED = "h200-llama-3.1-8b-fp8-vllm"


@pytest.fixture(scope="module")
def kernels() -> Profile:
    return replace(load(SHIPPED), host=NO_HOST)


def with_host(profile: Profile, **terms: float) -> Profile:
    return replace(profile, host=Host(**terms))


def test_without_terms_the_cost_is_the_kernels_own(kernels: Profile) -> None:
    assert kernels.iteration_cost is kernels.step_cost
    delayed = with_host(kernels, before_ms=5.0)
    assert delayed.iteration_cost is kernels.step_cost and delayed.host.delays_requests
    assert not with_host(kernels, iteration_ms=1.0).host.delays_requests


@given(
    n=st.integers(1, 600),
    context=st.integers(0, 4000),
    tokens=st.integers(1, 9000),
    a=st.floats(0, 5),
    b=st.floats(0, 0.1),
    factor=st.floats(0.9, 1.5),
    prefill=st.floats(0.9, 1.5),
)
def test_an_iteration_costs_its_kernels_and_the_terms(
    n: int, context: int, tokens: int, a: float, b: float, factor: float, prefill: float, kernels: Profile
) -> None:
    terms = Host(iteration_ms=a, per_seq_ms=b, kernel_factor=factor, prefill_factor=prefill)
    cost, plain = replace(kernels, host=terms).iteration_cost, kernels.step_cost
    more_s = (a + b * n) / 1e3
    assert cost.decode_s(n, n * context) == pytest.approx(
        factor * plain.decode_s(n, n * context) + more_s, rel=1e-9
    )
    mixed_s = prefill * factor * plain.mixed_s(n, 0, 1, tokens, tokens**2 / 2)
    context_s = factor * plain.decode_context_s(n) * n * context
    chunk = (n, n * context, 1, tokens, tokens**2 / 2)
    assert cost.mixed_s(*chunk) == pytest.approx(mixed_s + context_s + more_s, rel=1e-9)
    alone = (0, 0, 1, tokens, tokens**2 / 2)
    assert cost.mixed_s(*alone) == pytest.approx(prefill * factor * plain.mixed_s(*alone) + a / 1e3, rel=1e-9)


@given(place=st.integers(0, 40), a=st.floats(-50, 0), factor=st.floats(0.3, 1))
def test_no_iteration_falls_below_the_roofline(place: int, a: float, factor: float, kernels: Profile) -> None:
    assert kernels.model is not None and kernels.gpu is not None
    floor = Ceilings.of(kernels.model, kernels.gpu, kernels.num_gpus)
    cost, plain = with_host(kernels, iteration_ms=a, kernel_factor=factor).iteration_cost, kernels.step_cost
    for base, kernel_base in ((cost.decode_base, plain.decode_base), (cost.mixed_base, plain.mixed_base)):
        n = kernel_base.sizes[place]
        # Eight-bit weights may be multiplied at twice the datasheet's rate of 16 bits.
        least = min(max(floor.read_s, n * floor.token_s / 2), factor * kernel_base(n))
        assert base(n) >= least * (1 - 1e-9)
        assert base(n) <= factor * kernel_base(n) * (1 + 1e-9)


def test_far_below_nothing_is_the_roofline_itself(kernels: Profile) -> None:
    assert kernels.model is not None and kernels.gpu is not None
    read_s = kernels.model.read_bytes / kernels.gpu.bandwidth_bytes_per_s
    assert with_host(kernels, iteration_ms=-1e6).iteration_cost.decode_base(1) == pytest.approx(read_s)


def test_without_a_model_the_floor_is_a_share_of_the_kernels(kernels: Profile) -> None:
    bare = replace(kernels, model=None, host=Host(iteration_ms=-1e6))
    base = kernels.step_cost.decode_base
    assert bare.iteration_cost.decode_base(base.sizes[3]) == pytest.approx(LEAST_SHARE * base.seconds[3])


def test_a_base_of_one_point_grows_with_the_sequences() -> None:
    from tests.sim.flat_machine import flat_machine

    cost = with_host(flat_machine(0.01), per_seq_ms=1.0).iteration_cost
    assert [round(cost.decode_s(n, 0) * 1e3, 9) for n in (1, 2, 50)] == [11, 12, 60]


def test_terms_are_read_back_and_kept_by_a_what_if(kernels: Profile) -> None:
    profile = with_host(kernels, iteration_ms=-0.5, per_seq_ms=0.02, after_ms=3.0)
    assert Profile.from_json(profile.to_json()) == profile != kernels
    assert "host" not in kernels.to_json()
    assert apply(profile, ("kv_blocks=900",)).host == profile.host
    doubled = apply(profile, ("scale=2",)).host
    assert (doubled.iteration_ms, doubled.per_seq_ms, doubled.after_ms) == (-1.0, 0.04, 6.0)
    assert profile.with_scale(2).iteration_cost.decode_s(9, 900) == pytest.approx(
        2 * profile.iteration_cost.decode_s(9, 900)
    )
    assert limits_of(with_host(kernels, iteration_ms=50.0), None).knee != limits_of(kernels, None).knee


def test_every_term_can_be_set_by_its_name(kernels: Profile) -> None:
    assert {f"host.{term}" for term in TERMS} <= set(field_names(kernels))
    changed = apply(kernels, ("host.before_ms=20", "host.iteration_ms=-0.4"))
    assert changed.host == Host(before_ms=20, iteration_ms=-0.4)
    assert changed.name.endswith(" +host.before_ms=20 +host.iteration_ms=-0.4")
    assert changed.provenance.kind == "what-if"
    assert dict(describe(changed))["host, before scheduling"] == "20 ms, +0 ms for each request under way"
    assert dict(describe(changed))["host, an iteration"] == "-0.4 ms, +0 ms for each sequence that decodes"
    assert "host time" not in dict(describe(changed))
    assert "host" not in dict(describe(kernels))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("host.before_ms=-1", "host, before_ms: -1 is below 0"),
        ("host.kernel_factor=0", r"kernel_factor: 0.0 is not above 0"),
        ("host.iteration_ms=fast", "host, iteration_ms: 'fast' is not a number"),
        ("host.tokenizer=1", "set: unknown key 'host.tokenizer'"),
        ("host=vlm", "host: 'vlm' is not one of none"),
    ],
)
def test_terms_that_cannot_be(setting: str, message: str, kernels: Profile) -> None:
    with pytest.raises(InputError, match=message):
        apply(kernels, (setting,))


@pytest.fixture
def made_up_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terms = {
        "iteration_ms": 1.0,
        "per_layer_us": -50.0,
        "per_quantised_layer_us": 20.0,
        "before_ms": 4.0,
        "fitted_on": "made-up rows",
    }
    (tmp_path / "made-up.json").write_text(json.dumps(terms))
    monkeypatch.setattr(hosts, "SETS", tmp_path)


@pytest.mark.usefixtures("made_up_set")
def test_a_named_set(kernels: Profile) -> None:
    changed = apply(kernels, ("host=made-up", "host.after_ms=2"))
    expected = Host(iteration_ms=0.04, before_ms=4.0, after_ms=2.0, name="made-up", fitted_on="made-up rows")
    assert changed.host == expected
    assert dict(describe(changed))["host"] == "made-up, fitted on made-up rows"
    assert apply(changed, ("host=none",)).host == NO_HOST
    assert named("made-up", 32).iteration_ms == -0.6
    with pytest.raises(InputError, match="made-up adds time for every layer"):
        named("made-up", None)
    with pytest.raises(InputError, match="'made' is not one of none, made-up; did you mean made-up"):
        named("made", 1)


def test_the_sets_that_come_with_the_package_say_what_they_were_fitted_on() -> None:
    for name in hosts.names():
        host = named(name, 80)
        assert host.name == name and host.fitted_on
