"""Turns of sessions in Mooncake's columns, as NVIDIA Dynamo replays them: whole prompts, or what each adds.

Dynamo calls the two forms `mooncake` and `mooncake-delta` (its trace formats, DynoSim); AIPerf's turns are of
the second. A file does not say which it is: its hashes do.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from .errors import InputError
from .token_blocks import TokenHashes
from .unfolding import Row, Unfolded, number

SIZES = (512, 16, 32, 64, 128, 256, 1024)
"""Tokens of a block, in the order tried: 512 is usual."""


def read(path: str, objects: Sequence[Row]) -> Unfolded:
    """Sessions of rows with one `session_id`: the first comes at its `timestamp`, each later one `delay` (or
    `delay_ms`) after the answer before; all in milliseconds.

    In the form of deltas a prompt is the one before, its answer, and what the row adds. Raises InputError
    where hashes do not tell the two forms apart.
    """
    turns: dict[str, list[int]] = {}
    for place, each in enumerate(objects):
        if each.get("session_id") is None:
            raise InputError(f"{path}, row {place + 1}: has no session_id, and others have")
        turns.setdefault(str(each["session_id"]), []).append(place)
    is_delta = _are_deltas(path, objects, list(turns.values()))
    rows: list[Row] = [{} for _ in objects]
    size = _block_size(path, objects) if is_delta else 0
    hashes = TokenHashes()
    for name, places in turns.items():
        said = _Said(hashes, size)
        for k, place in enumerate(places):
            each, before = objects[place], places[k - 1] if k else None
            at_ms = number(each.get("timestamp", each.get("created_time")))
            rows[place] = {
                "request_id": str(each.get("request_id") or f"{name}/{k}"),
                "session_id": name,
                "waits_for": [] if before is None else [rows[before]["request_id"]],
                "think_s": 0.0 if before is None else _delay_ms(path, place, each, objects[before]) / 1e3,
                "arrival_s": None if at_ms is None or before is not None else at_ms / 1e3,
                "prompt_tokens": each.get("input_length"),
                "output_tokens": each.get("output_length"),
            }
            if is_delta:
                rows[place] |= said.turn(path, place, each)
            elif all("hash_ids" in other for other in objects):
                rows[place]["hash_ids"] = each["hash_ids"]
    form = f"what prompts add, in blocks of {size} tokens" if is_delta else "whole prompts"
    return Unfolded(rows, "sessions after Mooncake", (f"by its hashes, input_length is of {form}",))


def _delay_ms(path: str, place: int, each: Row, before: Row) -> float:
    """From the answer before; where only times are stated, what lay between the two."""
    stated = number(each.get("delay", each.get("delay_ms")))
    if stated is not None:
        return stated
    times = [number(row.get("timestamp", row.get("created_time"))) for row in (before, each)]
    if None in times:
        raise InputError(f"{path}, row {place + 1}: has neither delay nor timestamp")
    return max(0.0, float(times[1] or 0.0) - float(times[0] or 0.0))


def _are_deltas(path: str, objects: Sequence[Row], sessions: Sequence[Sequence[int]]) -> bool:
    """Whether turns hold only what they add: no later one begins as the one before; InputError where that is
    not clear.
    """
    begins = []
    for places in sessions:
        for before, after in pairwise(places):
            one, other = objects[before].get("hash_ids"), objects[after].get("hash_ids")
            if isinstance(one, list) and isinstance(other, list) and one and other:
                full = max(1, len(one) - 1)  # the last block of a prompt may be a part
                begins.append(one[:full] == other[:full])
    if not begins or len(set(begins)) > 1:
        why = "no two turns have hash_ids" if not begins else "some begin as the turn before, some do not"
        raise InputError(
            f"{path}: turns with session_id and delay: is a turn's input_length all of its prompt (Dynamo's "
            f"mooncake), or what it adds to the one before (mooncake-delta, AIPerf)? {why}"
        )
    return not begins[0]


def _block_size(path: str, objects: Sequence[Row]) -> int:
    """Tokens of a block by which every list is as long as its `input_length` needs."""
    pairs = []
    for place, each in enumerate(objects):
        ids, tokens = each.get("hash_ids"), each.get("input_length")
        if not isinstance(ids, list) or type(tokens) is not int:
            raise InputError(f"{path}, row {place + 1}: has no list hash_ids or no whole input_length")
        pairs.append((len(ids), tokens))
    for size in SIZES:
        if all(count == -(-tokens // size) for count, tokens in pairs):
            return size
    raise InputError(
        f"{path}: hash_ids do not fit input_length in blocks of {', '.join(map(str, sorted(SIZES)))}"
    )


class _Said:
    """What was said in one session so far, in blocks of numbers that stand for all before them too."""

    def __init__(self, hashes: TokenHashes, size: int) -> None:
        self.hashes, self.size = hashes, size
        self.blocks: list[tuple[int, int]] = []  # (number, tokens)

    def turn(self, path: str, place: int, each: Row) -> Row:
        """Columns of a row that adds to it; its answer is said then, too."""
        left = each["input_length"]
        for value in each["hash_ids"]:
            if type(value) is not int:
                raise InputError(f"{path}, row {place + 1}, hash_ids: {value!r} is no whole number")
            tokens = min(left, self.size)
            before = self.blocks[-1][0] if self.blocks else -1
            self.blocks.append((self.hashes.chain(before, (value, tokens)), tokens))
            left -= tokens
        row: dict[str, Any] = {
            "prompt_tokens": sum(tokens for _, tokens in self.blocks),
            "hash_ids": [one for one, _ in self.blocks],
            "hash_tokens": [tokens for _, tokens in self.blocks],
            "answer_id": self.hashes.own(),
        }
        answer = each.get("output_length")
        self.blocks.append((row["answer_id"], answer if type(answer) is int else 0))
        return row
