"""Asks for a sample of greedy answers a second time, to see whether they are the same, byte by byte.

A copy of a request goes to the server that answered it, in the client's own words: not ordered, not cut, told
nothing. It is sent only where a slot is free that nobody waits for, and hung up on, to be asked again later,
as soon as somebody does; it counts against nobody's limits, is not learnt from, and is no row of the log.
Half of the copies are sent twice, for greedy engines differ from themselves, too: how full a batch is changes
their rounding. Of texts only hashes are kept, salted anew at each start.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from .call import Call
from .client import Unheard
from .complaints import complain
from .relay import Relay, Relayed, UpstreamFailed
from .stream import Seen
from .upstreams import Upstream

MOST_COPIES = 32
"""Copies that wait at most; further ones are left out."""
MOST_BYTES = 1 << 20
"""Of a request that is copied."""
PART_OF_SLOTS = 8
"""Copies have one slot in so many."""
ACTING = ("tools", "functions", "web_search_options", "mcp_servers", "store", "background")
"""Fields with which asking twice may do something twice."""
KEYS = ("authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie")
"""Headers by which somebody may have to pay for an answer."""
OF_ONE = ("traceparent", "tracestate", "idempotency-key", "x-request-id")
"""Headers that name one request: what has the same names again may get the same answer unasked, or none."""
LAST = (1 << 31) - 1
"""The priority of a copy where the upstream orders: the last."""


class Mirrored(NamedTuple):
    """One answer beside others to the same request, as hashes. `again`: of a second copy; empty: there was
    none.
    """

    request_id: int
    arm: str
    finish_s: float
    served: str
    plain: str
    again: str

    def pairs(self) -> list[tuple[str, bool]]:
        """Who was compared with a copy, and whether both are the same: an arm, or a copy (`plain`)."""
        found = [(self.arm, self.served == self.plain)]
        return [*found, ("plain", self.plain == self.again)] if self.again else found


@dataclass(eq=False)
class Copy:
    """A request that is to be asked again: how often, and what came so far."""

    call: Call
    upstream: Upstream
    served: str
    wanted: int
    answers: list[str] = field(default_factory=list)


class Mirror:
    """Holds copies until there is room for them.

    `at_once()`: copies that may be on their way. `report(mirrored)` is told of each answer that was compared;
    `left_out()` of each that was not, for want of room or of an answer.
    """

    def __init__(
        self,
        share: float,
        relay: Relay,
        timeout_s: float,
        *,
        is_told: bool,
        clock: Callable[[], float],
        report: Callable[[Mirrored], None],
        left_out: Callable[[], None],
    ) -> None:
        self.share, self.relay, self.timeout_s, self.is_told = share, relay, timeout_s, is_told
        self.clock, self.report, self.left_out = clock, report, left_out
        self.keys = KEYS if relay.key is None else KEYS[1:]
        self.salt = secrets.token_bytes(16)
        self.waiting: deque[Copy] = deque()
        self.running: dict[Copy, asyncio.Task[None]] = {}

    def wants(self, call: Call) -> bool:
        """Whether this request is one of the sample: greedy, of one answer, without side effects, and without
        a key of the client's that somebody would have to pay for.
        """
        return (
            call.is_greedy
            and call.num_choices == 1
            and len(call.raw) <= MOST_BYTES
            and not any(call.body.get(name) for name in ACTING)
            and not any(name in self.relay.headers(call.headers) for name in self.keys)
            and self._draw(call, "mirror") < self.share
        )

    def add(self, call: Call, upstream: Upstream, seen: Seen) -> None:
        """Such a request has been answered, whole."""
        if len(self.waiting) >= MOST_COPIES:
            self.left_out()
            return
        plain = replace(call, headers={k: v for k, v in call.headers.items() if k not in OF_ONE})
        plain.request, plain.ask = call.request, call.ask
        plain.extra = {"priority": LAST} if self.is_told else {}
        wanted = 2 if self._draw(call, "again") < 0.5 else 1
        self.waiting.append(Copy(plain, upstream, self._hash(seen), wanted))

    def poll(self, num_free: int, capacity: int) -> None:
        """Of so many slots so many are free, and wanted by nobody: copies may have them, or give way."""
        most = min(max(0, num_free), 1 if self.is_told else max(1, capacity // PART_OF_SLOTS))
        for copy in list(self.running)[::-1]:
            if len(self.running) > most or not self._has_room(copy.upstream, 0):
                self.running.pop(copy).cancel()
                self.waiting.appendleft(copy)
        for copy in list(self.waiting):
            if len(self.running) >= most:
                return
            if self._has_room(copy.upstream, 1):
                self.waiting.remove(copy)
                self.running[copy] = asyncio.create_task(self._ask(copy))

    def close(self) -> None:
        """No more copies."""
        self.waiting.clear()
        for task in self.running.values():
            task.cancel()
        self.running.clear()

    def _has_room(self, upstream: Upstream, more: int) -> bool:
        """Whether the server has slots for what it is asked and for so many more copies."""
        copies = sum(copy.upstream is upstream for copy in self.running)
        return upstream.busy + copies + more <= upstream.capacity(self.clock())

    async def _ask(self, copy: Copy) -> None:
        answers = copy.answers
        try:
            async with asyncio.timeout(self.timeout_s):
                while len(answers) < copy.wanted:
                    relayed = Relayed(Seen(said={}))
                    await self.relay.send(copy.call, copy.upstream, Unheard(copy.call.headers), relayed)
                    if relayed.status != 200 or relayed.seen.error:
                        break
                    answers.append(self._hash(relayed.seen))
        except (UpstreamFailed, TimeoutError):
            pass
        except Exception as error:
            complain("a copy failed within the layer", error)
        finally:
            was_running = self.running.pop(copy, None) is not None
        if was_running:
            self._compared(copy)

    def _compared(self, copy: Copy) -> None:
        call, answers = copy.call, copy.answers
        if not answers:
            self.left_out()
            return
        again = answers[1] if len(answers) > 1 else ""
        self.report(Mirrored(call.id, call.arm, self.clock(), copy.served, answers[0], again))

    def _hash(self, seen: Seen) -> str:
        """Of all texts of an answer, and why it ended."""
        texts = sorted((*key, "".join(parts)) for key, parts in (seen.said or {}).items())
        said = json.dumps([texts, sorted(seen.reasons.items())]).encode()
        return hashlib.blake2b(said, digest_size=8, key=self.salt).hexdigest()

    def _draw(self, call: Call, what: str) -> float:
        """A number from 0 to 1 by the request's number."""
        digest = hashlib.blake2b(f"{what} {call.id}".encode(), digest_size=8, key=self.salt).digest()
        return int.from_bytes(digest, "big") / 2**64
