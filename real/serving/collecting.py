"""Failure collection: an answer that runs over its prediction gives its slot back and is continued later.

A request is sent with `max_tokens` by a quantile of its prediction. Where the answer ends by that, the prompt
and the text so far wait as a new prompt; what comes is passed on as one answer, with one usage and one
reason. Only where that cannot change the answer: for plain prompts, and servers that have been seen to go on
from a text as they would have gone on by themselves. A server that says token ids goes on from these. Where
another does not read a text in as many tokens as it wrote it in, a greedy answer is begun again, uncut.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import aiohttp

from sim.request import Request
from sim.work import Prediction, tell

from .call import Call, count
from .client import Client, Unheard
from .metrics import Metrics
from .relay import REFUSALS, Relay, Relayed
from .seam import Seam
from .stream import Seen
from .token_ids import ASKED, TokenIds
from .upstreams import Upstream

PATH = "/v1/completions"
QUANTILE = 0.9
"""Of the predicted lengths, where an answer is cut first."""
LEAST = 16
"""Tokens that are asked for at least: each continuation reads the prompt again."""
PLAIN = frozenset(("model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "user"))
PLAIN |= {"stream", "stream_options", "priority"}
"""Fields whose every value means the same to a continuation."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    **{"n": (1,), "best_of": (1,), "echo": (False,), "suffix": ("",), "stop": ("", []), "logprobs": ()},
    **{"presence_penalty": (0,), "frequency_penalty": (0,), "repetition_penalty": (1,), "logit_bias": ({},)},
}
"""Fields that mean something to a whole answer, and values (null beside them) with which they do not."""
PROBE = "Count from 1 to 60"
PROBE_TOKENS = (9, 15)
"""Tokens of the two parts that must be those of the whole."""
PROBE_S = 60.0
MOST_ASKED = 200
"""Models of servers of which it is known whether they continue: clients may make names up."""


def is_plain(call: Call) -> bool:
    """Whether the rest of its answer is what the prompt and the answer's beginning are continued with."""
    body = call.body
    if call.path != PATH or not isinstance(body.get("prompt"), str) or count(body.get("max_tokens")) is None:
        return False
    options = body.get("stream_options")
    if options is not None and (not isinstance(options, dict) or not options.keys() <= {"include_usage"}):
        return False
    return all(
        name in PLAIN or value is None or any(value == neutral for neutral in NEUTRAL.get(name, ()))
        for name, value in body.items()
    )


def quantile_of(lengths: Sequence[int]) -> int:
    """What a share `QUANTILE` of these lengths stays within; there must be any."""
    return sorted(lengths)[min(len(lengths) - 1, int(QUANTILE * len(lengths)))]


class Continuing(NamedTuple):
    """Whether a server goes on from a text as it would have gone on by itself; the ids of the tokens that it
    did so from, too. Empty: it says none, or does not go on from them.
    """

    does: bool
    ids: tuple[int, ...] = ()


