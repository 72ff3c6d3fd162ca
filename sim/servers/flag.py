"""A flag of an engine: what it means here; knows nothing of commands, files or single engines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from traces.errors import InputError

Kind: TypeAlias = Literal["int", "suffixed", "float", "text", "switch"]
"""How the value of a flag is read; a switch takes none in a command, `suffixed` is `8192`, `8k`, `8K`."""

SUFFIXED = re.compile(r"(\d+(?:\.\d+)?)([kmgtKMGT])")
POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}

ON, OFF = ("true", "on", "yes", "1"), ("false", "off", "no", "0")


@dataclass(frozen=True)
class Flag:
    """What a flag sets: an option of the policy (`policy.NAME`), of the deployment (`deployment.NAME`), or
    something that its engine makes something of (`engine.NAME`); without a target it has no effect here, for
    the reason that `why` gives.
    """

    target: str = ""
    kind: Kind = "text"
    why: str = ""
    says: bool = True
    """For a switch: what it says of its target."""


@dataclass
class Reading:
    """What was read so far; `notes`: what of it has no effect, or was not understood."""

    policy: dict[str, Any] = field(default_factory=dict)
    deployment: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def take(self, name: str, flag: Flag, value: str) -> None:
        """Set what a flag sets. InputError where it has no value of its kind."""
        if not flag.target:
            self.notes.append(f"{name}: understood, without effect here: {flag.why}")
            return
        part, _, key = flag.target.partition(".")
        values: dict[str, Any] = getattr(self, part)
        if flag.kind == "suffixed" and value == "auto":
            return
        values[key] = read(name, flag, value)
        if flag.why:
            self.notes.append(f"{name}: {flag.why}")

    def multiply(self, groups: int) -> None:
        """Limits that hold for each of so many groups of GPUs, for all of them."""
        for values, keys in (
            (self.policy, ("max_num_seqs", "max_num_batched_tokens")),
            (self.engine, ("blocks", "kv_tokens")),
        ):
            for key in keys:
                if key in values:
                    values[key] *= groups


def read(name: str, flag: Flag, value: str) -> Any:
    """The value of a flag; InputError naming it where it is none."""
    if flag.kind == "switch":
        if value.lower() not in (*ON, *OFF):
            raise InputError(f"server: {name}: {value!r} is neither true nor false")
        return (value.lower() in ON) == flag.says
    if flag.kind == "text":
        return value
    try:
        if flag.kind == "suffixed":
            return _suffixed(value)
        return int(value) if flag.kind == "int" else float(value)
    except ValueError:
        what = "a number" if flag.kind == "float" else "a whole number"
        raise InputError(f"server: {name}: {value!r} is not {what}") from None


def _suffixed(value: str) -> int:
    """As vLLM reads it (`human_readable_int`): 25.6k is 25,600 and 8K is 8,192; ValueError for others."""
    match = SUFFIXED.fullmatch(value)
    if match is None:
        return int(value)
    number, unit = match.groups()
    if unit.isupper():
        return int(number) << 10 * POWERS[unit.lower()]
    return int(Decimal(number).scaleb(3 * POWERS[unit]))


def silent(why: str, *names: str) -> Mapping[str, Flag]:
    """Flags without effect here, for one reason."""
    return {name: Flag(why=why) for name in names}


def silent_switches(why: str, *names: str) -> Mapping[str, Flag]:
    """The same, of switches."""
    return {name: Flag(kind="switch", why=why) for name in names}


NOT_SCHEDULING = "it changes what is served, not when"
"""Why a flag has no effect: the commonest reason."""
KERNELS = "kernel times are those of the engine's defaults"
SPECULATIVE = "speculative decoding is not modelled"
SLOWER_MEMORY = "slower memory for KV blocks is said by --kv-tier"
ONE_MODEL = "adapters and several models are not modelled"
