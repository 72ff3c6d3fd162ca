"""Slower memory for KV blocks beside an accelerator's own: from its text to tokens and seconds per token."""

from __future__ import annotations

import re

from traces.errors import InputError

from ..hardware.profile import Profile
from ..work import MemoryTier

NAMES = ("cpu", "disk")
"""The tiers in their order: a disk stands behind CPU memory."""

UNITS = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip

BLOCKING, ARC = "blocking", "arc"
WORDS = (BLOCKING, ARC)
"""What may stand at the end: others wait while blocks come; CPU memory gives up blocks by ARC, not LRU."""

LEAST_BYTES, MOST_BYTES = 2**-20, 2**60
"""Bounds of sizes and of rates; a rate of no bytes to speak of would bring nothing within any run."""


def parse_tiers(text: str) -> tuple[tuple[tuple[str, float, float], ...], frozenset[str]]:
    """(name, bytes, bytes per second) of each tier of `cpu:SIZE@RATE[,disk:SIZE@RATE][,blocking][,arc]`, and
    which of `WORDS` stand at the end.

    InputError for another form, sizes and rates that are not above 0, and a disk without CPU memory.
    """
    parts, words = [part.strip() for part in text.split(",")], set[str]()
    while parts and parts[-1] in WORDS and parts[-1] not in words:
        words.add(parts.pop())
    tiers = tuple(_tier(text, part) for part in parts)
    names = tuple(name for name, *_ in tiers)
    if not names or names != NAMES[: len(names)]:
        raise InputError(
            f"kv_tier: {text!r} must name cpu, and behind it disk, each once; vLLM reads its disk through "
            "CPU memory"
        )
    return tiers, frozenset(words)


def _tier(text: str, part: str) -> tuple[str, float, float]:
    name, colon, rest = part.partition(":")
    size, at, rate = rest.partition("@")
    if not colon or not at or not rate.endswith("/s"):
        raise InputError(
            f"kv_tier: {part!r} of {text!r} is not NAME:SIZE@RATE, such as cpu:64GiB@50GB/s; at the end "
            f"may stand {' and '.join(WORDS)}"
        )
    return name, _bytes(part, size), _bytes(part, rate.removesuffix("/s"))


def _bytes(part: str, text: str) -> float:
    """`64GiB` in bytes."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([A-Za-z]+)", text.strip())
    if match is None or match[2] not in UNITS:
        raise InputError(f"kv_tier: {text!r} in {part!r} is not a number of {', '.join(UNITS)}")
    value = float(match[1]) * UNITS[match[2]]
    if not LEAST_BYTES <= value <= MOST_BYTES:
        raise InputError(
            f"kv_tier: {text!r} in {part!r} is not above 0 and at most {MOST_BYTES // 2**40} TiB"
        )
    return value


def tiers_of(
    profile: Profile, text: str | None, block_size: int
) -> tuple[tuple[MemoryTier, ...], frozenset[str]]:
    """The tiers in tokens of the profile's model, and which of `WORDS` the text has; none without a text.

    InputError where the profile does not say how many bytes a token takes, and for a tier smaller than a
    block.
    """
    if text is None:
        return (), frozenset()
    tiers, words = parse_tiers(text)
    if profile.memory is None:
        raise InputError(
            f"kv_tier: profile {profile.name} has no memory part, which would say how many bytes the KV of "
            "a token takes"
        )
    per_token, made = profile.memory.bytes_per_token, list[MemoryTier]()
    for name, size, rate in tiers:
        tokens = int(size) // per_token
        if tokens < block_size:
            raise InputError(
                f"kv_tier: {name} of {size:,.0f} bytes holds {tokens} tokens of {per_token:,} bytes, fewer "
                f"than the {block_size} of a block"
            )
        made.append(MemoryTier(name, tokens, per_token / rate))
    return tuple(made), words
