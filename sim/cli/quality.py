"""`seqsched quality`: what differs between the requests that a policy orders and the rest."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from traces.errors import InputError

from . import show

if TYPE_CHECKING:
    from real.serving.comparison import Difference
    from real.serving.matching import Match, Rate

WHO = {"policy": "under the policy", "fcfs": "first come, first served", "plain": "copies among themselves"}
"""Whose answers are compared, in words."""


def report(
    log: Path,
    /,
    *,
    alpha: float = 0.05,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Compare both arms of a log that `serve --share` wrote, as it grew: at 200, 400, 800, ... requests.

    Answer lengths, finish reasons and failures should not depend on the order in which requests are served;
    latencies should. Exit status 1 where at the last look the former differ by more than chance. Senders stay
    in one arm: a difference between them is found as well. Greedy answers that `serve --mirror` has asked for
    again are compared with what came then.

    Parameters
    ----------
    log
        The file of `serve --log`.
    alpha
        The probability, over all looks, of finding a difference where there is none; where answers are
        mirrored, half of it is theirs.
    json_
        Print the looks, and the mirrored answers, as one JSON object.
    """
    from real.serving.quality import looks, matches

    matched = matches(log, alpha / 2)
    try:
        found = looks(log, alpha if matched is None else alpha / 2)
    except InputError as error:
        if matched is None:
            raise
        found = []
        print(f"seqsched: note: {error}", file=sys.stderr)
    if json_:
        mirrored = None if matched is None else _mirrored(matched)
        print(json.dumps({"looks": [_entry(each) for each in found], "mirrored": mirrored}, indent=2))
    else:
        _print(log, found, matched)
    if (found and found[-1].findings) or (matched is not None and matched.finding):
        raise SystemExit(1)


def _print(log: Path, found: list[Difference], matched: Match | None) -> None:
    def say(text: str) -> None:
        show.console().print(text, soft_wrap=True, highlight=False)

    if found:
        _print_looks(log, found)
        say(f"At the last look: {found[-1].text}.")
    if matched is not None:
        rates = "; ".join(f"{WHO[who]} {_rate(rate)}" for who, rate in matched.rates.items())
        say(f"Greedy answers that were the same when they were asked for again: {rates}; {matched.text}.")


def _rate(rate: Rate) -> str:
    low, high = rate.interval
    return f"{100 * rate.share:.1f} % ({100 * low:.1f} to {100 * high:.1f}) of {rate.total:,}"


def _mirrored(matched: Match) -> dict[str, Any]:
    names = ("value", "low", "high")
    rates = {
        who: {
            "same": rate.same,
            "total": rate.total,
            **dict(zip(names, (rate.share, *rate.interval), strict=True)),
        }
        for who, rate in matched.rates.items()
    }
    excess = None if matched.excess is None else dict(zip(names, matched.excess, strict=True))
    return {**rates, "excess": excess, "finding": matched.finding}


def _print_looks(log: Path, found: list[Difference]) -> None:
    import pandas as pd

    rows = [
        {
            "requests": f"{each.num_requests[0]:,} / {each.num_requests[1]:,}",
            "mean E2EL": _interval(each, "all"),
            "predicted short": _interval(each, "short"),
            "predicted middle": _interval(each, "middle"),
            "predicted long": _interval(each, "long"),
            "lengths apart %": f"{100 * each.lengths:.1f} (found from {100 * each.seen_from:.1f})",
            "failed, points": _points(each.failures, each.failures_interval),
        }
        for each in found
    ]
    show.frame_table(
        f"{log.name} · the policy's arm against first come, first served: requests of each, ratios of "
        "latencies, differences of answers",
        pd.DataFrame(rows),
    )


def _interval(each: Difference, group: str) -> str:
    if group not in each.latency:
        return "–"
    ratio, low, high = each.latency[group]
    return f"{ratio:.2f} × ({low:.2f} to {high:.2f})"


def _points(value: float, interval: tuple[float, float]) -> str:
    return f"{100 * value:+.2f} ({100 * interval[0]:+.2f} to {100 * interval[1]:+.2f})"


def _entry(each: Difference) -> dict[str, Any]:
    return {
        "policy_requests": each.num_requests[0],
        "fcfs_requests": each.num_requests[1],
        "mean_e2el_ratio": {
            name: dict(zip(("value", "low", "high"), values, strict=True))
            for name, values in each.latency.items()
        },
        "length_distance": each.lengths,
        "length_distance_found_from": each.seen_from,
        "failure_difference": {
            "value": each.failures,
            "low": each.failures_interval[0],
            "high": each.failures_interval[1],
        },
        "finish_reason": {"name": each.reason[0], "difference": each.reason[1]},
        "findings": list(each.findings),
    }
