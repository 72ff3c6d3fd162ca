"""What a replica costs, and how many GPUs it has."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sim import plan
from sim.planning.answer import headroom_text
from sim.planning.units import units_of, unused_prices
from sim.scenario.settings import Settings


def priced(prices: dict[str, float], **settings: Any) -> tuple[float | None, int | None]:
    """USD per hour and GPUs of the fleet that carries next to nothing."""
    made = plan(
        "fixed:prompt_tokens=50,output_tokens=10",
        slo="e2el_mean:60000",
        request_rate=1.0,
        profiles="h200-vicuna-7b",
        price=prices,
        num_requests=60,
        max_requests=120,
        max_seeds=3,
        jobs=1,
        **settings,
    )
    (answer,) = made.answers
    assert made.to_frame().gpus[0] == answer.gpus == json.loads(made.to_json())["answers"][0]["gpus"]
    return answer.cost_per_hour, answer.gpus


@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_a_price_of_a_gpu_counts_for_each_of_a_replica(gpus: int) -> None:
    parallel = {"tensor_parallel": gpus}
    assert priced({"H200": 3.5}, set=parallel) == (3.5 * gpus, gpus)
    assert priced({"H200": 3.5}, set=parallel, spare=1) == (2 * 3.5 * gpus, 2 * gpus)
    assert priced({}, set={**parallel, "price_per_hour": 3.5}) == (3.5 * gpus, gpus)
    assert priced({"h200-vicuna-7b": 9.0}, set=parallel) == (9.0, gpus)
    assert priced({"h200-vicuna-7b": 9.0, "H200": 3.5}, set=parallel) == (9.0, gpus)


def test_a_price_of_a_gpu_is_that_of_the_gpu_that_a_what_if_names() -> None:
    assert priced({"H100": 2.0, "H200": 3.5}, set={"gpu": "H100", "tensor_parallel": 2}) == (4.0, 2)
    mix = "h200-vicuna-7b*2;a100-80gb-vicuna-7b-transformers*1"
    made = plan(
        "fixed:output_tokens=10",
        slo="e2el_mean:60000",
        request_rate=1.0,
        fleet=mix,
        price={"H200": 3.0, "A100-80GB": 1.0},
        num_requests=60,
        max_requests=120,
        max_seeds=3,
        jobs=1,
    )
    assert (made.answers[0].cost_per_hour, made.answers[0].gpus) == (7.0, 3)


@pytest.mark.parametrize(
    ("share", "text"), [(None, "–"), (0.0, "+0%"), (0.04, "+4%"), (9.0, "+900%"), (460389.97, "> 10 ×")]
)
def test_room_beyond_ten_times_the_rate_is_said_to_be_so(share: float | None, text: str) -> None:
    assert headroom_text(share) == text


def test_a_price_that_counts_for_no_machine_is_said() -> None:
    machines = "h200-vicuna-7b;a100-80gb-vicuna-7b-transformers"
    units = units_of(machines, Settings())
    assert unused_prices({"H200": 3.5, "a100-80gb-vicuna-7b-transformers": 2.0}, units) == []
    assert unused_prices({"H200": 3.5}, units_of("h200-vicuna-7b", Settings(set={"gpu": "H100"}))) == [
        "The price of H200, 3.5 USD an hour, counts for no machine of this plan, which has "
        "h200-vicuna-7b +gpu=H100 (H100)."
    ]
    # That of the profile comes first.
    both = unused_prices({"H200": 3.5, "h200-vicuna-7b": 9.0, "L40S": 1.0}, units)
    assert [text.partition(",")[0] for text in both] == ["The price of H200", "The price of L40S"]


def test_a_plan_says_it_beside_its_headline() -> None:
    made = plan(
        "fixed:prompt_tokens=50,output_tokens=10",
        slo="e2el_mean:60000",
        request_rate=1.0,
        profiles="h200-vicuna-7b",
        price="H200:3.5 A100-80GB:1.8",
        num_requests=60,
        max_requests=120,
        max_seeds=3,
        jobs=1,
    )
    assert made.answers[0].cost_per_hour == 3.5
    (note,) = (note for note in made.notes if "price" in note)
    assert note.startswith("The price of A100-80GB, 1.8 USD an hour, counts for no machine")
