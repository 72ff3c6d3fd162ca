"""What holds of every run, whoever scheduled it; `Result` in, AssertionError out."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from ..results.result import Result
from .worlds import require

ENDINGS = ("completed", "rejected", "expired", "cancelled")
TIMES = ("arrival_s", "scheduled_s", "first_token_s", "finish_s")


def check_run(result: Result, kv_tokens: Sequence[int]) -> None:
    """What holds for any run; `kv_tokens`: the capacity of each replica."""
    check_conservation(result)
    check_order(result)
    check_memory(result, kv_tokens)
    check_littles_law(result)


def check_conservation(result: Result) -> None:
    """Every request ends exactly once: as completed, dropped once and with a reason, or cancelled with its
    session.
    """
    status, reason = result.columns["status"], result.columns["reason"]
    for i, (ended, why) in enumerate(zip(status, reason, strict=True)):
        require(ended in ENDINGS, f"request {i} ended as {ended!r}")
        require((ended == "completed") == (not why), f"request {i} is {ended} with the reason {why!r}")
    dropped = Counter(i for b in result.batches if b.kind == "Drop" for i in b.request_ids)
    given_up = {i for i, ended in enumerate(status) if ended in ("rejected", "expired")}
    require(set(dropped) == given_up, f"dropped were {sorted(dropped)}, not completed {sorted(given_up)}")
    require(all(times == 1 for times in dropped.values()), f"dropped more than once: {dropped}")
    failed = result.summary["completed"] + result.summary["failed"]
    require(failed == len(status), f"{failed} requests ended, {len(status)} arrived")


def check_order(result: Result) -> None:
    """Arrival <= scheduled <= first token <= finish, and a replica does one thing after the other."""
    done = result.columns["status"] == "completed"
    for before, after in itertools.pairwise(TIMES):
        late = np.flatnonzero(result.columns[before][done] > result.columns[after][done])
        require(not len(late), f"{before} is after {after} for {len(late)} completed requests")
    ends: dict[int, float] = defaultdict(float)
    for b in result.batches:
        require(
            ends[b.replica] <= b.start_s <= b.prefill_end_s <= b.end_s * (1 + 1e-15), f"time goes back: {b}"
        )
        ends[b.replica] = b.end_s


def check_memory(result: Result, kv_tokens: Sequence[int]) -> None:
    """KV memory in use never exceeds what the replica has."""
    for b in result.batches:
        require(b.kv_tokens <= kv_tokens[b.replica], f"{b.kv_tokens} KV tokens of {kv_tokens[b.replica]}")
    peak = result.summary["kv_peak_fraction"]
    require(0 <= peak <= 1, f"kv_peak_fraction is {peak}")


def check_littles_law(result: Result) -> None:
    """Mean concurrency x duration = the sum of the times that the requests spent."""
    done = result.columns["status"] == "completed"
    arrival, finish = result.columns["arrival_s"][done], result.columns["finish_s"][done]
    events = sorted([(t, 1) for t in arrival.tolist()] + [(t, -1) for t in finish.tolist()])
    area, level, before = 0.0, 0, 0.0
    for now, step in events:
        area, level, before = area + level * (now - before), level + step, now
    spent = float((finish - arrival).sum())
    require(math.isclose(area, spent, rel_tol=1e-9, abs_tol=1e-9), f"Little's law: {area} s, {spent} s")


def check_work_conserving(result: Result) -> None:
    """The one replica never idles while a request is there."""
    arrival, finish = result.columns["arrival_s"], result.columns["finish_s"]
    dropped = {i: b.end_s for b in result.batches if b.kind == "Drop" for i in b.request_ids}
    ended = np.array([dropped.get(i, finish[i]) for i in range(len(finish))])
    for before, after in itertools.pairwise([b for b in result.batches if b.is_busy]):
        if after.start_s > before.end_s:
            # Who is turned away on arrival was there for no time; delays that are added up cost a last bit.
            came, went = np.maximum(arrival, before.end_s), np.minimum(ended, after.start_s)
            waiting = np.flatnonzero(came < went * (1 - 1e-12)).tolist()
            require(not waiting, f"idles from {before.end_s} to {after.start_s} s while {waiting} wait")


def check_same(first: Result, second: Result, what: str) -> None:
    """The same decisions, and the same tables to the last bit."""
    require(first.decisions == second.decisions, f"{what} decides otherwise")
    require(first.to_json() == second.to_json(), f"{what} ends in another summary")
    require(first.requests.equals(second.requests), f"{what} ends in another table of requests")


def check_leap(leaped: Result, stepped: Result) -> None:
    """Many iterations in one event are the same as one after the other, to 1e-9."""
    require((leaped.columns["status"] == stepped.columns["status"]).all(), "a leap changes who completes")
    for name in TIMES:
        a, b = leaped.columns[name], stepped.columns[name]
        far = np.flatnonzero(~np.isclose(a, b, rtol=1e-9, atol=1e-9, equal_nan=True))
        if len(far):
            i = int(far[0])
            require(False, f"a leap changes {name} of request {i} from {b[i]} to {a[i]} s")
