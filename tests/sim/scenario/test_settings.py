"""The one list of settings: its two forms agree, and every call knows an unknown name."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from sim import compare, plan, simulate, sweep
from sim.cli.options import Flags
from sim.scenario.scenario import scenario
from sim.scenario.settings import Keywords, PlanKeywords, Settings, read_settings, sentences
from sim.studies.ageing import starvation
from sim.studies.capacity import capacity, idle_bound
from sim.studies.cases import map_cases
from sim.studies.gain_map import gain_map
from sim.studies.load_curves import load_curves
from sim.studies.prediction_error import sensitivity, variance
from sim.studies.server_log import against
from traces.errors import InputError


def test_the_keywords_are_the_fields_with_their_types() -> None:
    hints = get_type_hints(Settings)
    assert get_type_hints(Keywords) == {name: hint for name, hint in hints.items() if name != "trace"}
    assert set(PlanKeywords.__annotations__) < set(Keywords.__annotations__)


def test_every_field_has_a_sentence_and_a_flag() -> None:
    names = [field.name for field in fields(Settings)]
    assert list(sentences(Settings)) == names == [field.name for field in fields(Flags)]
    assert all(text.endswith(".") for text in sentences(Settings).values())


CALLS: list[Callable[..., Any]] = [
    simulate,
    scenario,
    lambda trace, **given: compare(trace, policies="vanilla", **given),
    lambda trace, **given: plan(trace, slo="ttft_p90:800", **given),
    lambda trace, **given: sweep({"trace": trace, "grid": {"seeds": [0]}, **given}),
    capacity,
    sensitivity,
    variance,
    starvation,
    map_cases,
    lambda trace, **given: idle_bound(trace, rate=1.0, **given),
    lambda trace, **given: load_curves(trace, rates=[1.0], **given),
    lambda trace, **given: gain_map(trace, cases=[], **given),
    against,
]


@pytest.mark.parametrize("call", CALLS)
def test_an_unknown_setting_is_named_with_the_nearest_known(call: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"unknown setting max_concurency; did you mean max_concurrency\?$"):
        call("fixed", max_concurency=5)
    with pytest.raises(InputError, match=r"unknown setting colour; the settings are .*router, ") as refused:
        call("fixed", colour="red")
    assert "\n" not in str(refused.value)


def test_the_nearest_known_may_be_an_argument_of_the_function_itself() -> None:
    with pytest.raises(InputError, match=r"unknown setting polcy; did you mean policy\?"):
        simulate("fixed", polcy="vanilla")  # type: ignore[call-arg]
    with pytest.raises(InputError, match=r"unknown setting num_seed; did you mean num_seeds\?"):
        plan("fixed", slo="ttft_p90:800", num_seed=4)  # type: ignore[call-arg]


def test_no_public_call_takes_settings_of_any_name() -> None:
    for call in (simulate, compare, plan, capacity, sensitivity, variance, starvation, load_curves, against):
        (rest,) = (p for p in inspect.signature(call).parameters.values() if p.kind == p.VAR_KEYWORD)
        assert str(rest.annotation) in ("Unpack[Keywords]", "Unpack[PlanKeywords]", "Unpack[StudyKeywords]")


@pytest.mark.slow
def test_a_type_checker_catches_a_misspelt_setting_in_code_of_others(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(
        "from sim import compare, plan, simulate\n"
        "simulate('fixed', num_prompts=5, fleet='a100-80gb-vicuna-7b-transformers*2')\n"
        "plan('fixed', slo='ttft_p90:800', mtbf_s=100.0, mttr_s=3.0)\n"
        "simulate('fixed', num_prompt=5)\n"
        "compare('fixed', policies='vanilla', seed='zero')\n"
        "plan('fixed', slo='ttft_p90:800', time_scal=2.0)\n"
    )
    mypy = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file",
        "",
        "--follow-imports=silent",
        str(script),
    ]
    found = subprocess.run(mypy, capture_output=True, text=True, check=False).stdout
    lines = {int(line.split(":")[1]) for line in found.splitlines() if ": error:" in line}
    assert lines == {4, 5, 6}, found


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("num_prompts", 5.0, "5.0 is not a whole number"),
        ("num_prompts", "5", "'5' is not a whole number"),
        ("replicas", True, "True is not a whole number"),
        ("seed", None, "None is not a whole number"),
        ("request_rate", "2", "'2' is not a number"),
        ("time_scale", None, "None is not a number"),
        ("mtbf_s", [1.0], "[1.0] is not a number"),
    ],
)
def test_what_is_no_number_is_refused_from_python_too(name: str, value: Any, said: str) -> None:
    with pytest.raises(InputError) as refused:
        simulate(**{name: value})
    assert str(refused.value) == f"{name}: {said}"


def test_numbers_of_numpy_are_numbers_and_none_is_where_it_may_be() -> None:
    given = {"num_prompts": np.int64(5), "request_rate": np.float32(2), "mtbf_s": None, "time_scale": 1}
    assert read_settings("fixed", given).num_prompts == 5
