"""The layer itself: takes calls in, lets the executor say when each is sent, learns from what comes back.

Knows HTTP only as a `Client` to answer and a `Relay` to send with.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sim.request import Request
from sim.results.batch_record import BatchRecord
from sim.work import Prediction, tell

from .arms import ARMS, UNORDERED, arm_of
from .call import MOST_TOKENS, Call
from .client import Client
from .collecting import Collector, Continues
from .complaints import complain
from .executor import SlotExecutor
from .guard import Guard
from .keys import Key
from .lengths import Ask, LengthPredictor, PromptTokens
from .log import Log
from .metrics import Metrics
from .mirror import Mirror, Mirrored
from .policy import slot_scheduler_maker
from .predictor import SaferLength
from .quotas import Quotas, Refusal
from .relay import Relay, Relayed, UpstreamFailed, say
from .report import Report
from .sending import Course, Sender
from .settings import ServeSettings
from .spans import following
from .upstreams import Pool

MOST_LEVEL = 100
"""Levels of importance lie between this and its negative."""
LEAST_SLEEP_S = 0.001
LONGEST_SLEEP_S = 60.0


class Dropped(Exception):
    """The scheduler has given the request up, for this reason."""


class Layer:
    """Everything between the clients and the upstreams; one event loop, no locks.

    `clock` gives seconds for queues and latencies, `wall` those since 1970 for the log.
    """

    def __init__(
        self,
        settings: ServeSettings,
        pool: Pool,
        relay: Relay,
        predictor: LengthPredictor,
        *,
        log: Log | None = None,
        mirrored_log: Log | None = None,
        on_decision: Callable[[int, BatchRecord], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings, self.pool, self.relay = settings, pool, relay
        self.predictor = SaferLength(predictor, lambda error: complain("the predictor failed", error))
        self.clock = clock
        self.metrics = Metrics()
        self.metrics.share.set(settings.share)
        self.report = Report(self.metrics, log, clock, mirrored_log)
        self.sender = Sender(settings, pool, relay, self.metrics, clock, self._mirror_on)
        self.prompt_tokens = PromptTokens()
        self.follow = following()
        self.quotas = Quotas(
            max_queue=settings.max_queue,
            rate_per_key=settings.rate_per_key,
            concurrency_per_key=settings.concurrency_per_key,
        )
        self.levels = settings.levels()
        # An upstream that is told orders by itself.
        policy = settings.policy if settings.act == "hold" else "continuous"
        slots = sum(upstream.slots for upstream in pool.upstreams)
        make, is_by_level = slot_scheduler_maker(policy, slots)
        makers = [make] if settings.share >= 1.0 else [make, slot_scheduler_maker(UNORDERED, slots)[0]]
        self.quantile = make().upper_quantile
        self.share = settings.share
        self.guard = Guard(is_mirrored=settings.mirror > 0) if settings.guard else None
        self.executor = SlotExecutor(
            makers,
            lambda: self.pool.capacity(self.clock()),
            self._send,
            self._drop,
            predictions=self._predictions,
            max_wait_s=settings.max_wait_s,
            is_by_level=is_by_level,
            on_decision=on_decision,
            on_failure=self._scheduler_failed,
        )
        self.since_s = clock()
        self.turns: dict[int, asyncio.Future[None]] = {}
        self.next_id = log.next_id if log is not None else 0
        self.timer: asyncio.TimerHandle | None = None
        self.collector = self._collector() if settings.fcr == "on" else None
        self.mirror = self._mirror() if settings.mirror else None
        self.is_draining = False
        self.open = 0
        self.seconds_each = 1.0  # that a place in the queue lasts, by the last answers

    def _collector(self) -> Collector:
        def new_id() -> int:
            self.next_id += 1
            return self.next_id - 1

        continues = Continues(self.relay)
        return Collector(continues, self._turn, self._ended, new_id, self.metrics, self.clock)

    def _mirror(self) -> Mirror:
        def left_out() -> None:
            self.report.not_mirrored()
            self._mirror_on()

        return Mirror(
            self.settings.mirror,
            self.relay,
            self.settings.timeout_s,
            is_told=self.settings.act == "tell",
            clock=self.clock,
            report=self._mirrored,
            left_out=left_out,
        )

    # Taking in

    def refuse(self, key: str | None) -> Refusal | None:
        """Why a request is not taken now; else it counts as open until `leave`."""
        now, refusal = self.clock(), None
        capacity = self.pool.capacity(now)
        if self.is_draining:
            refusal = Refusal("ending", "the layer is about to end", 1.0)
        elif not capacity:
            retry_s = max(1.0, self.pool.next_trial_s(now) - now)
            refusal = Refusal("upstream", "no upstream can be reached", retry_s)
        else:
            # Those whose bodies are still coming count, too.
            refusal = self.quotas.enter(key, now, self.open - capacity, self.seconds_each)
        if refusal is None:
            self.open += 1
        return refusal

    def leave(self, key: str | None) -> None:
        """A request that was taken has ended."""
        self.open -= 1
        self.quotas.leave(key)

    def call(
        self,
        path: str,
        raw: bytes,
        body: dict[str, Any],
        client: Client,
        key: Key | None,
        *,
        priority: int | None,
        deadline_s: float | None,
        told_tokens: int | None,
        slos: Mapping[str, Any],
        slo_class: str,
    ) -> Call:
        """The request as schedulers see it, with its prediction. `priority`: what the client says; it may
        not be more important than its key is. `slos`: bounds that it states, by field of a request.
        """
        name = key.name if key is not None else None
        call = Call(self.next_id, path, raw, body, client.headers, self.clock(), name, told_tokens)
        self.next_id += 1
        level = self.levels.get(call.model, key.priority if key is not None else 0)
        if priority is not None:
            level = max(level, priority) if key is not None else priority
        call.arm, call.slo_class = arm_of(call, self.share), slo_class
        cap = call.max_tokens
        call.ask = Ask(call.model, call.text, cap)
        call.request = Request(
            id=call.id,
            arrival_s=call.arrival_s,
            prompt_tokens=self.prompt_tokens.count(call.ask.text),
            max_new_tokens=cap or self.settings.max_new_tokens,
            priority=level,
            user=call.key,
            deadline_s=None if deadline_s is None else call.arrival_s + deadline_s,
            **slos,
        )
        tell(call.request, self._predict(call))
        if self.settings.act == "tell":
            call.extra["priority"] = self._priority(call.request)
        return call

    def _priority(self, request: Request) -> int:
        """What vLLM's `priority` says of the request: the shorter its prediction the sooner, and the sooner
        the longer ago it came, so that it is overtaken by none that came `max_wait_s` later. A level of
        importance counts as much as so long a wait.
        """
        step = self.settings.max_new_tokens
        waited = (request.arrival_s - self.since_s) / self.settings.max_wait_s + request.priority
        return round(step * waited) + min(step, request.predicted_tokens or 0)

    def _predict(self, call: Call) -> Prediction:
        if call.told_tokens is not None:
            said = Prediction(call.told_tokens, call.told_tokens, (call.told_tokens,))
        else:
            said = self.predictor.predict(call.ask, self.quantile)
        most = call.max_tokens or MOST_TOKENS
        lengths = said.lengths and tuple(min(length, most) for length in said.lengths)
        tokens = min(said.tokens, most)
        upper = max(tokens, min(said.upper_tokens or 0, most))
        return Prediction(tokens, upper, lengths)

    def _predictions(self, requests: Sequence[Request]) -> list[Prediction]:
        """For a scheduler that asks again: what it was told."""
        return [
            Prediction(r.predicted_tokens or 0, r.predicted_upper_tokens, r.predicted_lengths)
            for r in requests
        ]

    # One request

    async def answer(self, call: Call, client: Client) -> None:
        """Wait for its turn, send it, pass the answer on; whatever happens, its slot is free afterwards.

        Cancelled (the client has left), it hangs up on the upstream.
        """
        relayed, error, course = Relayed(), "cancelled: the client has left", Course()
        if self.mirror is not None and self.mirror.wants(call):
            relayed.seen.said = {}
        scheduled_s = 0.0
        spans = self.follow(call)
        try:
            await self._turn(call)
            scheduled_s = self.clock()
            spans.sent(client.headers)
            attempt, collector = partial(self.sender.send, course), self.collector
            tokens = collector.first_part(call, self.pool.upstreams) if collector is not None else None
            if collector is not None and tokens is not None:
                await collector.send(call, client, relayed, tokens, attempt, self.pool.upstreams)
            else:
                await attempt(call, client, relayed)
            error = relayed.seen.error
        except Dropped as drop:
            error = str(drop)
            await client.error(504 if error.startswith("expired") else 400, error, "timeout_error")
        except UpstreamFailed as failure:
            error = str(failure)
            await say(client, failure)
        except Exception as failure:
            error = f"the layer failed: {type(failure).__name__}"
            raise
        except asyncio.CancelledError:
            if relayed.is_over:  # many leave as soon as they have read [DONE]
                error = relayed.seen.error
            elif not client.has_left:
                error = "cancelled: the layer has ended"
            raise
        finally:
            self._ended(call)
            failed = error if error or relayed.status == 200 else f"the upstream answers {relayed.status}"
            spans.ended(relayed, failed)
            self.report.ended(
                call,
                relayed,
                scheduled_s=scheduled_s,
                error=failed,
                upstream=self.pool.upstreams.index(course.upstream) if course.upstream is not None else None,
                attempts=course.attempts,
            )
            if not error and relayed.status == 200:
                self._learn(call, relayed, scheduled_s)
                if relayed.seen.said is not None and self.mirror is not None and course.upstream is not None:
                    self.mirror.add(call, course.upstream, relayed.seen)
                    self._mirror_on()
            if self.guard is not None:
                self._watch(self.guard, call, relayed, error)

    async def _turn(self, call: Call) -> None:
        """Returns when there is a slot for it; Dropped where the scheduler gives it up."""
        self.turns[call.id] = turn = asyncio.get_running_loop().create_future()
        self.executor.submit(call.request, self.clock(), ARMS.index(call.arm))
        self.poll()
        try:
            await turn
        finally:
            del self.turns[call.id]

    def _ended(self, call: Call) -> None:
        self.executor.leave(call.request)
        self.executor.ended(call.request, self.clock())
        self.poll()

    def _learn(self, call: Call, relayed: Relayed, scheduled_s: float) -> None:
        """An answer has come whole: a row to learn from."""
        seen, took_s = relayed.seen, self.clock() - scheduled_s
        if seen.tokens:
            self.predictor.learn(call.ask, max(1, seen.tokens // call.num_choices))
        if seen.prompt_tokens:
            self.prompt_tokens.learn(call.ask.text, seen.prompt_tokens)
        each = took_s / max(1, self.pool.capacity(self.clock()))
        self.seconds_each += 0.05 * (each - self.seconds_each)

    def _watch(self, guard: Guard, call: Call, relayed: Relayed, error: str) -> None:
        """Tell the guard how a request ended. Who left has not been failed."""
        if not error and relayed.status == 200:
            seen, took_s = relayed.seen, self.clock() - call.arrival_s
            guard.answered(call.arm, seen.tokens, took_s, call.request.predicted_tokens or 0, seen.reason)
        elif not error.startswith("cancelled"):
            guard.failed(call.arm)
        self._heed(guard)

    def _heed(self, guard: Guard) -> None:
        """End the policy's share where the guard says so."""
        if guard.reason and self.share:
            self.share = 0.0
            self.metrics.share.set(0.0)
            text = f"{guard.reason}; all requests go first come, first served"
            print(f"seqsched: the guard ends the policy's share: {text}", file=sys.stderr, flush=True)

    def _mirrored(self, found: Mirrored) -> None:
        """An answer was compared with those to copies of its request."""
        self.report.mirrored(found)
        if self.guard is not None:
            for who, is_same in found.pairs():
                self.guard.compared(who, is_same)
            self._heed(self.guard)
        self._mirror_on()

    def _mirror_on(self) -> None:
        """Let copies have the slots that nobody wants, and no others."""
        if self.mirror is not None:
            executor = self.executor
            self.mirror.poll(0 if executor.waiting else executor.num_free, executor.capacity())

    # The executor's words

    def poll(self) -> None:
        """Let the executor send whom it will, and ask again when it wants to be asked."""
        now = self.clock()
        self.executor.poll(now)
        self._mirror_on()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        wake_at = self.executor.wake_at()
        if self.executor.waiting:
            wake_at = min(wake_at, self.pool.next_trial_s(now))
        if wake_at < math.inf:
            wait_s = min(LONGEST_SLEEP_S, max(LEAST_SLEEP_S, wake_at - now))
            self.timer = asyncio.get_running_loop().call_later(wait_s, self.poll)

    def _send(self, request: Request) -> None:
        turn = self.turns.get(request.id)
        if turn is not None and not turn.done():
            turn.set_result(None)

    def _drop(self, request: Request, reason: str) -> None:
        turn = self.turns.get(request.id)
        if turn is not None and not turn.done():
            turn.set_exception(Dropped(reason))

    def _scheduler_failed(self, error: Exception) -> None:
        self.metrics.scheduler_failures.inc()
        complain("the scheduler failed, so that its requests go first come, first served", error)

    # To be seen

    def expose(self) -> bytes:
        """The metrics as they are now."""
        now, waiting = self.clock(), self.executor.waiting
        first = next(iter(waiting.values()), None)
        self.metrics.waiting.set(len(waiting))
        self.metrics.running.set(self.executor.num_running)
        self.metrics.slots.set(self.pool.capacity(now))
        self.metrics.bound.set(self.settings.max_wait_s)
        self.metrics.longest_wait.set(0.0 if first is None else now - first.arrival_s)
        for upstream in self.pool.upstreams:
            self.metrics.upstream_up.labels(upstream.url).set(upstream.open_until_s is None)
        self.metrics.overdue.inc(self.executor.num_sent_overdue - self.report.num_overdue)
        self.report.num_overdue = self.executor.num_sent_overdue
        return self.metrics.text()
