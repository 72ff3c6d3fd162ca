"""One function per trace format: from a table of that format to a Trace, every value checked.

Knows nothing of how a format is recognised (`formats`) or of what holds the table (`tables`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import checks
from .errors import InputError
from .tables import Table
from .trace import DEFAULT_MAX_NEW_TOKENS, FloatArray, IntArray, Trace

Tokenizer = Callable[[str], int]


@dataclass(frozen=True)
class Options:
    """What a reader may need beyond the file: a seed for what is drawn, a cap on outputs, a token counter."""

    seed: int = 0
    max_new_tokens: int | None = None
    tokenizer: Tokenizer | None = None


def _trace(
    table: Table,
    prompt_tokens: IntArray,
    output_tokens: IntArray,
    *,
    arrival: FloatArray | None = None,
    arrival_column: str = "",
    per_second: float = 1.0,
    keep: npt.NDArray[np.bool_] | None = None,
    notes: tuple[str, ...] = (),
    **columns: Any,
) -> Trace:
    """A Trace of the kept rows in order of arrival; `arrival` is in 1/`per_second` s since any epoch."""
    columns = {name: values for name, values in columns.items() if values is not None}
    columns = {"request_id": np.arange(table.num_rows), **columns}
    columns |= {"prompt_tokens": prompt_tokens, "output_tokens": output_tokens}
    if arrival is not None:
        first = float(arrival.min() if keep is None else arrival[keep].min())
        elapsed = (arrival - first) / per_second
        checks.refuse(
            table,
            arrival_column,
            elapsed > checks.MAX_SPAN_S,
            lambda i: f"{elapsed[i]:.10g} s after the first arrival is above {checks.MAX_SPAN_S} s",
        )
        columns["arrival_s"] = elapsed
        if "deadline_s" in columns:
            columns["deadline_s"] = columns["deadline_s"] - first
    names = columns.pop("sample_names", ())
    if keep is not None:
        columns = {name: values[keep] for name, values in columns.items()}
    if "arrival_s" in columns and (np.diff(columns["arrival_s"]) < 0).any():
        order = np.argsort(columns["arrival_s"], kind="stable")
        columns = {name: values[order] for name, values in columns.items()}
        notes = (
            *notes,
            f"{arrival_column} was not in order: rows are sorted by arrival, ties as in the file",
        )
    return Trace(name=Path(table.path).stem, sample_names=names, notes=notes, **columns)


def seqsched(table: Table, options: Options) -> Trace:
    """Our own columns; every one but the two lengths is optional, `L_<name>` columns are samples."""
    has = set(table.columns)
    arrival = checks.times(table, "arrival_s") if "arrival_s" in has else None
    deadline = checks.times(table, "deadline_s") if "deadline_s" in has else None
    if arrival is not None and deadline is not None:
        late = deadline < arrival
        checks.refuse(
            table,
            "deadline_s",
            late,
            lambda i: f"{deadline[i]:.10g} is below {arrival[i]:.10g}, the arrival_s",
        )
    # L_gt, where a length file was converted by hand, is a person's answer and no sample of the model.
    sampled = tuple(column for column in table.columns if column.startswith("L_") and column != "L_gt")
    return _trace(
        table,
        checks.tokens(table, "prompt_tokens"),
        checks.tokens(table, "output_tokens"),
        arrival=arrival,
        arrival_column="arrival_s",
        deadline_s=deadline,
        predicted_tokens=checks.tokens(table, "predicted_tokens", low=0)
        if "predicted_tokens" in has
        else None,
        priority=checks.priorities(table, "priority") if "priority" in has else None,
        prompt=checks.texts(table, "prompt") if "prompt" in has else None,
        user=checks.texts(table, "user") if "user" in has else None,
        samples=_samples(table, sampled) if sampled else None,
        sample_names=tuple(column.removeprefix("L_") for column in sampled),
        notes=("L_gt is ignored: it is no sample of the model",) if "L_gt" in has else (),
        request_id=checks.identifiers(table, "request_id") if "request_id" in has else None,
    )


def _samples(table: Table, columns: tuple[str, ...]) -> IntArray:
    return np.column_stack([checks.tokens(table, column) for column in columns])


def azure(table: Table, options: Options) -> Trace:
    """Azure's public LLM inference traces: dates, context and generated tokens."""
    return _trace(
        table,
        checks.tokens(table, "ContextTokens"),
        checks.tokens(table, "GeneratedTokens"),
        arrival=checks.instants(table, "TIMESTAMP"),
        arrival_column="TIMESTAMP",
    )


