"""What a scheduler decided of one iteration, ours or that of an engine."""

from __future__ import annotations

from typing import NamedTuple


class Decision(NamedTuple):
    """One iteration. All by request id.

    `tokens`: those that it computes, a chunk of a prompt or the one of who decodes. `reused`: of who is let
    in, the tokens found in memory. `preempted`: who gave up its memory for it. `blocks`: in use while it
    runs.
    """

    iteration: int
    tokens: dict[int, int]
    reused: dict[int, int]
    preempted: tuple[int, ...]
    blocks: int
