"""What the status page shows of a layer: numbers only, neither texts nor keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from traces.trace import ALL_CLASSES

from .comparison import NORMAL, wilson
from .layer import Layer
from .matching import WHO
from .mirror import Mirror
from .report import Ended, Report

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Of the page: it loads nothing from anywhere, and is framed by nobody."""


def page() -> bytes:
    """The page: one file, which asks for the numbers every two seconds."""
    return files(__package__).joinpath("status.html").read_bytes()


def status(layer: Layer) -> dict[str, Any]:
    """The numbers as they are now; times in seconds, lengths in tokens."""
    now, executor, settings = layer.clock(), layer.executor, layer.settings
    waiting = list(executor.waiting.values())
    recent = list(layer.report.recent)
    return {
        "policy": settings.policy if settings.act == "hold" else "the upstream's, told by priority",
        "predictor": settings.predictor,
        "uptime_s": round(now - layer.since_s, 1),
        "is_draining": layer.is_draining,
        "slots": layer.pool.capacity(now),
        "running": executor.num_running,
        "waiting": len(waiting),
        "longest_wait_s": round(now - waiting[0].arrival_s, 3) if waiting else 0.0,
        "starvation_bound_s": settings.max_wait_s,
        "sent_by_the_bound": executor.num_sent_overdue,
        "queue": _by_length(request.predicted_tokens or 0 for request in waiting),
        "share": layer.share,
        "mirror": None if layer.mirror is None else _mirrored(layer.mirror, layer.report),
        "guard": "" if layer.guard is None else layer.guard.reason or _seen(layer),
        "slos": _within(recent),
        "arms": {arm: _arm([each for each in recent if each.arm == arm]) for arm in ("policy", "fcfs")},
        "recent": [
            [each.predicted_tokens, each.output_tokens, round(each.wait_s, 3), round(each.e2el_s, 3)]
            for each in recent
            if not each.error
        ],
        "upstreams": [
            {
                "url": upstream.url,
                "is_up": upstream.open_until_s is None,
                "busy": upstream.busy,
                "slots": upstream.slots if settings.act == "hold" else None,
                "failures": upstream.num_failures,
            }
            for upstream in layer.pool.upstreams
        ],
    }


def _seen(layer: Layer) -> str:
    found = layer.guard.found if layer.guard is not None else None
    return "too few requests for a first look" if found is None else found.text


def _mirrored(mirror: Mirror, report: Report) -> dict[str, Any]:
    """Greedy answers that were asked for again: by whose they are how many were compared, how many of them
    were the same, and the 95 % interval of that share; how many copies are to come, and were left out.
    """
    pairs, found = report.pairs, {}
    for who in WHO:
        if total := pairs.total[who]:
            _, low, high = wilson(pairs.same[who], total, NORMAL.inv_cdf(0.975))
            found[who] = {
                "total": total,
                "same": pairs.same[who],
                "interval": [round(low, 4), round(high, 4)],
            }
    to_come = len(mirror.waiting) + len(mirror.running)
    return {"answers": found, "to_come": to_come, "left_out": report.num_not_mirrored}


def _within(ended: Sequence[Ended]) -> list[tuple[str, int, int]]:
    """Of the last requests that state bounds, in all and by class: the name, how many there are, and how many
    of them were within theirs. Who got no whole answer was not.
    """
    stated = [each for each in ended if each.is_within is not None]
    classes = sorted({each.slo_class for each in stated} - {""})
    groups = {ALL_CLASSES: stated} if stated else {}
    groups |= {name: [each for each in stated if each.slo_class == name] for name in classes}
    return [
        (name, len(group), sum(each.is_within is True for each in group)) for name, group in groups.items()
    ]


def _by_length(lengths: Iterable[int]) -> list[tuple[str, int]]:
    """How many requests wait, by the power of two that their predicted length reaches."""
    counts = Counter(max(1, length - 1).bit_length() for length in lengths)
    if not counts:
        return []
    return [(f"{2**power:,}", counts[power]) for power in range(min(counts), max(counts) + 1)]


def _arm(ended: Sequence[Ended]) -> dict[str, Any]:
    """Latencies of the last requests of an arm."""
    whole = [each for each in ended if not each.error]
    waits, latencies = [each.wait_s for each in whole], [each.e2el_s for each in whole]
    return {
        "requests": len(ended),
        "failed": len(ended) - len(whole),
        "wait_s": _quantiles(waits),
        "e2el_s": _quantiles(latencies),
    }


def _quantiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    mean, (median, p90, p99) = float(np.mean(values)), np.quantile(values, [0.5, 0.9, 0.99])
    return {
        name: round(float(value), 4)
        for name, value in zip(("mean", "p50", "p90", "p99"), (mean, median, p90, p99), strict=True)
    }
