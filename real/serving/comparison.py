"""Do two arms of a traffic differ in anything but their order? Tests that may be repeated as rows come in.

Who looks again and again finds a difference in the end where there is none. So looks are taken at doubling
numbers of requests only, and look k is given the share 6 / (pi k)^2 of `alpha`: all looks together are wrong
with a probability of at most `alpha`, for ever (a union bound).

Senders stay in one arm, so that arms may differ because their senders do: a difference that was there before
the policy came is none of its doing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

FIRST_LOOK = 200
"""Requests of both arms together at the first look."""
LEAST_PER_ARM = 30
"""With fewer requests in an arm, a look says nothing; with fewer answers, nothing of lengths."""
GROUPS = ("short", "middle", "long")
"""Thirds of all requests by predicted length."""
NORMAL = NormalDist()


@dataclass(frozen=True)
class Sample:
    """What an arm has done, by what is equal: a look costs what there are lengths, not requests.

    Of completed requests, `tokens`: output tokens that occur, in order, and `counts`: how often, each of
    shape (k,); `predicted`: predicted tokens that occur, in order, of shape (m,), and `e2el`: the number, the
    sum (s) and the sum of squares of their E2EL, of shape (m, 3). `reasons` counts the finish reasons.
    `failed`: requests without a whole answer.
    """

    tokens: FloatArray
    counts: FloatArray
    predicted: FloatArray
    e2el: FloatArray
    reasons: Mapping[str, int] = field(default_factory=dict)
    failed: int = 0

    @classmethod
    def of(
        cls,
        output_tokens: FloatArray,
        e2el_s: FloatArray,
        predicted_tokens: FloatArray,
        reasons: Mapping[str, int],
        failed: int = 0,
    ) -> Sample:
        """Of arrays of completed requests, each of shape (n,)."""
        tokens, counts = np.unique(output_tokens, return_counts=True)
        predicted, group = np.unique(predicted_tokens, return_inverse=True)
        e2el = [np.bincount(group, e2el_s**power, len(predicted)) for power in range(3)]
        return cls(tokens, counts.astype(float), predicted, np.stack(e2el, axis=1), reasons, failed)

    @property
    def completed(self) -> int:
        """Requests with a whole answer."""
        return int(self.counts.sum())

    @property
    def total(self) -> int:
        """Requests that ended, however."""
        return self.completed + self.failed


@dataclass(frozen=True)
class Difference:
    """One look at two arms, the policy's against first come, first served.

    `lengths`: the largest difference between the shares of answers that are shorter than some length
    (Kolmogorov-Smirnov); `seen_from`: such a difference would have been found from this size on. `failures`:
    difference of the shares that failed, with its interval. `reason`: the finish reason whose share differs
    most, and by how much. `latency`: by group of predicted length and over all, mean E2EL of the policy's
    arm over the other's, with its interval. `findings`: what differs by more than chance, in words.
    """

    num_requests: tuple[int, int]
    alpha: float
    lengths: float
    seen_from: float
    failures: float
    failures_interval: tuple[float, float]
    reason: tuple[str, float]
    latency: Mapping[str, tuple[float, float, float]]
    findings: tuple[str, ...]

    @property
    def text(self) -> str:
        """The answers' quality in a line."""
        if self.findings:
            return "; ".join(self.findings)
        return f"no difference seen in answer lengths down to {100 * self.seen_from:.1f} %"


def is_look(num_requests: int) -> bool:
    """Whether so many requests of both arms together are when to look."""
    return num_requests >= FIRST_LOOK and 2 ** look_of(num_requests) * FIRST_LOOK // 2 == num_requests


def look_of(num_requests: int) -> int:
    """The number of the last look that so many requests allow, from 1; 0: none yet."""
    return 0 if num_requests < FIRST_LOOK else 1 + int(math.log2(num_requests / FIRST_LOOK))


def alpha_of(look: int, alpha: float) -> float:
    """What this look may spend of `alpha`."""
    return alpha * 6 / (math.pi * max(1, look)) ** 2


def compare(policy: Sample, other: Sample, alpha: float = 0.05) -> Difference | None:
    """The arms at the last look that their numbers allow; None where an arm has too few requests.

    `alpha`: the probability, over all looks, of finding a difference where there is none; half is spent on
    lengths, a quarter each on failures and on finish reasons.
    """
    if min(policy.total, other.total) < LEAST_PER_ARM:
        return None
    spent = alpha_of(look_of(policy.total + other.total), alpha)
    findings = []
    lengths, seen_from = _lengths(policy, other, spent / 2)
    if lengths > seen_from:
        findings.append(f"answer lengths differ: by {100 * lengths:.1f} % of the answers")
    failures, interval = _failures(policy, other, spent / 4)
    if interval[0] > 0 or interval[1] < 0:
        more = "more" if failures > 0 else "fewer"
        findings.append(f"{100 * abs(failures):.1f} % {more} requests fail under the policy")
    reason, shift, is_real = _reasons(policy, other, spent / 4)
    if is_real:
        findings.append(
            f"{100 * abs(shift):.1f} % {'more' if shift > 0 else 'fewer'} answers end by {reason!r}"
        )
    return Difference(
        (policy.total, other.total),
        alpha,
        lengths,
        seen_from,
        failures,
        interval,
        (reason, shift),
        _latency(policy, other, spent),
        tuple(findings),
    )


