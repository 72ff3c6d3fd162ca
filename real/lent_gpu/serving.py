"""Serves requests for real beside their simulation: how far off it is, and the paper's ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sim.hardware import catalogue
from sim.hardware.profile import Profile
from sim.hardware.what_if import BLOCK_SIZE
from sim.scenario.scenario import scenario
from traces.errors import InputError

from ..engines.engine import Engine
from ..validation.report import PolicyCheck
from ..validation.validation import Validation
from .bench import EAGER, GRAPHS, Bench

SEQUENCE = "sequence:vbs=table,fcr=on"
POLICIES = {EAGER: ("vanilla", SEQUENCE), GRAPHS: ("vanilla", SEQUENCE, "continuous")}
SHARE = 0.7
"""Of the time that a part has, how much the runs may take by the simulation."""
LOAD = 0.7
"""Requests per second over those that `continuous` serves when all come at once."""
SHOWN = ("output_throughput", "mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "p99_e2el_ms")
PREDICTOR = "tuned"
"""The paper's own, of a fine-tuned model."""


def offline(bench: Bench, engine: str, seconds: float) -> dict[str, Any]:
    """All requests at once, under each policy that the engine can run."""
    return _validated(bench, engine, "oracle", POLICIES[engine], {}, seconds)


def poisson(bench: Bench, engine: str, seconds: float) -> dict[str, Any]:
    """Requests over time, at LOAD of what is served when all come at once, by the simulation."""
    profile = catalogue.load(bench.profile(engine))
    blocks = bench.engine(engine).capacity_tokens // BLOCK_SIZE
    at_once = scenario(
        bench.sizes.trace, num_prompts=bench.sizes.counts[0], profile=profile, kv_blocks=blocks
    )
    rate = LOAD * at_once.run("continuous").summary["request_throughput"]
    return _validated(bench, engine, "oracle", ("continuous",), {"request_rate": rate}, seconds)


def paper_ratio(bench: Bench, seconds: float) -> dict[str, Any]:
    """Throughput of sequence scheduling over that of vanilla batches: measured, and simulated."""
    result = _validated(bench, EAGER, PREDICTOR, POLICIES[EAGER], {}, seconds)
    vanilla, sequence = (result["policies"][name]["request_throughput"] for name in POLICIES[EAGER])
    measured, predicted = (sequence[side] / vanilla[side] for side in ("measured", "predicted"))
    return {
        **result,
        "ratio_measured": measured,
        "ratio_predicted": predicted,
        "error_fraction": predicted / measured - 1,
    }


def _validated(
    bench: Bench,
    engine: str,
    predictor: str,
    policies: Sequence[str],
    settings: Mapping[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """A real run and a simulation of as many requests as there is time for, by policy."""
    profile, machine = catalogue.load(bench.profile(engine)), bench.engine(engine)
    number = _number(bench, profile, machine, predictor, policies, settings, SHARE * seconds)
    pairs = [(policy, predictor) for policy in policies]
    given = {**settings, "num_prompts": number, "seed": bench.seed}
    validation = Validation(
        bench.loaded, machine, bench.sizes.trace, given, profile, None, say=lambda _: None
    )
    validation.prepare(pairs)
    validation.measure(pairs, repeats=1, warm_ups=0, passes=0)
    checks = validation.cases(pairs)
    return {
        "requests": number,
        **settings,
        "policies": {check.policy: _figures(check) for check in checks},
        "equal_decisions": all(check.equal_decisions for check in checks),
        "complete": True,
    }


def _number(
    bench: Bench,
    profile: Profile,
    machine: Engine,
    predictor: str,
    policies: Sequence[str],
    settings: Mapping[str, Any],
    seconds: float,
) -> int:
    """The largest number of requests that all policies together serve in time, by the simulation."""
    for number in bench.sizes.counts:
        simulated = scenario(
            bench.sizes.trace,
            num_prompts=number,
            profile=profile,
            predictor=predictor,
            kv_blocks=machine.capacity_tokens // BLOCK_SIZE,
            **settings,
        )
        if sum(simulated.run(policy).summary["duration"] for policy in policies) <= seconds:
            return number
    raise InputError(f"{bench.sizes.counts[-1]} requests take longer than the {seconds:.3g} s that there are")


def _figures(check: PolicyCheck) -> dict[str, Any]:
    return {key: check.figures[key]._asdict() for key in ("request_throughput", *SHOWN)}
