"""What a machine costs: time per iteration and KV memory, calibrated or estimated.

Knows nothing of scheduling.
"""

from sim.hardware.catalogue import load, names
from sim.hardware.description import describe
from sim.hardware.piecewise_linear import PiecewiseLinear
from sim.hardware.profile import Profile, Provenance
from sim.hardware.step_cost import StepCost

__all__ = ["PiecewiseLinear", "Profile", "Provenance", "StepCost", "describe", "load", "names"]
