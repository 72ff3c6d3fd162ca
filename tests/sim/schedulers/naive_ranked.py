"""A naive reference of preemption by rank: everything is counted anew in each iteration; for tests.

Prompts are computed at once, an iteration takes a second, and what leaves the memory is computed anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.sim.schedulers.naive_world import PAGE, Event, Run


def pages(tokens: int) -> int:
    return math.ceil(tokens / PAGE)


@dataclass(eq=False)
class Job:
    """A request; `lengths`: what is known of its length, sorted. `held`: tokens in memory."""

    id: int
    arrival: int
    prompt: int
    output: int
    predicted: int
    lengths: list[int]
    generated: int = 0
    held: int = 0
    since: int = 0
    """The iteration since which it waits."""
    guard: tuple[float, int] | None = None
    """Its rank after it has starved, and the tokens up to which it has that."""
    slos: tuple[float | None, float | None, float | None] = (None, None, None)
    """Its bounds on TTFT, TPOT and E2EL, in iterations."""


Rank = Callable[[Job], float]


def gittins(job: Job) -> float:
    """The least expected work per answer that ends, over every time to stop."""
    left = [length for length in job.lengths if length > job.generated]
    if not left:
        return job.generated
    best = math.inf
    for stop in range(1, max(left) - job.generated + 1):
        ends = sum(length - job.generated <= stop for length in left)
        if ends:
            best = min(best, sum(min(length - job.generated, stop) for length in left) / ends)
    return best


def tie(job: Job) -> float:
    """The mean, and the mean of the longest tenth."""
    tenth = job.lengths[-max(1, round(len(job.lengths) / 10)) :]
    return sum(job.lengths) / len(job.lengths) + sum(tenth) / len(tenth)


def lower_bound(job: Job) -> float:
    """The shortest tenth's longest, or what it has."""
    return max(job.lengths[max(0, math.ceil(0.1 * len(job.lengths)) - 1)], job.generated)


def mlfq(job: Job, quantum: int = 4, weight: float = 0.01) -> float:
    """The level: joined by the prompt, then left with every quantum that is used up."""
    level, share = 0, quantum
    while share < weight * job.prompt:
        level, share = level + 1, share * 2
    used = job.generated
    while used >= share:
        used -= share
        level, share = level + 1, share * 2
    return level


def memory_time(job: Job) -> float:
    """The tokens it holds in each of the iterations that are left, one by one."""
    rest = max(1, job.predicted - job.generated)
    return sum(job.prompt + job.generated + k for k in range(1, rest + 1))


def dues(job: Job) -> list[tuple[float, int]]:
    """When tokens are due, by number from 1: the next one's and the last one's, of those that are."""
    ttft, tpot, e2el = job.slos
    due = list[tuple[float, int]]()
    if ttft is not None and tpot is not None:
        due.append((job.arrival + ttft + tpot * job.generated, job.generated + 1))
    elif ttft is not None and job.generated == 0:
        due.append((job.arrival + ttft, 1))
    if e2el is not None:
        due.append((job.arrival + e2el, max(job.predicted, job.generated + 1)))
    return due


def deadline(job: Job) -> float:
    """The earliest of them."""
    return min((time for time, _ in dues(job)), default=math.inf)


def least_laxity(job: Job) -> float:
    """When to begin at the latest, each token taking an iteration."""
    return min((time - (token - job.generated) for time, token in dues(job)), default=math.inf)


RANKS: dict[str, Rank] = {
    "memory-time": memory_time,
    "deadline": deadline,
    "least-laxity": least_laxity,
    "shortest-remaining": lambda job: abs(job.predicted - job.generated),
    "shortest-predicted": lambda job: job.predicted,
    "ltr": lambda job: job.predicted,
    "shortest-prompt": lambda job: job.prompt,
    "gittins": gittins,
    "tie": tie,
    "lower-bound": lower_bound,
    "mlfq": mlfq,
}


