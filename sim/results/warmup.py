"""How many requests meet a fleet that is still filling up, and have no part in steady-state figures."""

from __future__ import annotations

import re

import numpy as np

from traces import quantities
from traces.errors import InputError
from traces.trace import FloatArray

from .tables import Columns

BATCH = 5
"""Requests averaged before an automatic warm-up is looked for (MSER-5: White, Cobb and Spratt, 2000)."""

MOST = 0.5
"""No automatic warm-up is longer than this share of the requests."""

HELP = (
    "Leave these out: the first N requests by arrival, those of the first SECONDS s (or min, …), or as many "
    "as auto finds (MSER-5 on TTFT and E2EL, at most half). Latencies are then of later requests; ITL, "
    "throughput and goodput of what ends after that; counts, memory and efficiency of the whole run."
)


def read_warmup(warmup: str | int | None) -> tuple[float, str]:
    """(how many, of what: requests, s or auto); InputError for a text that is none of these."""
    if warmup is None:
        return 0, "requests"
    text = str(warmup).strip()
    if text == "auto":
        return 0, "auto"
    if re.fullmatch(r"\d+", text):
        return int(text), "requests"
    if re.fullmatch(r"\d+(\.\d+)? ?[a-zµμ]+", text):
        try:
            return quantities.seconds(text), "s"
        except ValueError:
            pass
    raise InputError(
        f"warmup: {text!r} is not a number of requests, of seconds such as 60s or 2min, nor auto"
    )


def num_warmup(warmup: str | int | None, requests: Columns) -> int:
    """How many requests, by arrival, a warm-up leaves out; InputError where it leaves none."""
    number, unit = read_warmup(warmup)
    if unit == "auto":
        return _automatic(requests)
    arrival_s = requests["arrival_s"]
    if unit == "s":
        number = int((arrival_s - arrival_s.min() < number).sum())
    if number and number >= len(arrival_s):
        raise InputError(f"warmup: {warmup} leaves none of {len(arrival_s)} requests")
    return int(number)


def _automatic(requests: Columns) -> int:
    """The later of two cuts: a first wave that waits may not show in E2EL, where answers differ in length."""
    order = np.argsort(requests["arrival_s"], kind="stable")
    ends = [requests[name] for name in ("first_token_s", "finish_s")]
    return max(_cut((end - requests["arrival_s"])[order]) for end in ends)


def _cut(latency: FloatArray) -> int:
    """How many to leave out so that what follows has the least standard error of its mean.

    `latency`: of every request in order of arrival, shape (n,); NaN for one that has none.
    """
    rows = np.flatnonzero(~np.isnan(latency))
    num_batches = len(rows) // BATCH
    if num_batches < 4:
        return 0
    means = latency[rows[: num_batches * BATCH]].reshape(num_batches, BATCH).mean(axis=1)
    # Suffix sums: variance of the batches from k on, over their number once more.
    size = np.arange(num_batches, 0, -1)
    total, squares = (np.cumsum(v[::-1])[::-1] for v in (means - means.mean(), (means - means.mean()) ** 2))
    error = (squares - total**2 / size) / size**2
    best = int(error[: int(num_batches * MOST) + 1].argmin())
    return int(rows[best * BATCH]) if best else 0
