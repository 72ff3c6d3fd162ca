"""Requests that wait for others of their session: who waits for whom, and for how long after its end.

A request waits for rows of its trace, all of which must have ended, and then for its think time: the time in
which a person reads and types, or a tool runs. Sessions are open against each other and closed within. Knows
nothing of files, schedulers or hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

NOBODY = -1
"""Fills a row of `waits_for` that has fewer parents than another."""


def padded(parents: Sequence[Sequence[int]]) -> IntArray:
    """The rows that each request waits for as an array, shape (n, k), where k is the most that one has."""
    width = max(map(len, parents), default=0)
    return np.array([[*rows, *[NOBODY] * (width - len(rows))] for rows in parents], dtype=np.int64).reshape(
        len(parents), width
    )


def is_waiting(waits_for: IntArray) -> npt.NDArray[np.bool_]:
    """Which requests wait for another, shape (n,)."""
    waits: npt.NDArray[np.bool_] = np.any(waits_for >= 0, axis=1)
    return waits


def followers_of(waits_for: IntArray) -> dict[int, list[int]]:
    """Row -> the rows that wait for it, in their order."""
    followers: dict[int, list[int]] = {}
    for row, slot in zip(*np.nonzero(waits_for >= 0), strict=True):
        followers.setdefault(int(waits_for[row, slot]), []).append(int(row))
    return followers


def waits_after(waits_for: IntArray, think_s: FloatArray) -> FloatArray:
    """The least think time of those that wait for each row (s), NaN where nobody does, shape (n,)."""
    waits = np.full(len(waits_for), np.inf)
    rows, slots = np.nonzero(waits_for >= 0)
    np.minimum.at(waits, waits_for[rows, slots], think_s[rows])
    waits[np.isinf(waits)] = np.nan
    return waits


def cycle_in(parents: Sequence[Sequence[int]]) -> int | None:
    """A row that waits for itself in the end; None where there is none."""
    left = [len(rows) for rows in parents]
    ended = [row for row, count in enumerate(left) if not count]
    followers: dict[int, list[int]] = {}
    for row, rows in enumerate(parents):
        for parent in rows:
            followers.setdefault(parent, []).append(row)
    for row in ended:  # grows
        for follower in followers.get(row, ()):
            left[follower] -= 1
            if not left[follower]:
                ended.append(follower)
    if len(ended) == len(parents):
        return None
    row, seen = next(row for row, count in enumerate(left) if count), set[int]()
    while row not in seen:  # from one that waits for ever, back to the one that closes the circle
        seen.add(row)
        row = next(parent for parent in parents[row] if left[parent])
    return row


def in_causal_order(parents: Sequence[Sequence[int]]) -> list[int]:
    """The rows, each after all that it waits for, else as they come; no row waits for itself in the end."""
    order: list[int] = []
    placed = [False] * len(parents)
    for start in range(len(parents)):
        path = [start]
        while path:
            row = path[-1]
            missing = next((parent for parent in parents[row] if not placed[parent]), None)
            if missing is not None:
                path.append(missing)
                continue
            path.pop()
            if not placed[row]:
                placed[row] = True
                order.append(row)
    return order


def taken(waits_for: IntArray, think_s: FloatArray, rows: IntArray) -> tuple[IntArray, FloatArray]:
    """Both columns of these rows, in this order.

    Who waits for a row that is not among them waits for what that one waited for, both think times long.
    """
    n = len(waits_for)
    place = np.full(n + 1, NOBODY, dtype=np.int64)  # the last one is for NOBODY
    place[rows] = np.arange(len(rows))
    if not ((waits_for[rows] >= 0) & (place[waits_for[rows]] < 0)).any():
        return place[waits_for[rows]], think_s[rows]
    parents = [[int(p) for p in row if p >= 0] for row in waits_for]
    think = think_s.tolist()
    for row in in_causal_order(parents):
        gone = [parent for parent in parents[row] if place[parent] < 0]
        if gone:
            kept = [parent for parent in parents[row] if place[parent] >= 0]
            parents[row] = list(
                dict.fromkeys([*kept, *(each for parent in gone for each in parents[parent])])
            )
            think[row] += max(think[parent] for parent in gone)
            if not parents[row]:
                think[row] = 0.0
    chosen = [[int(place[parent]) for parent in parents[row]] for row in rows.tolist()]
    return padded(chosen), np.array([think[row] for row in rows.tolist()], dtype=np.float64)


def is_blank(session_id: object) -> bool:
    """Whether this names no session."""
    return session_id is None or session_id == ""


def first_rows(session_id: npt.NDArray[Any]) -> IntArray:
    """The first row of each request's session, shape (n,); one that is of no session is one of its own."""
    first: dict[Any, int] = {}
    rows = [
        row if is_blank(each) else first.setdefault(each, row) for row, each in enumerate(session_id.tolist())
    ]
    return np.array(rows, dtype=np.int64)


