"""The Gittins index of a request whose length is known as a distribution, by how far its answer is.

Of all that a scheduler may do without knowing lengths, serving the smallest index first makes the mean time
in system least, with one server and free preemption (Gittins, 1979; Aalto, Ayesta and Righter, "On the
Gittins index in the M/G/1 queue", 2009). SageSched (arXiv 2603.07917) serves LLM requests by it.
"""

from __future__ import annotations

from functools import lru_cache

from ..request import Request
from .order import tokens_up_to


@lru_cache(maxsize=1 << 16)
def _lines(lengths: tuple[int, ...], first: int) -> tuple[tuple[int, int], ...]:
    """The index after an age below `lengths[first]` and not below the one before, as lines in the age: of
    `m` lengths left, it is the least of (tokens - m * age) / k.

    Stopping at the k-th length, k of the m are served by then: on average they and those cut off take (sum
    of the k + (m - k) * length - m * age) / m tokens, and a share k / m of them ends.
    """
    left, total = len(lengths) - first, 0
    lines: list[tuple[int, int]] = []
    for k, length in enumerate(lengths[first:], start=1):
        total += length
        lines.append((total + (left - k) * length, k))
    lower: list[tuple[int, int]] = []
    for tokens, k in sorted(lines, key=lambda line: line[0] / line[1]):
        # One that begins above another and is not steeper is never the least.
        if not lower or k < lower[-1][1]:
            lower.append((tokens, k))
    return tuple(lower)


def _num_outlived(lengths: tuple[int, ...], age: int) -> int:
    """How many of the lengths an answer of this age has reached without ending."""
    return sum(length <= age for length in lengths)


def inverse_index(lengths: tuple[int, ...], age: int) -> float:
    """Tokens to be served for each answer that ends, at the best of all times to stop; the inverse of the
    index: min over d of E[min(L - age, d)] / P(L - age <= d), given L > age.

    `lengths` have equal probability and rise. An answer that has outlived them all ranks by its age.
    """
    first = _num_outlived(lengths, age)
    if first == len(lengths):
        return float(age)
    # One division of whole numbers: what is equal by definition is equal here, and goes by submission.
    served = (len(lengths) - first) * age
    return min((tokens - served) / k for tokens, k in _lines(lengths, first))


class Gittins:
    """The smallest inverse index first; without a distribution the prediction is taken for certain."""

    def __call__(self, request: Request, generated: int) -> float:
        """Its inverse index (tokens)."""
        return inverse_index(lengths_of(request), generated)

    def until_above(self, request: Request, generated: int, bound: float) -> int:
        """It falls up to the next length that is outlived, and rises with every token after the last."""
        lengths = lengths_of(request)
        first = _num_outlived(lengths, generated)
        if first < len(lengths):
            return lengths[first] - generated
        return max(1, tokens_up_to(bound) + 1 - generated)


def lengths_of(request: Request) -> tuple[int, ...]:
    """What is known of its length as a distribution; one length where only that is known, none where nothing
    is.
    """
    if request.predicted_lengths is not None:
        return request.predicted_lengths
    return () if request.predicted_tokens is None else (max(1, request.predicted_tokens),)
