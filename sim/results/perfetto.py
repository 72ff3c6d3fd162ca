"""A run as a timeline for ui.perfetto.dev: writes the Chrome trace event format; knows nothing of schedulers.

Replicas are processes. A Work is one slice however many iterations it ran (a leap stays a leap). Counters say
how many requests waited meanwhile and how much of the KV cache it came to hold. A file is bounded: where
there is too much, neighbours on a track become one slice.
Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil, inf
from pathlib import Path
from typing import IO, Any, NamedTuple

from traces.errors import InputError
from traces.files import atomic_write

from ..work import Fetch
from .batch_record import BatchRecord

MAX_EVENTS = 200_000
"""Most events in a file: some 40 MB, which a browser still opens."""

EVENTS_PER_SLICE = 4
"""A slice, the two counters where it begins, and the KV cache falling empty where nothing follows."""
EVENTS_PER_FETCH = 2
"""Its begin and its end."""
EVENTS_PER_REPLICA = 2
"""Its name, and that of its thread."""

Event = dict[str, Any]


class Export(NamedTuple):
    """What a timeline holds: `merged` Works share a slice, `omitted_replicas` have no track,
    `omitted_fetches` no span.
    """

    events: int
    works: int
    merged: int = 1
    omitted_replicas: int = 0
    omitted_fetches: int = 0

    def left_out(self) -> str:
        """What a reader does not see, in one sentence; empty where all is there."""
        parts = []
        if self.merged > 1:
            parts.append(f"up to {self.merged:,} neighbouring works of a replica share a slice")
        if self.omitted_replicas:
            parts.append(f"the last {self.omitted_replicas:,} replicas are left out")
        if self.omitted_fetches:
            parts.append(f"the last {self.omitted_fetches:,} fetches from slower memory are left out")
        return " and ".join(parts)


def parse_window(text: str) -> tuple[float, float]:
    """Seconds `START:END` of the simulated clock; either may be left out. InputError where nothing lies
    between.
    """
    low, colon, high = text.partition(":")
    try:
        window = (float(low) if low else 0.0, float(high) if high else inf)
    except ValueError:
        window = (inf, 0.0)
    if not colon or not 0 <= window[0] < window[1]:
        raise InputError(f"perfetto-window: {text!r} is not START:END in seconds, with START before END")
    return window


def write(
    batches: Sequence[BatchRecord],
    path: str | Path,
    *,
    window_s: tuple[float, float] = (0.0, inf),
    max_events: int = MAX_EVENTS,
    about: dict[str, Any] | None = None,
    fetches: Sequence[tuple[int, Fetch]] = (),
) -> Export:
    """Write what of `batches` and `fetches` (a `Result`'s, of a run with `log=True`) lies in the window.

    A name that ends in `.gz` is compressed. `about` goes into the file's metadata. Events are written as they
    are made; never more than `max_events`. Slices that reach beyond the window are cut at it. Raises
    InputError where the file cannot be written.
    """
    if max_events < EVENTS_PER_REPLICA + EVENTS_PER_SLICE:
        raise ValueError(
            f"max_events ({max_events}) must be at least {EVENTS_PER_REPLICA + EVENTS_PER_SLICE}"
        )
    counts = Counter(b.replica for b in batches if _overlaps(b, window_s))
    merge, kept = _plan(counts, max_events)
    works = sum(counts[r] for r in kept)
    chosen = (b for b in batches if _overlaps(b, window_s) and b.replica in kept)
    plan = Export(0, works, merge, len(counts) - len(kept))
    low, high = window_s
    metadata = {
        **(about or {}),
        "window_s": [low, None if high == inf else high],
        "works": works,
        "works_per_slice": merge,
        "left_out": plan.left_out(),
    }
    with _open(path) as file:
        file.write(f'{{"displayTimeUnit":"ms","otherData":{json.dumps(metadata)},"traceEvents":[')
        num_events = 0
        for event in events(chosen, sorted(kept), merge=merge, window_s=window_s):
            file.write(",\n" if num_events else "\n")
            file.write(json.dumps(event, separators=(",", ":"), allow_nan=False))
            num_events += 1
        shown = [(r, f) for r, f in fetches if r in kept and f.since_s < high and f.there_s > low]
        fitting = shown[: (max_events - num_events) // EVENTS_PER_FETCH]
        for event in fetch_events(fitting, window_s):
            file.write(",\n" if num_events else "\n")
            file.write(json.dumps(event, separators=(",", ":"), allow_nan=False))
            num_events += 1
        file.write("\n]}\n")
    return plan._replace(events=num_events, omitted_fetches=len(shown) - len(fitting))


def fetch_events(
    fetches: Iterable[tuple[int, Fetch]], window_s: tuple[float, float] = (0.0, inf)
) -> Iterator[Event]:
    """A span per fetch from slower memory, from when its request waits until its blocks are there; those of a
    replica may overlap.
    """
    for number, (replica, fetch) in enumerate(fetches):
        start_s, end_s = max(fetch.since_s, window_s[0]), min(fetch.there_s, window_s[1])
        where: Event = {"name": "fetch", "cat": "fetch", "id": number, "pid": replica + 1, "tid": replica + 1}
        args = {"request": fetch.request_id, "cpu_tokens": fetch.cpu_tokens, "disk_tokens": fetch.disk_tokens}
        yield {**where, "ph": "b", "ts": _nanoseconds(start_s) / 1000, "args": args}
        yield {**where, "ph": "e", "ts": _nanoseconds(end_s) / 1000}


def events(
    batches: Iterable[BatchRecord],
    replicas: Iterable[int],
    *,
    merge: int = 1,
    window_s: tuple[float, float] = (0.0, inf),
) -> Iterator[Event]:
    """The events of these Works, one after the other: names, then slices and counters track by track in time.

    `batches` are in the order in which they ended; `merge` neighbours of a replica become one slice.
    """
    for replica in replicas:
        yield _named(replica, "process_name", f"replica {replica}")
        yield _named(replica, "thread_name", "works")
    groups: dict[int, list[BatchRecord]] = {}
    ended_s: dict[int, float] = {}
    for batch in batches:
        group = groups.setdefault(batch.replica, [])
        group.append(batch)
        if len(group) == merge:
            yield from _group_events(group, window_s, ended_s)
            group.clear()
    for group in groups.values():
        if group:
            yield from _group_events(group, window_s, ended_s)
    for replica, end_s in ended_s.items():
        if end_s < window_s[1]:
            yield _counter(replica, end_s, "KV tokens in use", 0)


def _group_events(
    group: Sequence[BatchRecord], window_s: tuple[float, float], ended_s: dict[int, float]
) -> Iterator[Event]:
    """The slice of some neighbours, and the counters where it begins."""
    replica = group[0].replica
    start_s, end_s = max(group[0].start_s, window_s[0]), min(group[-1].end_s, window_s[1])
    if ended_s.get(replica, start_s) < start_s:
        yield _counter(replica, ended_s[replica], "KV tokens in use", 0)
    ts, end = _nanoseconds(start_s), _nanoseconds(end_s)
    name, args = _one(group[0]) if len(group) == 1 else _several(group)
    if start_s > group[0].start_s or end_s < group[-1].end_s:
        args |= {"cut_from_s": [group[0].start_s, group[-1].end_s]}
    where: Event = {"name": name, "cat": group[0].kind, "pid": replica + 1, "tid": replica + 1}
    if end > ts:
        yield {**where, "ph": "X", "ts": ts / 1000, "dur": (end - ts) / 1000, "args": args}
    else:
        yield {**where, "ph": "i", "s": "t", "ts": ts / 1000, "args": args}
    yield _counter(replica, start_s, "requests waiting", max(b.num_waiting for b in group))
    if end > ts:
        yield _counter(replica, start_s, "KV tokens in use", max(b.kv_tokens for b in group))
        ended_s[replica] = end_s


def _one(batch: BatchRecord) -> tuple[str, Event]:
    """Name and arguments of the slice of one Work."""
    rows, iterations = len(batch.request_ids), batch.iterations
    args: Event = {"requests": rows, "iterations": iterations, "limit": batch.limit}
    if batch.is_chunked:
        tokens = sum(num_tokens for num_tokens, _ in batch.chunks)
        args |= {"prefill_tokens": tokens, "evictions": len(batch.evicted), "kv_tokens": batch.kv_tokens}
        if batch.found_tokens:
            args |= {"found_tokens": batch.found_tokens}
        head = f"prefill {tokens} tokens of {len(batch.chunks)}" if batch.chunks else "decode"
        name = f"{head}, {iterations} iteration{'s' if iterations > 1 else ''}"
        return f"{name}, {len(batch.evicted)} evicted" if batch.evicted else name, args
    if batch.is_padded:
        args |= {
            "prompt_tokens": batch.prompt_tokens,
            "prefill_ms": 1e3 * (batch.prefill_end_s - batch.start_s),
            "kv_tokens": batch.kv_tokens,
        }
        return f"{batch.label} {rows} × {iterations} tokens", args
    return f"{batch.label} {rows}", args


def _several(group: Sequence[BatchRecord]) -> tuple[str, Event]:
    """Name and arguments of the slice of many Works: sums over them."""
    busy_s, span_s = sum(b.end_s - b.start_s for b in group), group[-1].end_s - group[0].start_s
    iterations = sum(b.iterations for b in group)
    args = {
        "works": len(group),
        "requests": sum(len(b.request_ids) for b in group),
        "iterations": iterations,
        "prefill_tokens": sum(tokens for b in group for tokens, _ in b.chunks),
        "found_tokens": sum(b.found_tokens for b in group),
        "evictions": sum(len(b.evicted) for b in group),
        "kv_tokens": max(b.kv_tokens for b in group),
        "busy_fraction": busy_s / span_s if span_s else 1.0,
    }
    return f"{len(group)} works, {iterations} iterations", args


def _plan(counts: Counter[int], max_events: int) -> tuple[int, set[int]]:
    """How many Works share a slice, and which replicas get a track, so that the events stay within bound."""
    most = max_events // (EVENTS_PER_REPLICA + EVENTS_PER_SLICE + 1)
    kept = sorted(counts)[: max(1, most)]
    room = (max_events - (EVENTS_PER_REPLICA + 1) * len(kept)) // EVENTS_PER_SLICE
    low, high = 1, max((counts[r] for r in kept), default=1)
    while low < high:
        middle = (low + high) // 2
        if sum(ceil(counts[r] / middle) for r in kept) <= room:
            high = middle
        else:
            low = middle + 1
    return low, set(kept)


def _overlaps(batch: BatchRecord, window_s: tuple[float, float]) -> bool:
    """Whether some of it lies in the window; what takes no time counts from its start up to its end."""
    if batch.end_s > batch.start_s:
        return batch.start_s < window_s[1] and batch.end_s > window_s[0]
    return window_s[0] <= batch.start_s < window_s[1]


def _named(replica: int, what: str, name: str) -> Event:
    return {"name": what, "ph": "M", "pid": replica + 1, "tid": replica + 1, "args": {"name": name}}


def _counter(replica: int, at_s: float, name: str, value: int) -> Event:
    ts = _nanoseconds(at_s) / 1000
    return {"name": name, "ph": "C", "pid": replica + 1, "ts": ts, "args": {"value": value}}


def _nanoseconds(seconds: float) -> int:
    """Whole nanoseconds, so that a slice ends exactly where the next begins."""
    return round(seconds * 1e9)


@contextmanager
def _open(path: str | Path) -> Iterator[IO[str]]:
    """The file to be, compressed by its name; the same content gives the same bytes."""
    if not str(path).endswith(".gz"):
        with atomic_write(path) as file:
            yield file
        return
    with (
        atomic_write(path, mode="wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0, compresslevel=6) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text,
    ):
        yield text