class Continues:
    """Whether servers go on from a text as they would have gone on by themselves: each is asked once, by
    model, with the key of whose request comes first, and cuts nothing before it has shown it.
    """

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.asked: dict[tuple[str, str], asyncio.Task[Continuing | None]] = {}

    def all_do(self, upstreams: Iterable[Upstream], call: Call) -> bool:
        """Whether all of these are known to."""
        known = [self._known(upstream, call) for upstream in upstreams]  # all are asked
        return all(each is not None and each.does for each in known)

    def all_by_ids(self, upstreams: Iterable[Upstream], call: Call) -> bool:
        """Whether all of these go on from token ids, and from the same: any of them may be asked."""
        known = {each.ids if each is not None else () for each in (self._known(u, call) for u in upstreams)}
        return len(known) == 1 and () not in known

    def _known(self, upstream: Upstream, call: Call) -> Continuing | None:
        key = (upstream.url, call.model)
        task = self.asked.get(key)
        if task is None or (task.done() and task.result() is None):
            self.asked.pop(key, None)
            if len(self.asked) >= MOST_ASKED:
                self.asked.pop(next(iter(self.asked))).cancel()
            self.asked[key] = asyncio.create_task(self._ask(upstream.url, call))
            return None
        self.asked[key] = self.asked.pop(key)  # whoever is asked for last is kept
        return task.result() if task.done() else None

    async def _ask(self, url: str, call: Call) -> Continuing | None:
        """None: it has not answered."""
        first, rest = PROBE_TOKENS
        try:
            async with asyncio.timeout(PROBE_S):
                whole, _ = await self._answer(url, call, PROBE, first + rest)
                beginning, ids = await self._answer(url, call, PROBE, first, **{ASKED: True})
                does = whole == beginning + (await self._answer(url, call, PROBE + beginning, rest))[0]
                if not ids or not does:
                    return Continuing(does)
                by_ids, all_ids = await self._answer(url, call, ids, rest, **{ASKED: True})
                is_same = whole == beginning + by_ids and all_ids[: len(ids)] == ids
                return Continuing(does, tuple(all_ids) if is_same else ())
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None
        except (ValueError, KeyError, IndexError, TypeError):
            return Continuing(False)  # it does not count, or does not say why an answer ends

    async def _answer(
        self, url: str, call: Call, prompt: str | list[int], tokens: int, **fields: bool
    ) -> tuple[str, list[int]]:
        """An answer of so many tokens, and the ids of the prompt and the answer, empty where it says none;
        ValueError where it is another. `fields`: left out where the server does not take them.
        """
        body = {"model": call.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, **fields}
        async with self.relay.session.post(
            url + PATH, json=body, headers=self.relay.headers(call.headers), allow_redirects=False
        ) as response:
            if response.status >= 500 or response.status in (401, 403, 408, 429):
                raise TimeoutError
            answer = json.loads(await response.read())
        if fields and response.status in REFUSALS:
            return await self._answer(url, call, prompt, tokens)
        choice, seen = answer["choices"][0], TokenIds()
        if answer["usage"]["completion_tokens"] != tokens or choice["finish_reason"] != "length":
            raise ValueError(prompt)
        seen.take(answer)
        ids = [*seen.prompt, *seen.answer] if seen.prompt and len(seen.answer) == tokens else []
        return str(choice["text"]), ids


Attempt = Callable[[Call, Client, Relayed], Awaitable[None]]
"""Sends a call and passes its answer on."""


