"""What a router takes to go on at a replica, and how long a request would wait and decode there.

Known are what was sent there and when, how long answers are predicted to be, who has ended, and what an
iteration costs. First tokens are not heard: when they come is predicted, too. Reckons as continuous batching
goes, prompts first come, first served. Knows nothing of SimPy or schedulers.
"""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import NamedTuple

from .routing import Machine


class Job(NamedTuple):
    """A request at a replica, in tokens: its prompt, how much of that is to be computed, its answer as
    predicted.
    """

    prompt: int
    uncached: int
    answer: int


class Latency(NamedTuple):
    """What a request is predicted to meet: seconds from now to its first token, and per token after it."""

    ttft_s: float
    tpot_s: float


class Outlook:
    """The requests of one replica: who waits for a first token, by prediction, and who decodes.

    Prompts that come before an iteration begins are computed in it together; the next such batch begins when
    the one before has ended. All of it costs O(1) a question and, on average, a request.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.jobs: dict[int, Job] = {}
        # Of those that wait for their first token, by the time at which it is expected; ids that have ended
        # since are no longer among the jobs.
        self.waiting: deque[tuple[float, int]] = deque()
        self.prompts = self.uncached = self.answers = 0
        self.answers_begun = 0  # of those that decode
        self.begun: set[int] = set()
        # Of all that were sent since it idled: those that are there are longer than all are on average.
        self.num_sent = self.answers_sent = 0
        # The last batch of prompts: when it begins and ends, its prompts, tokens and attention.
        self.opens_s = self.closes_s = 0.0
        self.batch = (0, 0, 0.0)

    def __len__(self) -> int:
        return len(self.jobs)

    def expected(self, job: Job, now: float) -> Latency:
        """What a request would meet that is sent there now."""
        ttft_s, tpot_s, *_ = self._reckon(job, now)
        return Latency(ttft_s, tpot_s)

    def add(self, id: int, job: Job, now: float) -> None:
        """It is sent there."""
        ttft_s, _, self.opens_s, self.batch = self._reckon(job, now)
        self.closes_s = max(self.closes_s, now + ttft_s)
        self.jobs[id] = job
        self.prompts += job.prompt
        self.uncached += job.uncached
        self.answers += job.answer
        self.num_sent += 1
        self.answers_sent += job.answer
        self.waiting.append((self.closes_s, id))

    def remove(self, id: int) -> None:
        """It has ended."""
        job = self.jobs.pop(id)
        self.prompts -= job.prompt
        self.uncached -= job.uncached
        self.answers -= job.answer
        if id in self.begun:
            self.begun.remove(id)
            self.answers_begun -= job.answer
        if not self.jobs:
            self.waiting.clear()
            self.closes_s = self.opens_s = 0.0
            self.num_sent = self.answers_sent = 0

    def _reckon(self, job: Job, now: float) -> tuple[float, float, float, tuple[int, int, float]]:
        """Seconds to the first token and per token; when the batch of its prompt begins, and that batch."""
        self._begin(now)
        machine, n = self.machine, len(self.jobs) + 1
        # A request that decodes has half of its answer, on average.
        held = self.prompts + self.answers_begun / 2
        mean_prompt = (self.prompts + job.prompt) / n
        mean_answer = max(1.0, (self.answers_sent + job.answer) / (self.num_sent + 1))
        new = max(1, round((self.uncached + job.uncached) / n))
        excess = max(0.0, n - machine.max_num_seqs, (held + job.prompt - machine.kv_tokens) / mean_prompt)
        # However many wait, no more decode than get a prompt computed in the iterations that an answer takes.
        most = mean_answer * machine.max_num_batched_tokens / new
        running = round(max(1.0, min(n - excess, most)))
        others = running - 1
        context = mean_prompt + (self.answers + job.answer) / n / 2
        decode_s = machine.steps.decode_s(running, running * context)
        tpot_s = decode_s
        if others:
            # As many prompts are computed while it decodes as others are there (Little's law).
            attention = new * (max(0.0, mean_prompt - new) + new / 2)
            iterations, prefill_s = self._prefill(others, others * context, 1, new, attention)
            tpot_s += others * max(0.0, prefill_s - iterations * decode_s) / mean_answer
        begins_s, batch = self._batch_for(job, now, decode_s)
        _, batch_s = self._prefill(others, others * context, *batch)
        first_token_s = begins_s + batch_s
        if excess:
            # Who is one too many waits until as many have ended.
            admitted_s = now + excess * mean_answer * tpot_s / running
            _, alone_s = self._prefill(others, others * context, 1, job.uncached, _attention(job))
            first_token_s = max(first_token_s, admitted_s + alone_s)
        return first_token_s - now, tpot_s, begins_s, batch

    def _begin(self, now: float) -> None:
        """First tokens come."""
        waiting, jobs = self.waiting, self.jobs
        while waiting and waiting[0][0] <= now:
            id = waiting.popleft()[1]
            if id in jobs and id not in self.begun:
                self.begun.add(id)
                self.answers_begun += jobs[id].answer

    def _batch_for(self, job: Job, now: float, decode_s: float) -> tuple[float, tuple[int, int, float]]:
        """When the batch begins in which the prompt is computed, and that batch."""
        if now < self.opens_s:
            count, tokens, before = self.batch
            return self.opens_s, (count + 1, tokens + job.uncached, before + _attention(job))
        # An iteration goes on, and is half over on average; the next one may be decided already.
        free_s = now + decode_s * (0.5 + self.machine.decides_ahead) if self.jobs else now
        return max(free_s, self.closes_s), (1, job.uncached, _attention(job))

    def _prefill(
        self, running: int, context: float, prompts: int, tokens: int, attention: float
    ) -> tuple[int, float]:
        """Iterations that compute these prompts beside what runs, and their seconds."""
        room = max(1.0, self.machine.max_num_batched_tokens - running)
        iterations = max(1, ceil(tokens / room))
        each = self.machine.steps.mixed_s(
            running, context, max(1, prompts // iterations), ceil(tokens / iterations), attention / iterations
        )
        return iterations, iterations * each


def _attention(job: Job) -> float:
    """What the tokens to be computed read, in all."""
    return job.uncached * (job.prompt - job.uncached / 2)
