"""TensorRT-LLM's scheduling rules step by step, for tests: an iteration at a time, every sum made anew.

Shares nothing with the scheduler that it judges. All requests stand in one list, in the order in which they
came; each iteration first says which of them memory allows, then how many tokens each of those computes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.sim.schedulers.naive_world import Event, Job, Run


@dataclass
class Rules:
    """One accelerator under these rules."""

    jobs: list[Job]
    pages: int
    page: int
    max_batch: int
    max_tokens: int
    chunked: bool
    no_evict: bool
    wait_iters: int
    wait_ratio: float
    active: list[Job] = field(default_factory=list)
    waited: int = 0

    def run(self) -> Run:
        """Until all have ended."""
        log, coming = Run(), sorted(self.jobs, key=lambda job: (job.arrival, job.id))
        now = iteration = 0
        while coming or self.active:
            while coming and coming[0].arrival <= now:
                self.active.append(coming.pop(0))
            if not self.active:
                now = coming[0].arrival
                continue
            paused = [] if self.no_evict else self.pause()
            decoding = [job for job in self.active if job.is_filled]
            context = self.context(decoding)
            if paused:
                context = [job for job in context if job.filled]
            chunks = self.wait(decoding, self.sizes(context, len(decoding)))
            log.note(
                Event(
                    iteration,
                    [job.id for job in paused],
                    [(job.id, n, job.filled + n == job.length) for job, n in chunks],
                )
            )
            for job in decoding:
                job.generated += 1
            for job, tokens in chunks:
                job.fill(tokens)
            now, iteration = now + 1, iteration + 1
            assert sum(self.used(job) for job in self.active) <= self.pages
            log.finish(self.jobs, now)
            self.active = [job for job in self.active if not job.is_done]
        return log

    def used(self, job: Job) -> int:
        """Pages that a request holds."""
        return -(-job.held // self.page)

    def context(self, decoding: list[Job]) -> list[Job]:
        """Those whose prompts may be computed: what memory and places allow, in order."""
        allowed: list[Job] = []
        started = [job for job in self.active if job.filled]
        if self.no_evict:
            taken = sum(-(-(job.prompt + job.cap) // self.page) for job in started)
        else:
            taken = sum(map(self.used, started)) + sum(job.held % self.page == 0 for job in decoding)
            for job, tokens in self.sizes([j for j in started if not j.is_filled], len(decoding)):
                taken += -(-(job.filled + tokens) // self.page) - self.used(job)
        places = self.max_batch - len(started)
        for job in self.active:
            if job.is_filled:
                continue
            if not job.filled:
                tokens = job.prompt + (job.cap if self.no_evict else job.generated)
                taken += -(-tokens // self.page)
                if taken > self.pages or not places:
                    break
                places -= 1
            allowed.append(job)
        return allowed

    def sizes(self, context: list[Job], decoding: int) -> list[tuple[Job, int]]:
        """First come, first served: whole prompts, or else whole pages of them."""
        left, chunks = self.max_tokens - decoding, []
        for job in context:
            tokens = job.length - job.filled
            if tokens > left:
                if not self.chunked:
                    break
                tokens = max(0, left) // self.page * self.page
            if tokens:
                chunks.append((job, tokens))
            left -= tokens
        return chunks

    def wait(self, decoding: list[Job], chunks: list[tuple[Job, int]]) -> list[tuple[Job, int]]:
        """The chunks, or none where they are held back."""
        if not (chunks and decoding) or not (self.wait_iters > 0 and self.wait_ratio > 0):
            return chunks
        tokens = len(decoding) + sum(n for _, n in chunks)
        if self.waited >= self.wait_iters or tokens >= self.wait_ratio * self.max_tokens:
            self.waited = 0
            return chunks
        self.waited += 1
        return []

    def pause(self) -> list[Job]:
        """Take those that came last out of memory until the others can go on."""
        paused: list[Job] = []
        while True:
            started = [job for job in self.active if job.filled]
            decoding = [job for job in started if job.is_filled]
            need = sum(map(self.used, started)) + sum(job.held % self.page == 0 for job in decoding)
            for job, tokens in self.sizes([j for j in started if not j.is_filled], len(decoding)):
                need += -(-(job.filled + tokens) // self.page) - self.used(job)
            if need <= self.pages:
                return paused
            last = started[-1]
            last.filled = 0
            paused.append(last)
