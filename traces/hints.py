"""Guesses which column a missing one may be, for errors alone: nothing is read by these names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from .units import WORDS, unit_in_name, without_unit

OWN = ("prompt_tokens", "output_tokens")
"""The columns that seqsched's own format needs."""

OTHERWISE = {
    "prompt_tokens": (
        *("input_tokens", "input_toks", "input_length", "input_len", "prompt_length", "prompt_len", "isl"),
        *("num_prompt_tokens", "num_input_tokens", "context_tokens", "request_tokens", "prefill_tokens"),
        *("input_sequence_length", "num_prefill_tokens", "tokens_in", "prompt_toks"),
    ),
    "output_tokens": (
        *("completion_tokens", "generated_tokens", "response_tokens", "answer_tokens", "decode_tokens"),
        *("osl", "output_length", "output_len", "output_toks", "response_length", "num_output_tokens"),
        *("num_completion_tokens", "num_generated_tokens", "num_decode_tokens", "output_sequence_length"),
        *("tokens_out", "gen_tokens"),
    ),
    "ttft_ms": ("ttft", "time_to_first_token", "first_token", "ttfts"),
    "tpot_ms": ("tpot", "time_per_output_token", "itl", "inter_token_latency", "tbt"),
    "e2el_ms": ("e2el", "e2e", "e2e_latency", "latency", "request_latency", "total_latency", "duration"),
    "arrival_s": ("arrival", "arrival_time", "timestamp", "start_time", "time", "arrived_at"),
}
"""A column -> what others call it, in lower case and without a unit."""


def nearest_columns(columns: Sequence[str], missing: Sequence[str]) -> dict[str, str]:
    """Missing columns -> the one of these that each may be. Of `usage.prompt_tokens` the last key counts."""
    by_name: dict[str, str] = {}
    for column in columns:
        by_name.setdefault(without_unit(column), column)
        by_name.setdefault(without_unit(column.rpartition(".")[2]), column)
    found = {}
    for wanted in missing:
        names = [name for name in (wanted, *OTHERWISE.get(wanted, ())) if name in by_name]
        names += difflib.get_close_matches(without_unit(wanted), by_name, n=1, cutoff=0.85)
        if names and by_name[names[0]] != wanted:
            found[wanted] = by_name[names[0]]
    return found


def near_misses(columns: Sequence[str], missing: Sequence[str]) -> str:
    """`; X: is that Y?` for each missing column that another may be, if in another unit; empty for none."""
    hints = []
    for wanted, found in nearest_columns(columns, missing).items():
        unit = unit_in_name(found)
        other = "" if unit in (None, unit_in_name(wanted)) else f" in another unit, {WORDS[unit]}"
        hints.append(f"; {found}: is that {wanted}{other}?")
    return "".join(hints)


def reading_as(path: str, columns: Sequence[str]) -> str:
    """`; give it as "seqsched:…"`, which says what of our own columns are called in the file, as far as it
    can be guessed; empty where that cannot be written.
    """
    found = nearest_columns(columns, [wanted for wanted in OWN if wanted not in columns])
    which = {wanted: found.get(wanted, "COLUMN") for wanted in OWN if wanted not in columns}
    options = {"file": path if found else "FILE", **which}
    if any("," in value or value != value.strip() for value in options.values()):
        return ""
    text = ",".join(f"{key}={value}" for key, value in options.items())
    return f'; give it as "seqsched:{text}"'