def _lengths(policy: Sample, other: Sample, alpha: float) -> tuple[float, float]:
    """The Kolmogorov-Smirnov distance, and that which chance exceeds with probability `alpha` at most (its
    usual bound for large samples); 0 and 1 with too few answers.
    """
    if min(policy.completed, other.completed) < LEAST_PER_ARM:
        return 0.0, 1.0
    values = np.concatenate([policy.tokens, other.tokens])
    shares = [_share_up_to(values, sample) for sample in (policy, other)]
    bound = math.sqrt(math.log(2 / alpha) / 2 * (1 / policy.completed + 1 / other.completed))
    return float(np.abs(shares[0] - shares[1]).max()), min(1.0, bound)


def _share_up_to(values: FloatArray, sample: Sample) -> FloatArray:
    """Which share of the answers is no longer than each of these values."""
    up_to = np.concatenate([[0.0], np.cumsum(sample.counts)])
    return np.asarray(up_to[np.searchsorted(sample.tokens, values, side="right")] / sample.completed)


def _failures(policy: Sample, other: Sample, alpha: float) -> tuple[float, tuple[float, float]]:
    """The difference of the shares that failed, and Newcombe's interval at 1 - alpha."""
    return newcombe(policy.failed, policy.total, other.failed, other.total, alpha)


def _reasons(policy: Sample, other: Sample, alpha: float) -> tuple[str, float, bool]:
    """The finish reason whose share differs most: its name, by how much, whether by more than chance."""
    names = sorted({*policy.reasons, *other.reasons})
    worst, shift, is_real = "", 0.0, False
    n, m = (sum(sample.reasons.values()) for sample in (policy, other))
    if min(n, m) < LEAST_PER_ARM:
        return worst, shift, is_real
    for name in names:
        apart, (low, high) = newcombe(
            policy.reasons.get(name, 0), n, other.reasons.get(name, 0), m, alpha / len(names)
        )
        if abs(apart) >= abs(shift):
            worst, shift, is_real = name, apart, low > 0 or high < 0
    return worst, shift, is_real


def newcombe(a: int, n: int, b: int, m: int, alpha: float) -> tuple[float, tuple[float, float]]:
    """a/n - b/m with its interval by Newcombe's method 10 (1998), which holds for small counts too."""
    z = NORMAL.inv_cdf(1 - alpha / 2)
    (p, p_low, p_high), (q, q_low, q_high) = wilson(a, n, z), wilson(b, m, z)
    low = p - q - math.hypot(p - p_low, q_high - q)
    high = p - q + math.hypot(p_high - p, q - q_low)
    return p - q, (low, high)


def wilson(count: int, n: int, z: float) -> tuple[float, float, float]:
    """A share with Wilson's interval."""
    p = count / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return p, max(0.0, middle - half), min(1.0, middle + half)


def _latency(policy: Sample, other: Sample, alpha: float) -> dict[str, tuple[float, float, float]]:
    """Ratios of mean E2EL with their intervals, by third of the predicted lengths and over all."""
    low, high = _thirds(policy, other)
    ratios = {}
    for name in ("all", *GROUPS):
        a, b = (_of_group(sample, name, low, high) for sample in (policy, other))
        if min(a[0], b[0]) >= LEAST_PER_ARM and min(a[1], b[1]) > 0:
            ratios[name] = _ratio(a, b, alpha)
    return ratios


def _thirds(policy: Sample, other: Sample) -> tuple[float, float]:
    """What a third and two thirds of all predicted lengths do not exceed, in between by the straight line."""
    predicted = np.concatenate([policy.predicted, other.predicted])
    order = np.argsort(predicted, kind="stable")
    up_to = np.cumsum(np.concatenate([policy.e2el, other.e2el])[order, 0])
    if not len(up_to):
        return 0.0, 0.0

    def at(part: float) -> float:
        place = part * (up_to[-1] - 1)
        low, high = predicted[order[np.searchsorted(up_to, [np.floor(place), np.ceil(place)], side="right")]]
        return float(low + (place % 1) * (high - low))

    return at(1 / 3), at(2 / 3)


def _of_group(sample: Sample, name: str, low: float, high: float) -> FloatArray:
    """Number, sum and sum of squares of E2EL, of shape (3,)."""
    length = sample.predicted
    kept = {
        "all": np.ones(len(length), bool),
        "short": length <= low,
        "middle": (length > low) & (length <= high),
        "long": length > high,
    }[name]
    return np.asarray(sample.e2el[kept].sum(axis=0))


def _ratio(a: FloatArray, b: FloatArray, alpha: float) -> tuple[float, float, float]:
    """mean(a) / mean(b) and its interval at 1 - alpha by the delta method on the logarithm, which lies within
    a few hundredths of the bootstrap's where an arm has `LEAST_PER_ARM` rows or more, and costs one pass.
    """
    means = float(a[1] / a[0]), float(b[1] / b[0])
    errors = (_error(x) / mean for x, mean in zip((a, b), means, strict=True))
    ratio, far = means[0] / means[1], math.exp(NORMAL.inv_cdf(1 - alpha / 2) * math.hypot(*errors))
    return ratio, ratio / far, ratio * far


def _error(sums: FloatArray) -> float:
    """The standard error of a mean."""
    number, total, squares = (float(each) for each in sums)
    return math.sqrt(max(0.0, squares - total * total / number) / (number - 1) / number)
