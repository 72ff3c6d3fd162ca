"""What a test needs that is not always there."""

from __future__ import annotations

import pytest

from sim.hardware import kernels

needs_kernels = pytest.mark.skipif(
    kernels.installed() != kernels.VERSION, reason=f"{kernels.PACKAGE} {kernels.VERSION} is not installed"
)
