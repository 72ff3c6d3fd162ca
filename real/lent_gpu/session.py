"""Runs parts one after another in a process of their own, each under its time limit, and keeps what came out.

A part that fails, hangs or kills its process costs itself alone. Knows nothing of models.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from traces.errors import InputError
from traces.files import atomic_write

Status = Literal["done", "unfinished", "failed", "late", "died"]
LOAD = "load"
"""What a worker does before its first part."""
LOAD_S = 120.0
"""The most seconds that it may take."""
LEAST_S = 5.0
"""With fewer seconds left no part begins."""
CAUTION = 0.8
"""The share of its limit after which a part that can stop by itself does."""


class Part(NamedTuple):
    """A question to the machine, and the most seconds that its answer may take."""

    name: str
    limit_s: float


@dataclass(frozen=True)
class Outcome:
    """How a part ended. `result`: plain values; empty where it failed. `why`: of what it failed."""

    status: Status
    seconds: float
    result: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""

    @property
    def went_wrong(self) -> bool:
        """Whether another try may end no better."""
        return self.status not in ("done", "unfinished")


class State:
    """The outcomes so far, kept in a file that every call reads and goes on with.

    `about`: what the parts are asked of, which must be the same in every call (InputError).
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path, self.about = path, dict(about)
        self.outcomes: dict[str, Outcome] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            about = content["about"]
            outcomes = {name: Outcome(**outcome) for name, outcome in content["parts"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{self.path}: is no state of a session ({error})") from None
        if about != self.about:
            raise InputError(f"{self.path}: belongs to {about}, not to {self.about}; take another folder")
        self.outcomes = outcomes

    def note(self, name: str, outcome: Outcome) -> None:
        """Keep an outcome, in the file too."""
        self.outcomes[name] = outcome
        content = {"about": self.about, "parts": {n: asdict(o) for n, o in self.outcomes.items()}}
        with atomic_write(self.path) as file:
            file.write(json.dumps(content, indent=2, allow_nan=False) + "\n")

    def left(self, parts: Sequence[Part]) -> list[Part]:
        """The parts that are not done: in their order, but last those that went wrong before."""

        def went_wrong(part: Part) -> bool:
            outcome = self.outcomes.get(part.name)
            return outcome is not None and outcome.went_wrong

        waiting = [p for p in parts if p.name not in self.outcomes or self.outcomes[p.name].status != "done"]
        return sorted(waiting, key=went_wrong)


def run_parts(
    parts: Sequence[Part],
    state: State,
    work: Callable[..., None],
    options: Mapping[str, Any],
    *,
    max_seconds: float,
    on_outcome: Callable[[str, Outcome], None],
    method: str = "spawn",
) -> None:
    """Answer the parts that are left, until all have been tried once or `max_seconds` are over.

    `work(link, parts, options)` runs in a process started by `method`: it sends ("begin", name) and ("end",
    name, status, result, why) through the link, the first pair with the name `LOAD`. After a failure a new
    process goes on with the next part, for an error of the device may have spoilt the old one. Raises
    InputError where it cannot load.
    """
    deadline = time.monotonic() + max_seconds
    waiting = state.left(parts)
    while waiting and deadline - time.monotonic() > LEAST_S:
        tried = _one_process(waiting, state, work, options, deadline, on_outcome, method)
        if not tried:
            break  # there was no time for one
        waiting = [part for part in waiting if part.name not in tried]


def _one_process(
    waiting: Sequence[Part],
    state: State,
    work: Callable[..., None],
    options: Mapping[str, Any],
    deadline: float,
    on_outcome: Callable[[str, Outcome], None],
    method: str,
) -> set[str]:
    """Follow one process until it ends, or must; the names of the parts that it tried."""
    context: Any = multiprocessing.get_context(method)
    link, its_link = context.Pipe()
    process = context.Process(target=work, args=(its_link, list(waiting), dict(options)), daemon=True)
    process.start()
    its_link.close()
    limits = {LOAD: LOAD_S, **{part.name: part.limit_s for part in waiting}}
    tried: set[str] = set()
    try:
        while (name := _begun(link, deadline)) is not None:
            outcome = _outcome(link, limits[name], deadline)
            if name == LOAD:
                if outcome.status == "unfinished":
                    break
                if outcome.status != "done":
                    raise InputError(f"the model cannot be loaded: {outcome.why}")
                continue
            tried.add(name)
            state.note(name, outcome)
            on_outcome(name, outcome)
            if outcome.went_wrong or deadline - time.monotonic() < LEAST_S:
                break
        return tried
    finally:
        process.kill()
        process.join()
        link.close()


def _begun(link: Any, deadline: float) -> str | None:
    """The name of what the process begins next; None where it has ended, or the time is over."""
    try:
        if not link.poll(max(0.0, deadline - time.monotonic())):
            return None
        _, name = link.recv()
    except EOFError:
        return None
    return str(name)


def _outcome(link: Any, limit_s: float, deadline: float) -> Outcome:
    """How what has begun ends."""
    begin = time.monotonic()
    may_take = min(limit_s, deadline - begin)
    try:
        if not link.poll(max(0.0, may_take)):
            if may_take < limit_s:
                return Outcome("unfinished", may_take, why="the session's time was over")
            return Outcome("late", may_take, why=f"no answer after {limit_s:g} s")
        _, _, status, result, why = link.recv()
    except EOFError:
        return Outcome("died", time.monotonic() - begin, why="its process ended without a word")
    return Outcome(status, time.monotonic() - begin, result, why)
