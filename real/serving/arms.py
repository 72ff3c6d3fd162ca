"""Which requests the policy orders, and which go first come, first served, so that the two can be compared.

A share of the traffic is the policy's arm, the rest the other's. Requests of one sender stay in one arm:
a sender is an API key, or else the `user` that the request names, or else the request alone.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from .call import Call

Arm = Literal["policy", "fcfs"]
ARMS: tuple[Arm, ...] = ("policy", "fcfs")
UNORDERED = "continuous:order=priority"
"""The other arm's policy: first come, first served within a level of importance."""


def arm_of(call: Call, share: float) -> Arm:
    """The arm of a request where `share` (0 to 1) of the senders are the policy's; a restart changes none."""
    if share >= 1.0:
        return "policy"
    said = call.body.get("user")
    sender = f"key {call.key}" if call.key else f"user {said}" if isinstance(said, str) and said else ""
    digest = hashlib.blake2b(
        (sender or f"request {call.id}").encode(errors="replace"), digest_size=8
    ).digest()
    return "policy" if int.from_bytes(digest, "big") < share * 2**64 else "fcfs"
