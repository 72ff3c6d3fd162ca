"""Training data for lengths: texts and the lengths of their answers; trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from traces import checks
from traces.errors import InputError
from traces.tables import open_table
from traces.trace import IntArray, Trace

from ..engines.engine import left_padded
from ..engines.model import LoadedModel
from .progress import Progress, silent
from .prompts import Prompts

ROUND_UP_TO = 50
"""Labels are multiples of this many tokens (the paper's setting)."""


def label(length: int) -> int:
    """The number that the model learns for a length."""
    return -(-length // ROUND_UP_TO) * ROUND_UP_TO


def read_answers(path: str | Path, tokenizer: Any, max_new_tokens: int | None = None) -> Trace:
    """A trace from a table of texts with the columns `instruction` and `output`, counted by the tokenizer.

    The end token of an answer counts. Rows without an answer are left out. Raises InputError naming the file
    and the column.
    """
    columns = ("instruction", "output")
    table = open_table(path, lambda name: name in columns)
    for column in columns:
        if column not in table.columns:
            raise InputError(f"{path}: column {column} is missing; instruction and output are needed")
    instructions, answers = (checks.texts(table, column).tolist() for column in columns)
    keep = np.array([bool(answer.strip()) for answer in answers])
    if not keep.any():
        raise InputError(f"{path}, output: 0 rows have an answer, at least 1 is needed")
    counts = [
        [len(tokenizer(text, add_special_tokens=special)["input_ids"]) for text in texts]
        for texts, special in ((instructions, True), (answers, False))
    ]
    prompt, output = (np.array(column, dtype=np.int64) for column in counts)
    note = (
        f"lengths counted with the tokenizer; {len(keep) - int(keep.sum())} rows without an answer left out"
    )
    trace = Trace(
        name=Path(path).stem,
        request_id=np.arange(len(keep)),
        prompt_tokens=prompt,
        output_tokens=output + 1,
        prompt=np.array(instructions, dtype=object),
        notes=(note,),
    ).select(np.flatnonzero(keep))
    return trace if max_new_tokens is None else trace.with_output_cap(max_new_tokens)


def sampled_lengths(
    loaded: LoadedModel,
    prompts: Prompts,
    temperatures: Sequence[float],
    max_new_tokens: int,
    *,
    batch_size: int = 16,
    seed: int = 0,
    say: Callable[[str], None] = silent,
) -> IntArray:
    """Lengths of the model's own answers, one column per temperature, shape (n, k); 0 is greedy.

    The end token counts; an answer without one is `max_new_tokens` long.
    """
    from transformers import GenerationConfig

    settings: Any = GenerationConfig  # has no types

    loaded.model.set_attn_implementation("sdpa")
    progress = Progress(say, "answers", len(prompts) * len(temperatures))
    lengths = np.zeros((len(prompts), len(temperatures)), dtype=np.int64)
    eos = sorted(loaded.eos_tokens)
    devices = [loaded.device] if loaded.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)  # `generate` draws from the global stream alone
        for column, temperature in enumerate(temperatures):
            draws = {"temperature": temperature, "top_k": 0} if temperature > 0 else {}
            config = settings(
                max_new_tokens=max_new_tokens,
                eos_token_id=eos or None,
                pad_token_id=loaded.pad_token,
                do_sample=temperature > 0,
                **draws,
            )
            for begin in range(0, len(prompts), batch_size):
                rows = prompts[begin : begin + batch_size]
                ids, mask = left_padded(rows, loaded.device)
                out = loaded.model.generate(ids, attention_mask=mask, generation_config=config)
                for k, row in enumerate(out[:, ids.shape[1] :].tolist()):
                    ended = next((i for i, token in enumerate(row, start=1) if token in eos), len(row))
                    lengths[begin + k, column] = ended
                progress.advance(len(rows))
    return lengths


def with_samples(trace: Trace, lengths: IntArray, temperatures: Sequence[float]) -> Trace:
    """The trace with sampled lengths in place of its own; predictions are compared with the largest."""
    names = tuple(f"t{temperature:g}" for temperature in temperatures)
    note = "samples: lengths of the model's own answers at these temperatures"
    return replace(
        trace,
        samples=lengths,
        sample_names=names,
        output_tokens=lengths[:, 0].copy(),
        notes=(*trace.notes, note),
    )
