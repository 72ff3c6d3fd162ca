from __future__ import annotations

import pytest

from sim.hardware.deployment import Deployment
from traces.errors import InputError


def test_a_text_and_what_it_means() -> None:
    made = Deployment.parse("llama-3.1-70b@H200, tp=4, dtype=fp8,engine=trtllm")
    assert made == Deployment("llama-3.1-70b", "h200", "trtllm", tp=4, dtype="fp8")
    assert made.text == "llama-3.1-70b@h200,engine=trtllm,tp=4,dtype=fp8,kv=bf16"
    assert Deployment.parse(made.text) == made


def test_an_engine_may_name_its_version_and_attention_its_groups() -> None:
    made = Deployment.parse("m@h200,engine=vllm:0.24.0,tp=8,ep=8,dp_attention=4")
    assert (made.engine_name, made.engine_version, made.attention_tp) == ("vllm", "0.24.0", 2)
    assert made.text == "m@h200,engine=vllm:0.24.0,tp=8,ep=8,dp_attention=4,kv=bf16"
    assert Deployment.parse("m@h200").engine_version is None


def test_equal_deployments_have_one_text() -> None:
    settings = ("tp=2,ep=1", "engine=vllm,tp=2", "tp=2,kv=bf16,dp_attention=1")
    assert len({Deployment.parse(f"m@h100,{each}").text for each in settings}) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("m@h100,tp", "'tp' is not KEY=VALUE with one of engine, tp"),
        ("m@h100,colour=red", "'colour=red' is not KEY=VALUE"),
        ("m@h100,tp=two", "tp=two is not a number"),
        ("m@h100,tp=0", "tp: 0 is not between 1 and 64"),
        ("m@h100,tp=4,tp=4", "tp is given twice"),
        ("m@h100,tp=4,ep=3", "ep: 3 does not divide tp, 4"),
        ("m@h100,tp=4,dp_attention=3", "dp_attention: 3 does not divide tp, 4"),
        ("m@h100,dp_attention=0", "dp_attention: 0 does not divide tp, 1"),
        ("m@h100,engine=vlm:0.24.0", "engine: 'vlm' is not one of vllm, sglang, trtllm; did you mean vllm"),
        ("m@h100,engine=vlm", "engine: 'vlm' is not one of vllm, sglang, trtllm; did you mean vllm"),
        ("m@h100,dtype=fp7", "dtype: 'fp7' is not one of bf16, fp8"),
        ("m@h100,utilization=1.5", "utilization: 1.5 is not above 0 and at most 1"),
        ("@h100", "@h100 is not MODEL@GPU"),
    ],
)
def test_a_bad_text_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        Deployment.parse(text)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_the_host_is_that_of_the_engine_unless_another_is_named() -> None:
    own, none = Deployment.parse("m@h200,engine=trtllm"), Deployment.parse("m@h200,engine=trtllm,host=none")
    assert own.host_name == "trtllm" and "host" not in own.text
    assert none.host_name == "none" and none.text.endswith("host=none")
    assert Deployment.parse("m@h200,engine=trtllm,host=vllm").host_name == "vllm"
    with pytest.raises(
        InputError, match="host: 'vlm' is not one of none, sglang, trtllm, vllm; did you mean"
    ):
        Deployment.parse("m@h200,host=vlm")
