"""What the command or the configuration of an inference server says: policy, limits, parallelism, formats."""

from __future__ import annotations
