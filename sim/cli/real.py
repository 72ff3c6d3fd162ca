"""`seqsched validate` and `seqsched calibrate` on a real model: the scripts in `real`, as commands.

To be imported only when such a command runs: the scripts in turn import `sim.cli`.
"""

from __future__ import annotations

from real.calibrate import calibrate
from real.validate import validate

__all__ = ["calibrate", "validate"]
