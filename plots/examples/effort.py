"""How long the worked examples simulate for an answer: flags that several of them share."""

from __future__ import annotations

from dataclasses import dataclass

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long to simulate for an answer."""

    num_requests: int = 1000
    """Requests of a replication, to begin with."""
    max_requests: int = 6000
    """Requests of a replication of a point that is hard to decide."""
    max_seeds: int = 8
    """Replications of such a point."""
    seed: int = 0
    """First of the seeds."""
    jobs: int = -1
    """Processes; -1: one for every core."""
