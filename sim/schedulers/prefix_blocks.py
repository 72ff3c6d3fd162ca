"""Which blocks of KV memory hold the beginnings of which sequences, who holds them, and which are given up
first (vLLM's `BlockPool`).

Counts runs of blocks, never single ones. Knows nothing of iterations, budgets or clocks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

ENDLESS = 1 << 60
"""The bound of a key that an answer may prolong."""


class Path(NamedTuple):
    """The blocks of a sequence by the keys that they are found by: those up to `bounds[k]` that are behind
    those before by `keys[k]`.

    A key stands for its blocks and all before them. Two sequences may have different bounds for the same key:
    one of them then goes on differently in the midst of it.
    """

    keys: Sequence[int]
    bounds: Sequence[int]


class Run:
    """Blocks `first` to `end` that one sequence after the other added, each to what it held.

    `held`: how far its holders hold it -> how many; each holds it from `first` on, and `top` is how far the
    one does that holds most. What is behind `top` is free: `queued` has its parts in the queue, the last
    blocks first. `keys`: (key, block from which on it stands for the run's, block up to which it may), in
    order; those from `end` on are no longer true. A copy is one block, which another run has too.
    """

    __slots__ = ("end", "first", "held", "is_copy", "keys", "queued", "top")

    def __init__(self, first: int, is_copy: bool) -> None:
        self.first, self.is_copy = first, is_copy
        self.end = self.top = first
        self.held: dict[int, int] = {}
        self.keys: list[tuple[int, int, int]] = []
        self.queued: list[Part] = []


class Part:
    """Free blocks `low` to `high` of a run, the last of which is given up first; without a run, as many that
    nobody will ever look for.
    """

    __slots__ = ("high", "low", "run")

    def __init__(self, run: Run | None, low: int, high: int) -> None:
        self.run, self.low, self.high = run, low, high


Piece: TypeAlias = tuple[Run, int]
"""A sequence holds a run up to that block."""
Place: TypeAlias = tuple[Run, int]
"""A key stands for blocks of a run, up to that block at most."""


class PrefixBlocks:
    """The free blocks in the order in which they are taken, and all that memory still holds by key.

    A block is named by its number in its sequence. Blocks that are free keep their contents until they are
    taken. A block whose last token is not known has no hash, can never be found, and is taken before all
    others: `unhashed` of them are free.
    """

    def __init__(self, num_blocks: int) -> None:
        self.queue: deque[Part] = deque([Part(None, 0, num_blocks)])
        self.unhashed = 0
        self.places: dict[int, Place] = {}
        self.others: dict[int, list[Place]] = {}  # of keys with several places, all but the oldest, in order
        self.num_used_again = 0  # parts of the queue of which nothing is left, as all of it was found again
        self.num_evicted = 0  # blocks taken that had a hash

    # Take

    def take(self, blocks: int) -> None:
        """So many blocks leave the head of the queue, and what they hold is lost; below 0: some return."""
        if self.unhashed or blocks < 0:
            unhashed = min(self.unhashed, blocks)
            self.unhashed -= unhashed
            blocks -= unhashed
        queue = self.queue
        while blocks > 0:
            part = queue[0]
            here, run = part.high - part.low, part.run
            if here > blocks:
                part.high -= blocks
                if run is not None:
                    self.num_evicted += blocks
                    run.end = part.high
                return
            blocks -= here
            queue.popleft()
            if not here:
                self.num_used_again -= 1
            elif run is not None:
                self.num_evicted += here
                del run.queued[0]
                run.end = part.low
                if part.low == run.first:
                    self._drop_keys(run, 0)

    def _drop_keys(self, run: Run, number: int) -> None:
        """Nothing of the run's keys from that number on is in memory."""
        places, others = self.places, self.others
        for key, *_ in run.keys[number:]:
            place = places.get(key)
            if place is not None and place[0] is run:
                if key not in others:
                    del places[key]
                    continue
                places[key] = others[key].pop(0)
            elif key in others:
                others[key] = [other for other in others[key] if other[0] is not run]
            if key in others and not others[key]:
                del others[key]
        del run.keys[number:]

    # Find and hold

    def find(self, path: Path, most: int) -> list[Piece]:
        """The longest beginning of a sequence that is in memory, of at most so many blocks."""
        found: list[Piece] = []
        places, others, at = self.places, self.others, 0
        last: Run | None = None
        for key, bound in zip(path.keys, path.bounds, strict=True):
            place = places.get(key)
            if place is None:
                break
            stop = bound if bound < most else most
            for run, until in (place, *others[key]) if key in others else (place,):
                if run is not last and run.first != at:
                    continue
                if until > stop:
                    until = stop
                if until > run.end:
                    until = run.end
                if until > at:
                    if run is not last and last is not None:
                        found.append((last, at))
                    last, at = run, until
            if at < bound:
                break
        if last is not None:
            found.append((last, at))
        return found

    def hold(self, pieces: Sequence[Piece]) -> None:
        """One more sequence holds these; what nobody held leaves the queue."""
        for run, until in pieces:
            held = run.held
            held[until] = held.get(until, 0) + 1
            if until > run.top:
                queued = run.queued
                while queued:
                    part = queued[-1]
                    if part.high > until:
                        part.low = until
                        break
                    part.low = part.high
                    queued.pop()
                    self.num_used_again += 1
                run.top = until
        if self.num_used_again > 64 + len(self.queue) // 2:
            self.queue = deque(part for part in self.queue if part.low < part.high)
            self.num_used_again = 0

    # Add

    def add(self, path: Path, pieces: list[Piece], until: int) -> None:
        """A sequence that holds `pieces` computes more, up to block `until`, and holds that too."""
        run, at = pieces[-1] if pieces else (None, 0)
        while at < until:
            number = bisect_right(path.bounds, at)
            key = path.keys[number]
            if self._has(key, at, run):
                # Both of the same contents may be found, and are given up one by one.
                run = Run(at, is_copy=True)
                reach = at + 1
                self._put(run, path, number, at, reach)
            elif run is not None and self._goes_on(run, key, at):
                pieces.pop()
                _release(run, at)
                reach = self._fill(run, path, number, at, until)
            else:
                run = Run(at, is_copy=False)
                reach = self._fill(run, path, number, at, until)
            run.end = run.top = at = reach
            run.held[at] = 1
            pieces.append((run, at))

    def _has(self, key: int, at: int, last: Run | None) -> bool:
        """Whether block `at` of that key is in memory, of which a sequence holds all before in `last`."""
        place = self.places.get(key)
        if place is None:
            return False
        return any(
            (run is last or run.first == at) and at < min(until, run.end)
            for run, until in (place, *self.others.get(key, ()))
        )

    def _goes_on(self, run: Run, key: int, at: int) -> bool:
        """Whether block `at` of that key may be added to a run that is held up to there."""
        if run.is_copy or run.end != at:
            return False
        keys = run.keys
        number = len(keys)
        while number > 1 and keys[number - 1][1] >= at:
            number -= 1
        if number < len(keys):
            self._drop_keys(run, number)
        last, _, until = keys[-1]
        return until > at if last == key else until <= at

    def _fill(self, run: Run, path: Path, number: int, at: int, until: int) -> int:
        """Let the keys of the path from that number on stand for blocks of the run from `at` on; how far."""
        keys, bounds, places = path.keys, path.bounds, self.places
        if run.keys and run.keys[-1][0] == keys[number]:
            if run.keys[-1][2] != bounds[number]:
                return min(until, bounds[number], run.keys[-1][2])
        else:
            self._put(run, path, number, at, bounds[number])
        at = bounds[number]
        while at < until:
            number += 1
            key, bound = keys[number], bounds[number]
            if key in places:
                place = places[key]
                if place[0].end > at or key in self.others:
                    return at
            places[key] = (run, bound)
            run.keys.append((key, at, bound))
            at = bound
        return until

    def _put(self, run: Run, path: Path, number: int, at: int, until: int) -> None:
        """A key of the path stands for blocks of the run from `at` on too."""
        key, begins = path.keys[number], path.bounds[number - 1] if number else 0
        place = self.places.get(key)
        if place is None or (place[0].end <= begins and key not in self.others):
            self.places[key] = (run, until)
        else:
            self.others.setdefault(key, []).append((run, until))
        run.keys.append((key, at, until))

    # Free

    def release(self, pieces: Sequence[Piece]) -> int:
        """A sequence gives up what it holds; how many blocks nobody holds now. Its last block joins the tail
        of the queue first.
        """
        freed, queue = 0, self.queue
        for run, until in reversed(pieces):
            if _release(run, until) and until == run.top:
                run.top = top = max(run.held, default=run.first)
                part = Part(run, top, until)
                run.queued.append(part)
                queue.append(part)
                freed += until - top
        return freed

    def release_unknown(self, blocks: int) -> None:
        """So many blocks join the tail of the queue that nobody will ever look for."""
        if blocks:
            if self.queue and self.queue[-1].run is None:
                self.queue[-1].high += blocks
            else:
                self.queue.append(Part(None, 0, blocks))

    def forget(self, key: int) -> None:
        """Nobody will ever look for this key again."""
        self.places.pop(key, None)
        self.others.pop(key, None)


def _release(run: Run, until: int) -> bool:
    """One holder of so much of the run fewer; whether there is no other."""
    count = run.held[until]
    if count > 1:
        run.held[until] = count - 1
        return False
    del run.held[until]
    return True
