"""What is written down of a request when it has ended: its metrics, and its row in the log."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sim.request import Request
from traces.trace import MOST_CLASSES, OTHER_CLASSES, SLO_COLUMNS

from .call import Call
from .log import Log
from .matching import Pairs
from .metrics import Metrics
from .mirror import Mirrored
from .relay import Relayed, kind_of

MOST_RECENT = 300
MOST_MODELS = 100
"""Models that metrics tell apart."""
MOST_REASONS, OTHER = 20, "other"
"""Finish reasons that they do, and what the rest are called."""


class Ended(NamedTuple):
    """A request that has ended, for whoever looks at the last of them; s and tokens. `error`: why it has no
    whole answer; `is_within`: all bounds that it states, None where it states none.
    """

    arm: str
    predicted_tokens: int
    output_tokens: int
    wait_s: float
    e2el_s: float
    error: str
    slo_class: str = ""
    is_within: bool | None = None


def slos_of(request: Request) -> dict[str, float]:
    """The bounds in ms that a request states, by column of a trace."""
    stated = {name: getattr(request, name) for name in SLO_COLUMNS}
    return {name: bound for name, bound in stated.items() if bound is not None}


class Report:
    """Writes down requests as they end."""

    def __init__(
        self,
        metrics: Metrics,
        log: Log | None,
        clock: Callable[[], float],
        mirrored_log: Log | None = None,
    ) -> None:
        self.metrics, self.log, self.clock, self.mirrored_log = metrics, log, clock, mirrored_log
        self.since_1970_s = time.time() - clock()
        self.num_overdue = 0  # of those that the metrics count already
        self.failing = set[Log]()  # of which it has been said
        self.recent: deque[Ended] = deque(maxlen=MOST_RECENT)
        self.models, self.reasons, self.classes = set[str](), set[str](), {""}
        self.pairs, self.num_not_mirrored = Pairs(), 0

    def ended(
        self,
        call: Call,
        relayed: Relayed,
        *,
        scheduled_s: float,
        error: str,
        upstream: int | None,
        attempts: int,
    ) -> None:
        """A request has ended; `error`: why there is no whole answer, empty where there is one."""
        now = self.clock()
        tokens = 0 if error else relayed.seen.tokens
        first_s = relayed.first_s or now
        waited_s = (scheduled_s or now) - call.arrival_s
        predicted = call.request.predicted_tokens or 0
        kind = self._class_of(call)
        is_within = self._count(call, relayed, kind, tokens, error, now, scheduled_s, first_s)
        took_s = now - call.arrival_s
        self.recent.append(Ended(call.arm, predicted, tokens, waited_s, took_s, error, kind, is_within))
        if self.log is not None:
            row = self._row(call, relayed, kind, tokens, error, now, scheduled_s, first_s, upstream, attempts)
            self._write(self.log, row, call.ask.text)

    def mirrored(self, found: Mirrored) -> None:
        """An answer was compared with those to copies of its request."""
        for who, is_same in found.pairs():
            self.metrics.mirrored.labels(who, str(is_same).lower()).inc()
            self.pairs.add(who, is_same)
        if self.mirrored_log is not None:
            finish_s = round(self.since_1970_s + found.finish_s, 6)
            self._write(self.mirrored_log, {**found._asdict(), "finish_s": finish_s}, "")

    def not_mirrored(self) -> None:
        """A copy was left out."""
        self.metrics.not_mirrored.inc()
        self.num_not_mirrored += 1

    def _write(self, log: Log, row: dict[str, Any], text: str) -> None:
        try:
            log.write(row, text)
            self.failing.discard(log)
        except OSError as failure:  # a full disk is no reason to answer nobody
            self.metrics.not_logged.inc()
            if log not in self.failing:
                print(
                    f"seqsched: the log cannot be written ({failure.strerror})", file=sys.stderr, flush=True
                )
            self.failing.add(log)

    def _count(
        self,
        call: Call,
        relayed: Relayed,
        kind: str,
        tokens: int,
        error: str,
        now: float,
        scheduled_s: float,
        first_s: float,
    ) -> bool | None:
        """In the metrics; whether it was within all bounds that it states, None where it states none."""
        m, model = self.metrics, self._label(call.model, is_known=not error)
        took_s = {"ttft": first_s - call.arrival_s, "e2el": now - call.arrival_s}
        took_s["tpot"] = (now - first_s) / (tokens - 1) if tokens > 1 else 0.0
        is_within = self._count_slos(call.request, (model, kind), {} if error else took_s)
        if scheduled_s:
            m.queue.labels(model, kind).observe(scheduled_s - call.arrival_s)
        if error:
            m.arm_failure.labels(call.arm).inc()
            m.failure.labels(model, kind_of(error)).inc()
            return is_within
        reason = relayed.seen.reason
        if len(self.reasons) < MOST_REASONS:
            self.reasons.add(reason)
        m.success.labels(model, reason if reason in self.reasons else OTHER).inc()
        m.arm_e2e.labels(call.arm).observe(now - call.arrival_s)
        m.e2e.labels(model, kind).observe(now - call.arrival_s)
        m.ttft.labels(model, kind).observe(first_s - call.arrival_s)
        m.output.labels(model).observe(tokens)
        m.output_tokens.labels(model).inc(tokens)
        m.prompt_tokens.labels(model).inc(relayed.seen.prompt_tokens or call.request.prompt_tokens)
        if tokens:
            m.ratio.labels(model).observe((call.request.predicted_tokens or 0) / tokens)
        if tokens > 1:
            m.tpot.labels(model, kind).observe((now - first_s) / (tokens - 1))
        return is_within

    def _count_slos(self, request: Request, of: tuple[str, str], took_s: Mapping[str, float]) -> bool | None:
        """Whether it was within the bounds that it states, and all of them; empty: it was not answered. `of`:
        its model and class.
        """
        met = {
            latency: 1e3 * took_s.get(latency, math.inf) <= bound_ms
            for latency, bound_ms in (
                (name.removesuffix("_slo_ms"), b) for name, b in slos_of(request).items()
            )
        }
        if met:
            met["all"] = all(met.values())
        for latency, is_met in met.items():
            self.metrics.slo.labels(*of, latency, str(is_met).lower()).inc()
        return met.get("all")

    def _class_of(self, call: Call) -> str:
        """The request's class, empty for none; `other` where there are more than a trace may have."""
        if len(self.classes) < MOST_CLASSES:  # the empty one stands for the others
            self.classes.add(call.slo_class)
        return call.slo_class if call.slo_class in self.classes else OTHER_CLASSES

    def _label(self, model: str, *, is_known: bool) -> str:
        """The model's name; empty for one that has never answered, and beyond so many."""
        if is_known and len(self.models) < MOST_MODELS:
            self.models.add(model)
        return model if model in self.models else ""

    def _row(
        self,
        call: Call,
        relayed: Relayed,
        kind: str,
        tokens: int,
        error: str,
        now: float,
        scheduled_s: float,
        first_s: float,
        upstream: int | None,
        attempts: int,
    ) -> dict[str, Any]:
        request, seen, zero = call.request, relayed.seen, self.since_1970_s
        e2el_ms, ttft_ms = 1e3 * (now - call.arrival_s), 1e3 * (first_s - call.arrival_s)
        deadline_s = request.deadline_s
        return {
            "request_id": call.id,
            "arrival_s": round(zero + call.arrival_s, 6),
            "scheduled_s": round(zero + scheduled_s, 6) if scheduled_s else None,
            "finish_s": round(zero + now, 6),
            "prompt_tokens": seen.prompt_tokens or request.prompt_tokens,
            "output_tokens": tokens,
            "predicted_tokens": request.predicted_tokens,
            "told_tokens": call.told_tokens,
            "max_tokens": request.max_new_tokens,
            "priority": request.priority,
            "arm": call.arm,
            **({} if deadline_s is None else {"deadline_s": round(zero + deadline_s, 6)}),
            **slos_of(request),
            **({"slo_class": kind} if kind else {}),
            "user": call.key or "",
            "model": call.model,
            "endpoint": call.path,
            "stream": call.is_stream,
            "ttft_ms": round(ttft_ms, 3),
            "tpot_ms": round((e2el_ms - ttft_ms) / (tokens - 1), 4) if tokens > 1 else 0.0,
            "e2el_ms": round(e2el_ms, 3),
            "status": "failed" if error else "completed",
            "error": error,
            "finish_reason": seen.reason,
            "counted": "usage" if seen.output_tokens else "events",
            "upstream": upstream,
            "attempts": attempts,
            "continuations": relayed.continuations,
            "restarted": relayed.is_again,
        }
