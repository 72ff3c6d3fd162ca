"""Carries out `Iterations`: which sequences are on the engine, what they have generated, when to come back.

Writes down what became of each request; the counterpart of `sim.execution.iterations`. Knows nothing of
queues.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from sim.request import Request
from sim.results.ledger import Ledger
from sim.work import Iterations, Outcome, SchedulingError

from ..engines.engine import OutOfDeviceMemory, Part, StepwiseEngine
from .clocks import ramp


class Sequences:
    """The sequences of a run under continuous batching.

    `output_tokens` gives, by request id, the length at which an answer stops (or the most it may have, where
    a token in `eos_tokens` ends it before); `generated` keeps tokens over evictions.
    """

    def __init__(
        self,
        engine: StepwiseEngine,
        prompts: Sequence[Sequence[int]],
        output_tokens: list[int],
        eos_tokens: frozenset[int],
        ledger: Ledger,
    ) -> None:
        self.engine, self.prompts, self.eos_tokens = engine, prompts, eos_tokens
        self.output_tokens, self.ledger, self.use = output_tokens, ledger, ledger.replicas[0]
        self.generated: dict[int, list[int]] = {}
        self.computed: dict[int, int] = {}  # id -> tokens in the cache, of what is being prefilled
        self.running: dict[int, Request] = {}
        self.last_token_s: dict[int, float] = {}
        self.incidents: list[str] = []
        self.recomputed_tokens = 0  # that the scheduler counted as cached

    def carry_out(
        self, work: Iterations, now: Callable[[], float], is_due: Callable[[float], bool]
    ) -> Outcome:
        """Run until `at_most` iterations are done, a request finishes or, if asked, one has arrived."""
        if work.at_most < 1:
            raise SchedulingError(f"Iterations of at_most {work.at_most} run nothing")
        start_s, ends_s, finished = now(), list[float](), list[Request]()
        for request in work.evict:
            if not self.ledger.ended(request.id):
                self._evict(request.id)
        self.use.preemptions += len(work.evict)
        first: list[int] = []
        while not finished and len(ends_s) < work.at_most:
            ids, tokens = self._decode() if ends_s else self._first(work, start_s)
            ends_s.append(now())
            first = first or ids
            for i, token in zip(ids, tokens, strict=True):
                self.generated.setdefault(i, []).append(token)
                if token in self.eos_tokens or len(self.generated[i]) >= self.output_tokens[i]:
                    finished.append(self.running[i])
            if len(ends_s) == 1:
                self._note_first_tokens(ids, ends_s[0])
            if ends_s[-1] >= work.until_s or (work.stop_on_arrival and is_due(ends_s[-1])):
                break
        self._note(work, start_s, ends_s)
        for request in finished:
            self._finish(request)
        self.ledger.record_finished(finished, ends_s[-1], replica=0)
        return Outcome(len(ends_s), finished)

    def held_tokens(self) -> int:
        """KV tokens of all sequences."""
        return sum(len(self.prompts[i]) + len(self.generated[i]) - 1 for i in self.running) + sum(
            self.computed.values()
        )

    def _note_first_tokens(self, ids: Sequence[int], end_s: float) -> None:
        """First tokens, and the gaps to the tokens before."""
        ledger = self.ledger
        ledger.record_first_tokens([i for i in ids if math.isnan(ledger.first_token_s[i])], end_s)
        for i in ids:
            if i in self.last_token_s:
                last_s = self.last_token_s[i]
                ledger.gaps.add(end_s - last_s, 0.0, 1, 1, last_s)

    def _note(self, work: Iterations, start_s: float, ends_s: list[float]) -> None:
        """Sums, gaps between tokens, and the record of this Work."""
        ledger = self.ledger
        first_step_s, slope_s = ramp([b - a for a, b in pairwise(ends_s)])
        if len(ends_s) > 1:
            ledger.gaps.add(first_step_s, slope_s, len(ends_s) - 1, len(self.running), ends_s[0])
        paused = {request.id for request in work.pause} if len(ends_s) == 1 else ()
        self.last_token_s |= {i: ends_s[-1] for i in self.running if i not in paused}
        self.use.iterations += len(ends_s)
        self.use.busy_s += ends_s[-1] - start_s
        ledger.record_iterations(
            work,
            len(ends_s),
            start_s,
            ends_s[0],
            ends_s[-1],
            first_step_s=first_step_s,
            step_slope_s=slope_s,
            kv_tokens=self.held_tokens(),
        )

    def _finish(self, request: Request) -> None:
        self._evict(request.id)
        self.output_tokens[request.id] = len(self.generated[request.id])

    def _first(self, work: Iterations, start_s: float) -> tuple[list[int], list[int]]:
        """The iteration with the chunks; the requests that got a token, and the tokens."""
        if not work.chunks:
            # Here the outcome of an iteration is known before the next begins: nobody runs once too often.
            return ([], []) if work.overrun and not self.running else self._decode(work.pause)
        paused = {request.id for request in work.pause}
        parts = [Part(i, self.generated[i][-1:], True) for i in self.running if i not in paused]
        for chunk in work.chunks:
            request, last = chunk.request, chunk.last
            i = request.id
            # This engine keeps nothing over evictions: what counts as cached is computed again.
            num_tokens = chunk.cached + chunk.num_tokens
            self.recomputed_tokens += chunk.cached
            if i in self.running or self.ledger.ended(i):
                raise SchedulingError(f"request {i} got a chunk though it is decoding or has ended")
            if i not in self.computed:
                self.engine.admit(i, request.prompt_tokens + request.max_new_tokens)
                self.computed[i] = 0
                if math.isnan(self.ledger.scheduled_s[i]):
                    self.ledger.record_scheduled((i,), start_s)
            known = [*self.prompts[i], *self.generated.get(i, [])]
            piece = known[self.computed[i] : self.computed[i] + num_tokens]
            if len(piece) != num_tokens or last != (self.computed[i] + num_tokens == len(known)):
                raise SchedulingError(
                    f"request {i}: a chunk of {num_tokens} tokens (last: {last}) after {self.computed[i]} "
                    f"of {len(known)}"
                )
            parts.append(Part(i, piece, last))
            self.computed[i] += num_tokens
            if last:
                self.running[i] = request
                del self.computed[i]
        return [part.key for part in parts if part.yields], self._iterate(parts)

    def _decode(self, pause: Sequence[Request] = ()) -> tuple[list[int], list[int]]:
        paused = {request.id for request in pause}
        ids = [i for i in self.running if i not in paused]
        if not ids:
            raise SchedulingError("Iterations with neither chunks nor running requests")
        try:
            return ids, self.engine.decode_all(ids)
        except torch.OutOfMemoryError as error:
            raise OutOfDeviceMemory(
                f"a decode iteration of {len(ids)} sequences: the device ran out of memory"
            ) from error

    def _iterate(self, parts: Sequence[Part]) -> list[int]:
        """One iteration; where the device runs out of memory, its halves, one after the other."""
        try:
            return self.engine.iterate(parts)
        except torch.OutOfMemoryError as error:
            total = sum(len(part.tokens) for part in parts)
            self.incidents.append(f"out of memory in an iteration of {total} tokens, run in two halves")
            if total == 1:
                raise OutOfDeviceMemory("one token alone: the device ran out of memory") from error
        if self.engine.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(parts) > 1:
            middle = len(parts) // 2
            return [*self._iterate(parts[:middle]), *self._iterate(parts[middle:])]
        key, tokens, yields = parts[0]
        middle = len(tokens) // 2
        self._iterate([Part(key, tokens[:middle], False)])
        return self._iterate([Part(key, tokens[middle:], yields)])

    def _evict(self, i: int) -> None:
        if self.running.pop(i, None) is None and self.computed.pop(i, None) is None:
            raise SchedulingError(f"request {i} was evicted though it is not in memory")
        self.engine.evict(i)