@dataclass
class World:
    """Jobs and what serves them; `run` says who left and who entered in which iteration."""

    jobs: Sequence[Job]
    pages: int
    places: int
    rank: Rank
    until: float
    starve_after: int
    quantum: int
    waiting: list[Job] = field(default_factory=list)
    running: list[Job] = field(default_factory=list)
    iteration: int = 0
    now: int = 0

    def key(self, job: Job) -> tuple[float, int]:
        if job.guard is not None and job.generated >= job.guard[1]:
            job.guard = None
        return (self.rank(job) if job.guard is None else job.guard[0]), job.id

    def spare(self, running: Sequence[Job]) -> int:
        """Pages left when each of these has got its next token."""
        return self.pages - sum(pages(job.held + 1) for job in running)

    def may_leave(self, job: Job) -> bool:
        return job.guard is None and (self.until >= 1 or job.generated < self.until * job.predicted)

    def leave(self, job: Job) -> None:
        self.running.remove(job)
        job.held, job.since = 0, self.iteration
        self.waiting.append(job)

    def make_way(self) -> list[Job]:
        for job in self.waiting:
            if self.starve_after and self.iteration - job.since >= self.starve_after and job.guard is None:
                job.guard = (-1e15 + job.since, job.generated + self.quantum)
        stay, entering, left = list(self.running), list[Job](), list[Job]()
        keys = {job: self.key(job) for job in (*self.running, *self.waiting)}
        for job in sorted(self.waiting, key=keys.__getitem__):
            trial, going = list(stay), list[Job]()

            def fits(trial: list[Job], job: Job = job) -> bool:
                taken = sum(pages(j.prompt + j.generated) for j in (*entering, job))
                return len(trial) + len(entering) < self.places and self.spare(trial) >= taken

            while not fits(trial):
                behind = [j for j in trial if self.may_leave(j) and keys[j][0] > keys[job][0]]
                if not behind:
                    break
                going.append(max(behind, key=keys.__getitem__))
                trial.remove(going[-1])
            if not fits(trial):
                break
            stay, left = trial, left + going
            entering.append(job)
        for job in left:
            self.leave(job)
        return left

    def make_room(self) -> tuple[list[Job], list[Job]]:
        """Who leaves for lack of memory, and who gets no token: as they entered, each takes its page, and the
        last in rank leaves until there is one.
        """
        left, out, given = list(self.running), list[Job](), list[Job]()
        keys = {job: self.key(job) for job in left}
        for job in list(left):
            if job in out:
                continue
            while self.spare(given) - sum(pages(j.held) for j in left if j not in given) < (
                pages(job.held + 1) - pages(job.held)
            ):
                last = max(left, key=keys.__getitem__)
                left.remove(last)
                out.append(last)
                if last in given:
                    given.remove(last)
                if last is job:
                    break
            if job in out:
                break
            given.append(job)
        for job in out:
            self.leave(job)
        return out, [job for job in left if job not in given]

    def enter(self) -> list[Job]:
        """Who gets in, by rank, until one finds no place or no memory."""
        entered, spare = list[Job](), self.spare(self.running)
        for job in sorted(self.waiting, key=self.key):
            spare -= pages(job.prompt + job.generated)
            if len(self.running) + len(entered) >= self.places or spare < 0:
                break
            entered.append(job)
        return entered

    def iterate(self) -> tuple[Event, list[Job]]:
        """One iteration: what was decided, and who has ended with it."""
        left = self.make_way() if self.waiting else []
        paused, is_short = list[Job](), False
        while self.spare(self.running) < 0 and not is_short:
            out, paused = self.make_room()
            left += out
            is_short = len(paused) < len(self.running)  # else there is no such iteration
        entered = [] if is_short else self.enter()
        chunks = [(job.id, job.prompt + job.generated, True) for job in entered]
        event = Event(self.iteration, [job.id for job in left], chunks)
        for job in self.running:
            if not (is_short and job in paused):
                job.held, job.generated = job.held + 1, job.generated + 1
        for job in entered:
            self.waiting.remove(job)
            self.running.append(job)
            job.held, job.generated = job.prompt + job.generated, job.generated + 1
        ended = [job for job in self.running if job.generated == job.output]
        for job in ended:
            self.running.remove(job)
        self.iteration += 1
        return event, ended

    def run(self) -> Run:
        """All that happens until the last has ended."""
        run, coming = Run(), sorted(self.jobs, key=lambda job: (job.arrival, job.id))
        while coming or self.waiting or self.running:
            while coming and coming[0].arrival <= self.now:
                coming[0].since = self.iteration
                self.waiting.append(coming.pop(0))
            if not (self.waiting or self.running):
                self.now = coming[0].arrival
                continue
            event, ended = self.iterate()
            run.note(event)
            self.now += 1
            run.finished |= {job.id: self.now for job in ended}
        return run
