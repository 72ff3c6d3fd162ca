"""A machine of which the outcome can be worked out by hand; for tests."""

from __future__ import annotations

from sim.hardware.kv_memory import KvMemory
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.profile import Profile, Provenance
from sim.hardware.step_cost import StepCost


def flat_machine(step_s: float = 1.0, kv_tokens: int = 10**6, name: str = "flat") -> Profile:
    """Every iteration takes `step_s`, whatever it computes."""
    flat = PiecewiseLinear((1,), (step_s,))
    return Profile(
        name=name,
        model=None,
        gpu=None,
        engine="made up",
        step_cost=StepCost(flat, 0.0, flat, 0.0, 0.0),
        memory=KvMemory(kv_tokens, 1.0, 0, 0, 1),
        provenance=Provenance("measured", "2026-01-01", "made up for tests"),
    )
