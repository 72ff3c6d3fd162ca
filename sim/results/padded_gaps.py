"""The gaps between the tokens of padded rows: a token counts as it is computed, the last one as its batch
returns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from traces.trace import FloatArray, IntArray

from .batch_record import BatchRecord
from .ledger import Ledger
from .token_gaps import Ramps


def padded_gaps(ledger: Ledger, output_tokens: IntArray, finish_s: FloatArray) -> Ramps:
    """One ramp per row, and its last gap; `finish_s` by request id, NaN where it did not finish.

    A row that went on in another batch has a ramp in each, and the gaps between them.
    """
    final_batch, batches = np.asarray(ledger.final_batch), ledger.batches
    is_row = (final_batch >= 0) & ~np.isnan(finish_s) & (output_tokens > 1)
    resumed = [i for i in ledger.begun_in if is_row[i]]
    is_row[resumed] = False
    parts = []
    if (rows := np.flatnonzero(is_row)).size:
        steps = np.array([(b.first_step_s, b.step_slope_s, b.prefill_end_s) for b in batches])
        parts.append(_of_rows(steps[final_batch[rows]], output_tokens[rows], finish_s[rows]))
    for i in resumed:
        of = [batches[k] for k in (*ledger.begun_in[i], final_batch[i])]
        parts.append(_of_resumed(of, int(output_tokens[i]), float(finish_s[i])))
    return Ramps(*map(np.concatenate, zip(*parts, strict=True))) if parts else Ramps.empty()


def _of_rows(steps: FloatArray, output_tokens: IntArray, finish_s: FloatArray) -> Ramps:
    """`steps`: first_step_s, step_slope_s and prefill_end_s of each row's batch, shape (n, 3)."""
    first, slope, prefill_end = steps.T
    inner = output_tokens - 2  # gaps before the last one
    spent = inner * first + slope * inner * (inner - 1) / 2
    last = finish_s - prefill_end - spent
    one, zero = np.ones(len(inner), dtype=np.int64), np.zeros(len(inner))
    return Ramps(
        first_s=np.concatenate([first, last]),
        slope_s=np.concatenate([slope, zero]),
        counts=np.concatenate([inner, one]),
        weight=np.concatenate([one, one]),
        start_s=np.concatenate([prefill_end, prefill_end + spent]),
    )


def _of_resumed(batches: Sequence[BatchRecord], output_tokens: int, finish_s: float) -> Ramps:
    """The gaps of one row that ran in several batches."""
    left, at_s, gaps = output_tokens - 1, batches[0].prefill_end_s, list[tuple[float, float, int, float]]()
    for batch in batches:
        tokens = min(left, batch.iterations)
        if tokens:
            if batch is not batches[0]:
                gaps.append((batch.prefill_end_s - at_s, 0.0, 1, at_s))
            inner, first, slope = tokens - 1, batch.first_step_s, batch.step_slope_s
            gaps.append((first, slope, inner, batch.prefill_end_s))
            at_s = batch.prefill_end_s + inner * first + slope * inner * (inner - 1) / 2
            left -= tokens
    first_s, slope_s, counts, start_s = zip(*gaps, (finish_s - at_s, 0.0, 1, at_s), strict=True)
    ones = np.ones(len(counts), dtype=np.int64)
    return Ramps(np.array(first_s), np.array(slope_s), np.array(counts), ones, np.array(start_s))
