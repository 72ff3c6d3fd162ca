"""Prompts whose answers are of very different lengths, and requests for them."""

from __future__ import annotations

from typing import Any

TASKS = {
    "Name a {}.": 8,
    "Write one sentence about a {}.": 24,
    "Is a {} alive? Answer yes or no.": 6,
    "Explain step by step how one would describe a {} to a child.": 64,
    "Translate into French: {}": 12,
    "Tell a story about a {} and a lighthouse.": 96,
    "List five facts about a {}.": 48,
    "What colour is a {}?": 16,
}
"""Tasks, and the most tokens that a client would allow for each; most answers end there."""
THINGS = (
    *("river", "teapot", "falcon", "violin", "glacier", "sundial", "tortoise", "comet", "bakery", "compass"),
    *("cactus", "ferry", "lantern", "meadow", "otter", "pyramid", "quilt", "robot", "saddle", "tulip"),
    *("umbrella", "volcano", "walnut", "yacht", "zebra", "anchor", "bridge", "candle", "drum", "engine"),
)


def prompts(number: int, start: int = 0) -> list[tuple[str, int]]:
    """Prompts with their caps, no two of 240 alike."""
    every = [(task.format(thing), cap) for thing in THINGS for task, cap in TASKS.items()]
    # In an order that mixes tasks and things; 83 has no factor in common with their number, 240.
    return [every[(83 * k) % len(every)] for k in range(start, start + number)]


def body_of(
    prompt: str, *, model: str, stream: bool, most: int, extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The request, decoded greedily; `extra`: fields that this server knows."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": most,
        "temperature": 0.0,
        "stream": stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
        **(extra or {}),
    }