@dataclass
class Collector:
    """Sends answers in parts. `turn` returns when a call has a slot, `ended` gives the slot back; `next_id`
    numbers requests.
    """

    continues: Continues
    turn: Callable[[Call], Awaitable[None]]
    ended: Callable[[Call], None]
    next_id: Callable[[], int]
    metrics: Metrics
    clock: Callable[[], float]
    is_counted: bool = True
    """Whether prompts have been counted, as far as greedy answers were cut."""

    def first_part(self, call: Call, upstreams: Sequence[Upstream]) -> int | None:
        """Tokens to ask for first; None: the answer is not cut."""
        lengths = call.request.predicted_lengths or ()
        if len(lengths) < 2 or not is_plain(call):  # one length is a guess, or what the client has said
            return None
        tokens = max(LEAST, quantile_of(lengths))
        is_cut = (
            call.arm == "policy"
            and tokens < (call.max_tokens or 0)
            and not (call.is_greedy and (not self.is_counted or not all(map(_counts, upstreams))))
            and self.continues.all_do(upstreams, call)
        )
        return tokens if is_cut else None

    async def send(
        self,
        call: Call,
        client: Client,
        relayed: Relayed,
        tokens: int,
        attempt: Attempt,
        upstreams: Sequence[Upstream],
    ) -> None:
        """Send a call that has its turn, and what has to be continued of it."""
        by_ids = self.continues.all_by_ids(upstreams, call)
        more = {ASKED: True} if by_ids else {}
        seam, cap, request, done = Seam(client, hides_ids=by_ids), call.max_tokens or 0, call.request, 0
        part = _part(call, request, call.body["prompt"], tokens, **more)
        while True:
            said = Relayed(Seen(ids=TokenIds() if by_ids else None))
            try:
                await attempt(part, seam, said)
            finally:
                self.ended(part)
                _add(relayed, said)
            done += tokens
            # Fewer tokens than were allowed: it is the server that allows no more.
            is_cut = said.seen.reasons == {0: "length"} and (said.seen.output_tokens or tokens) >= tokens
            if not is_cut or said.seen.error or seam.has_ended or done >= cap:
                await seam.finish(relayed.seen.output_tokens)
                if relayed.seen.said is not None:
                    relayed.seen.said[0, "text"] = [seam.text]
                return
            await seam.go_on()
            relayed.continuations += 1
            self.metrics.continuations.inc()
            request = self._rest(request, done, call)
            ids = said.seen.ids.all(tokens) if said.seen.ids is not None else None
            tokens = min(cap - done, max(done, request.predicted_upper_tokens or 0))
            so_far = ids or call.body["prompt"] + seam.text
            part = _part(call, request, so_far, tokens, **more)
            try:
                await self.turn(part)
                is_alike = bool(ids) or not call.is_greedy or await _reads_alike(part, relayed, done, attempt)
            except BaseException:
                self.ended(part)
                raise
            if not is_alike:
                # A server that counts no stream's tokens will not do so for the next greedy answer either.
                self.is_counted = relayed.seen.prompt_tokens is not None
                seam.begin_again()
                relayed.seen, relayed.is_again = relayed.seen.again(), True
                self.metrics.begun_again.inc()
                part, done = _part(call, request, call.body["prompt"], cap), 0
                tokens = cap

    def _rest(self, request: Request, done: int, call: Call) -> Request:
        """What is left of a call, as a request that arrives now."""
        lengths = tuple(length - done for length in call.request.predicted_lengths or () if length > done)
        lengths = lengths or (done,)  # longer than ever seen: as much again
        rest = Request(
            id=self.next_id(),
            arrival_s=self.clock(),
            prompt_tokens=call.request.prompt_tokens + done,
            max_new_tokens=max(1, (call.max_tokens or 0) - done),
            priority=request.priority,
            user=request.user,
            e2el_slo_ms=_left_ms(call.request, self.clock()),
        )
        middle = sorted(lengths)[len(lengths) // 2]
        tell(rest, Prediction(middle, max(middle, quantile_of(lengths)), lengths))
        return rest


def _left_ms(request: Request, now: float) -> float | None:
    """What is left of a bound on the whole answer; None without one."""
    bound_ms = request.e2el_slo_ms
    return None if bound_ms is None else bound_ms - 1e3 * (now - request.arrival_s)


def _counts(upstream: Upstream) -> bool:
    """Whether the server may be asked for the tokens of a stream."""
    return (PATH, "usage") not in upstream.refuses


async def _reads_alike(part: Call, relayed: Relayed, done: int, attempt: Attempt) -> bool:
    """Whether the server reads a continuation's prompt in as many tokens as the first prompt and the answer
    so far had: asked for one token, it says how many. Other tokens would be continued otherwise.
    """
    said, first = Relayed(), relayed.seen.prompt_tokens
    await attempt(
        _part(part, part.request, part.body["prompt"], 1, stream=False), Unheard(part.headers), said
    )
    return first is not None and said.seen.prompt_tokens == first + done


def _part(call: Call, request: Request, prompt: str | list[int], tokens: int, **fields: Any) -> Call:
    """The call as it is sent on: with what has been answered in its prompt, as text or as token ids."""
    body = {**call.body, "prompt": prompt, "max_tokens": tokens, **fields}
    raw = json.dumps(body, separators=(",", ":")).encode()
    part = replace(call, id=request.id, raw=raw, body=body)
    part.request, part.ask, part.extra = request, call.ask, call.extra
    return part


def _add(relayed: Relayed, said: Relayed) -> None:
    """What a part has said to what the parts before it have."""
    all_seen, seen = relayed.seen, said.seen
    tokens = seen.events if seen.output_tokens is None else seen.output_tokens
    all_seen.output_tokens = (all_seen.output_tokens or 0) + tokens or None
    all_seen.prompt_tokens = all_seen.prompt_tokens or seen.prompt_tokens
    all_seen.events += seen.events
    all_seen.reasons, all_seen.is_done, all_seen.error = seen.reasons, seen.is_done, seen.error
    relayed.first_s = relayed.first_s or said.first_s
    relayed.status = said.status or relayed.status
