"""SGLang's scheduling rules step by step, for tests: one iteration after the other, and every sum made anew.

Shares nothing with the scheduler that it judges. Requests are listed as SGLang keeps them: a waiting queue, a
running batch in which those that have finished stay until it decodes again, and the batch that ran last.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.sim.schedulers.naive_world import Event, Job, Run


@dataclass
class Batch:
    """A prefill batch that is being put together, and what it may still take."""

    page: int
    memory: float
    pages: int
    left: int
    chunk: int
    chunks: list[tuple[Job, int]] = field(default_factory=list)

    def take(self, job: Job, tokens: int, is_last: bool) -> None:
        """Add a chunk; the last one of a prompt counts with all that the answer may need."""
        whole = -(-tokens // self.page) * self.page
        self.memory -= whole + self.page + (min(job.cap, 4096) if is_last else 0)
        self.left, self.chunk = self.left - whole, self.chunk - whole
        self.pages -= whole // self.page
        self.chunks.append((job, tokens))


@dataclass
class Rules:
    """One accelerator under these rules."""

    jobs: list[Job]
    pages: int
    page: int
    max_running: int
    chunk_size: int | None
    max_prefill: int
    conservativeness: float
    mixed: bool
    waiting: list[Job] = field(default_factory=list)
    running: list[Job] = field(default_factory=list)
    last: list[Job] = field(default_factory=list)
    """The prefill batch that ran last, not yet among those that run."""
    chunked: Job | None = None
    full: bool = False
    falls: int = 0
    ratio: float = 0.0

    def __post_init__(self) -> None:
        self.start = min(1.0, 0.7 * self.conservativeness)
        self.ratio = self.start

    def run(self) -> Run:
        """Until all have ended."""
        log, coming = Run(), sorted(self.jobs, key=lambda job: (job.arrival, job.id))
        now = iteration = 0
        while coming or self.waiting or any(not job.is_done for job in (*self.running, *self.last)):
            while coming and coming[0].arrival <= now:
                self.waiting.append(coming.pop(0))
            retracted: list[Job] = []
            chunks = self.next_batch(retracted)
            if chunks is None:
                if not self.waiting:
                    self.falls, self.ratio = 0, self.start
                    now = max(now, coming[0].arrival)
                continue
            log.note(Event(iteration, [j.id for j in retracted], [(j.id, n, j.is_filled) for j, n in chunks]))
            now, iteration = now + 1, iteration + 1
            self.held_pages()
            log.finish(self.jobs, now)
        return log

    def next_batch(self, retracted: list[Job]) -> list[tuple[Job, int]] | None:
        """The chunks of the next iteration, run at once; None where there is none."""
        self.merge()
        is_mixed = self.mixed and any(not job.is_done for job in self.running)
        if is_mixed:
            self.retract(retracted)
        chunks = [] if retracted else self.prefill(is_mixed)
        if chunks:
            self.last = [job for job, _ in chunks]
            for job, tokens in chunks:
                job.fill(tokens)
            if is_mixed:
                decoding = [job for job in self.running if not job.is_done]
                for job in decoding:
                    job.generated += 1
                self.last, self.running = self.last + decoding, []
            return chunks
        return self.decode(retracted)

    def merge(self) -> None:
        """Those whose prompts are complete run."""
        merged = [job for job in self.last if job is not self.chunked and not job.is_done]
        if len(merged) < len(self.last):
            self.full = False
        self.running += merged
        self.last = []

    def decode(self, retracted: list[Job]) -> list[tuple[Job, int]] | None:
        """Give all that run a token; where nobody does any more, try the queue again."""
        before = len(self.running)
        self.running = [job for job in self.running if not job.is_done]
        if not self.running:
            self.full = False
            again = self.prefill(False) if before else []
            for job, tokens in again:
                job.fill(tokens)
            self.last = [job for job, _ in again]
            return again or None
        if retracted or self.retract(retracted):
            self.full = False
        else:
            self.falls += 1
        if len(self.running) < before:
            self.full = False
        for job in self.running:
            job.generated += 1
        return []

    def used_pages(self) -> int:
        """Pages in use."""
        return sum(-(-job.held // self.page) for job in self.jobs if not job.is_done)

    def held_pages(self) -> None:
        """Memory is never exceeded."""
        assert self.used_pages() <= self.pages

    def new_pages(self) -> int:
        """Pages that all who decode take next."""
        return sum(job.held % self.page == 0 for job in self.running if not job.is_done)

    def share(self) -> float:
        """`new_token_ratio`."""
        if not self.falls:
            return self.ratio
        least = min(1.0, self.start * 0.14)
        return max(self.ratio - (self.start - least) / 600 * self.falls, least)

    def retract(self, retracted: list[Job]) -> bool:
        """Free memory for the next token of all; whether that was necessary."""
        if self.used_pages() + self.new_pages() <= self.pages:
            return False
        order = [job for job in self.running if not job.is_done]
        order.sort(key=lambda job: (job.generated, -job.prompt), reverse=True)
        self.running = order
        while self.used_pages() + self.new_pages() > self.pages:
            if len(self.running) > 1:
                job = self.running.pop()
            else:
                assert self.chunked is not None
                job, self.chunked = self.chunked, None
            job.filled = 0
            retracted.append(job)
            self.waiting.append(job)
        decoded = sum(job.generated + 20 for job in self.running)
        self.ratio = min(1.0, decoded / (sum(job.cap for job in self.running) + 1))
        self.falls = 0
        self.full = False
        return True

    def prefill(self, is_mixed: bool) -> list[tuple[Job, int]]:
        """The next prefill batch, put together but not run."""
        if self.chunked is None and (self.full or not self.waiting):
            return []
        places = self.max_running - len(self.running)
        if self.chunked is None and places <= 0:
            self.full = True
            return []
        beside = sum(not job.is_done for job in self.running) if is_mixed else 0
        free = (self.pages - self.used_pages()) * self.page
        expected = sum(min(max(0, job.cap - job.generated), 4096) for job in self.running)
        memory = free - beside - self.share() * expected
        pages = free // self.page - (self.new_pages() if is_mixed else 0)
        left = self.max_prefill - beside
        chunk = (10**12 if self.chunk_size is None else self.chunk_size) - beside
        batch = Batch(self.page, memory, pages, left, chunk)
        if self.chunked is not None:
            job = self.chunked
            rest = job.length - job.filled
            tokens = min(rest, chunk, pages * self.page + -job.filled % self.page)
            if tokens < rest:
                tokens = max(0, tokens) // self.page * self.page
            if tokens <= 0:
                return []
            batch.take(job, tokens, tokens == rest)
            if tokens == rest:
                self.chunked = None
        for job in list(self.waiting):
            self.full = self.full or len(batch.chunks) >= places
            if self.full or not self.add(job, batch):
                break
        return batch.chunks

    def add(self, job: Job, batch: Batch) -> bool:
        """Add the queue's next to a batch where that can be; whether to try the one behind it."""
        is_alone = not batch.chunks and all(job.is_done for job in self.running)
        yet = min(max(0, job.cap - job.generated), 4096)
        whole = -(-job.length // self.page) * self.page
        if job.length + yet + self.page >= batch.memory and not is_alone:
            self.full = True
            return False
        if self.chunk_size is None and batch.chunks and whole >= batch.left:
            return False
        tokens = job.length if whole <= batch.chunk else max(0, batch.chunk) // self.page * self.page
        if tokens == 0:
            return False
        if -(-tokens // self.page) > batch.pages:
            self.full = True
            return False
        self.waiting.remove(job)
        batch.take(job, tokens, tokens == job.length)
        if tokens < job.length:
            self.chunked = job
        self.full = batch.memory <= 0 or batch.pages <= 0
        return not self.full and batch.left > 0 and batch.chunk > 0