def numbered(session_id: npt.NDArray[Any]) -> IntArray:
    """Sessions by number, from 0 in order of appearance, shape (n,)."""
    numbers: IntArray = np.unique(first_rows(session_id), return_inverse=True)[1]
    return numbers


def session_of(waits_for: IntArray, session_id: npt.NDArray[Any] | None) -> IntArray:
    """The first row of each request's session, shape (n,); parents come before those that wait for them.

    Where sessions have no ids, one is all that hangs together.
    """
    n = len(waits_for)
    if session_id is not None:
        return first_rows(session_id)
    first = list(range(n))

    def find(row: int) -> int:
        while first[row] != row:
            first[row] = first[first[row]]
            row = first[row]
        return row

    for row, slot in zip(*np.nonzero(waits_for >= 0), strict=True):
        one, other = find(int(row)), find(int(waits_for[row, slot]))
        first[max(one, other)] = min(one, other)
    return np.array([find(row) for row in range(n)], dtype=np.int64)


def session_sizes(session_id: npt.NDArray[Any]) -> IntArray:
    """The number of requests of each session, in order of appearance."""
    return np.bincount(numbered(session_id))


def earliest_s(parents: Sequence[Sequence[int]], think_s: FloatArray, arrival_s: FloatArray) -> FloatArray:
    """Arrival times, shape (n,), of which NaN is filled in where a request waits for others: with the time
    at which it would come if these took none.
    """
    times = arrival_s.tolist()
    for row in in_causal_order(parents):
        if times[row] != times[row] and parents[row]:
            times[row] = max(times[parent] for parent in parents[row]) + float(think_s[row])
    return np.array(times, dtype=np.float64)


def refuse(
    waits_for: IntArray,
    think_s: FloatArray | None,
    session_id: npt.NDArray[Any] | None,
    refuse_row: Callable[[str, int, str], None],
) -> None:
    """Call `refuse_row(column, row, what)` for the first row that cannot wait as it says."""
    n = len(waits_for)
    rows = np.arange(n)[:, None]
    late = (waits_for >= rows) | (waits_for < NOBODY)
    if late.any():
        row = int(late.any(axis=1).argmax())
        parent = int(waits_for[row][late[row]][0])
        refuse_row("waits_for", row, f"row {parent + 1} does not come before it")
    if think_s is not None:
        bad = ~(np.isfinite(think_s) & (think_s >= 0))
        if bad.any():
            row = int(bad.argmax())
            refuse_row("think_s", row, f"{think_s[row]:g} is not at least 0 and finite")
    if session_id is not None:
        other = (waits_for >= 0) & (session_id[waits_for] != session_id[:, None])
        if other.any():
            row = int(other.any(axis=1).argmax())
            parent = int(waits_for[row][other[row]][0])
            what = f"row {parent + 1} is of session {session_id[parent]}, not of {session_id[row]}"
            refuse_row("waits_for", row, what)
        alone = is_waiting(waits_for) & np.array([is_blank(each) for each in session_id.tolist()], dtype=bool)
        if alone.any():
            refuse_row("session_id", int(alone.argmax()), "is blank, and the request waits for another")


def texts(waits_for: IntArray, ids: Iterable[Any]) -> npt.NDArray[np.object_]:
    """Who is waited for as a file has it, shape (n,): nothing, an id, or ids as a JSON list."""
    import json

    names = list(ids)
    cells = []
    for row in waits_for.tolist():
        parents = [names[parent] for parent in row if parent >= 0]
        is_plain = len(parents) == 1 and not str(parents[0]).lstrip().startswith("[")
        cells.append(str(parents[0]) if is_plain else json.dumps(parents) if parents else "")
    return np.array(cells, dtype=object)
