"""A trace with longer or shorter prompts and outputs; knows nothing of files, schedulers or hardware."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from .checks import MAX_TOKENS
from .errors import InputError
from .trace import IntArray, Trace


def scale_lengths(trace: Trace, prompt_scale: float = 1.0, output_scale: float = 1.0) -> Trace:
    """The trace with every length times a factor, rounded, at least 1 token; arrivals are untouched.

    `output_scale` takes the predicted lengths, the samples and the caps on outputs along, so that a predictor
    is as good or bad as before in proportion. Texts of prompts are dropped where `prompt_scale` is not 1,
    since they would no longer have these lengths; what prompts share grows with them, and prompts that hold
    earlier answers grow with these. Raises InputError where a factor is not above 0 and finite, and where a
    length would exceed 10,000,000 tokens.
    """
    for name, factor in (("prompt_scale", prompt_scale), ("output_scale", output_scale)):
        if not 0 < factor < math.inf:
            raise InputError(f"{name}: {factor:g} is not above 0 and finite")
    if prompt_scale != 1:
        lengths, blocks = _scaled(trace, "prompt_tokens", prompt_scale), trace.blocks
        trace = replace(
            trace,
            prompt_tokens=lengths,
            prompt=None,
            blocks=None if blocks is None else blocks.scaled(prompt_scale, lengths),
            notes=(*trace.notes, f"prompt lengths times {prompt_scale:g}"),
        )
    if output_scale != 1:
        columns = ("predicted_tokens", "samples", "max_tokens")
        others: dict[str, Any] = {
            c: _scaled(trace, c, output_scale) for c in columns if getattr(trace, c) is not None
        }
        cap = trace.max_new_tokens
        trace = trace.with_outputs(
            _scaled(trace, "output_tokens", output_scale),
            **others,
            max_new_tokens=None if cap is None else max(1, math.ceil(cap * output_scale)),
            notes=(*trace.notes, f"output lengths times {output_scale:g}"),
        )
    return trace


def _scaled(trace: Trace, column: str, factor: float) -> IntArray:
    lengths = np.maximum(1.0, np.rint(getattr(trace, column) * factor))
    if lengths.size and lengths.max() > MAX_TOKENS:
        raise InputError(
            f"{trace.name}, {column}: {lengths.max():,.0f} tokens at a factor of {factor:g} are above "
            f"{MAX_TOKENS:,}"
        )
    return np.asarray(lengths, dtype=np.int64)