def burstgpt(table: Table, options: Options) -> Trace:
    """BurstGPT: times in seconds; a request without response tokens failed and is left out."""
    prompt = checks.tokens(table, "Request tokens", low=0)
    output = checks.tokens(table, "Response tokens", low=0)
    arrival = checks.times(table, "Timestamp")
    answered = output > 0
    failed = len(output) - int(answered.sum())
    if failed == len(output):
        raise InputError(
            f"{table.path}, Response tokens: 0 in every row, at least 1 answered request is needed"
        )
    checks.refuse(table, "Request tokens", answered & (prompt < 1), lambda i: f"{prompt[i]} is below 1")
    return _trace(
        table,
        prompt,
        output,
        arrival=arrival,
        arrival_column="Timestamp",
        keep=answered if failed else None,
        notes=(f"{failed} of {len(output)} requests have 0 response tokens (failed) and are left out",)
        if failed
        else (),
    )


def mooncake(table: Table, options: Options) -> Trace:
    """Mooncake: times in milliseconds; the hashes of shared prefixes are not used."""
    return _trace(
        table,
        checks.tokens(table, "input_length"),
        checks.tokens(table, "output_length"),
        arrival=checks.times(table, "timestamp", per_second=1000),
        arrival_column="timestamp",
        per_second=1000,
    )


def vidur(table: Table, options: Options) -> Trace:
    """Vidur: prefill and decode tokens, times in seconds where there are any."""
    return _trace(
        table,
        checks.tokens(table, "num_prefill_tokens"),
        checks.tokens(table, "num_decode_tokens"),
        arrival=checks.times(table, "arrived_at") if "arrived_at" in table.columns else None,
        arrival_column="arrived_at",
    )


LENGTH_COLUMNS = ("L_t0.0", "L_t0.3", "L_t0.5", "L_t0.7")


def length_file(table: Table, options: Options) -> Trace:
    """The paper's response lengths: the one at temperature 0 is the output, all four are samples."""
    from .synthetic import ALPACA_PROMPT_NOTE, alpaca_prompt_tokens

    samples = _samples(table, LENGTH_COLUMNS)
    cap = options.max_new_tokens or DEFAULT_MAX_NEW_TOKENS
    return _trace(
        table,
        alpaca_prompt_tokens(table.num_rows, np.random.default_rng(options.seed)),
        samples[:, 0],
        samples=samples,
        sample_names=tuple(column.removeprefix("L_") for column in LENGTH_COLUMNS),
        notes=(
            f"output_tokens is L_t0.0 clipped to {cap}; the samples are not clipped",
            f"{ALPACA_PROMPT_NOTE}; seed {options.seed}",
        ),
        request_id=checks.identifiers(table, "id") if "id" in table.columns else None,
    ).with_output_cap(cap)


def sharegpt(table: Table, options: Options) -> Trace:
    """ShareGPT conversations, one request each; the texts are counted by the tokenizer."""
    if options.tokenizer is None:
        raise InputError(
            f"{table.path}: ShareGPT holds text, so its lengths need a tokenizer "
            "(a function from text to a number of tokens, passed as tokenizer=)"
        )
    count = options.tokenizer
    prompts: list[str] = []
    lengths = np.zeros((table.num_rows, 2), dtype=np.int64)
    for index, conversation in enumerate(table.raw("conversations")):
        prompt, answer = _first_exchange(table, index, conversation)
        prompts.append(prompt)
        if prompt and answer:
            lengths[index] = count(prompt), count(answer)
    whole = (lengths[:, 0] > 0) & (lengths[:, 1] > 0)
    partial = table.num_rows - int(whole.sum())
    if partial == table.num_rows:
        raise InputError(
            f"{table.path}, conversations: 0 have both a human and a gpt turn, at least 1 is needed"
        )
    over = lengths.max(axis=1) > checks.MAX_TOKENS
    checks.refuse(
        table,
        "conversations",
        over,
        lambda i: f"a turn of {lengths[i].max()} tokens is above {checks.MAX_TOKENS}",
    )
    left_out = f"{partial} of {table.num_rows} conversations lack a human or a gpt turn and are left out"
    return _trace(
        table,
        lengths[:, 0],
        lengths[:, 1],
        prompt=np.array(prompts, dtype=object),
        keep=whole if partial else None,
        notes=(
            "one request per conversation: its first human and its first gpt turn",
            *([left_out] if partial else []),
        ),
        request_id=checks.identifiers(table, "id") if "id" in table.columns else None,
    )


def _first_exchange(table: Table, index: int, conversation: object) -> tuple[str, str]:
    first: dict[str, str] = {}
    if not isinstance(conversation, list):
        raise checks.fault(
            table, index, "conversations", f"{checks.shown(conversation)} is not a list of turns"
        )
    for turn in conversation:
        speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if not isinstance(speaker, str) or not isinstance(text, str):
            what = f"{checks.shown(turn)} is not a turn with text under from and value"
            raise checks.fault(table, index, "conversations", what)
        first.setdefault(speaker, text)
    return first.get("human", ""), first.get("gpt", "")
