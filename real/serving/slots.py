"""How many requests a server works on at a time, as it says itself (`--slots auto`).

llama.cpp and SGLang state it. vLLM states how many wait: as many as run while some wait are its slots, and
since its memory decides as well, that is watched for as long as the layer runs.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from traces.errors import InputError

from .call import count
from .upstreams import Upstream

ASK_S = 10.0
"""Seconds that a server may take to say it."""
WATCH_S = 1.0
"""Seconds between two looks at a server that says how many wait."""
FIRST_SLOTS = 8
"""Slots to begin with, of a server with which nobody waits yet."""
LIMIT, WAITING, RUNNING = "max_num_seqs", "vllm:num_requests_waiting", "vllm:num_requests_running"
FAULTS = (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError)
"""What asking a server may end in; an answer that cannot be read is one of them."""


class SlotSource:
    """Asks servers; `headers`: what is sent along, the upstream's key in them if there is one."""

    def __init__(self, session: aiohttp.ClientSession, headers: dict[str, str]) -> None:
        self.session, self.headers = session, headers

    async def upstream(self, url: str) -> Upstream:
        """The server with the slots that it states; InputError where it states none."""
        stated = _of_llama_cpp(await self._json(url, "/props"))
        for path in ("/server_info", "/get_server_info"):  # SGLang's, and how it was called before
            stated = stated or _of_sglang(await self._json(url, path))
        if stated:
            return Upstream(url, stated)
        found = await self.metrics(url)
        if LIMIT in found:
            return Upstream(url, max(1, found[LIMIT]))
        if WAITING in found and RUNNING in found:
            slots = max(1, found[RUNNING]) if found[WAITING] else FIRST_SLOTS
            return Upstream(url, slots, says_waiting=True)
        raise InputError(
            f"slots: auto, but {url} does not say how many requests it works on at a time; --slots N does"
        )

    async def metrics(self, url: str) -> dict[str, int]:
        """How many run and wait by vLLM's metrics, over its engines, and its limit where a label states it;
        empty where there is nothing of this.
        """
        found: dict[str, int] = {}
        text = await self._get(url, "/metrics")
        with suppress(ValueError):
            for family in text_string_to_metric_families(text or ""):
                for sample in family.samples:
                    if sample.name in (WAITING, RUNNING):
                        found[sample.name] = found.get(sample.name, 0) + int(sample.value)
                    limit = sample.labels.get(LIMIT, "")
                    if sample.name.startswith("vllm:") and limit.isdecimal():
                        found[LIMIT] = int(limit)
        return found

    async def _json(self, url: str, path: str) -> Any:
        text = await self._get(url, path)
        with suppress(ValueError, RecursionError):
            return json.loads(text or "null")
        return None

    async def _get(self, url: str, path: str) -> str | None:
        timeout = aiohttp.ClientTimeout(total=ASK_S)
        with suppress(*FAULTS):
            async with self.session.get(
                url + path, headers=self.headers, timeout=timeout, allow_redirects=False
            ) as response:
                return await response.text() if response.status == 200 else None
        return None


class SlotWatch:
    """Follows what servers say of their queues: whoever waits there shall wait here, where the order is ours.

    `wanted()`: whether anybody waits here. `changed()` is called when there are more slots.
    """

    def __init__(self, source: SlotSource, wanted: Callable[[], bool], changed: Callable[[], None]) -> None:
        self.source, self.wanted, self.changed = source, wanted, changed
        self.had_waiting: set[str] = set()

    async def run(self, upstreams: Sequence[Upstream]) -> None:
        """Look again and again, for ever."""
        while upstreams:
            await asyncio.sleep(WATCH_S)
            for upstream in upstreams:
                found = await self.source.metrics(upstream.url)
                if WAITING in found:
                    self.heard(upstream, found[WAITING])

    def heard(self, upstream: Upstream, num_waiting: int) -> None:
        """So many wait there: twice in a row, for each request waits for a moment before its first step."""
        if num_waiting:
            if upstream.url in self.had_waiting:
                upstream.slots = max(1, min(upstream.slots, upstream.busy - num_waiting))
            self.had_waiting.add(upstream.url)
            return
        self.had_waiting.discard(upstream.url)
        if upstream.busy >= upstream.slots and self.wanted():
            upstream.slots += max(1, upstream.slots // 4)
            self.changed()


def _of_llama_cpp(props: Any) -> int | None:
    return count(props.get("total_slots")) if isinstance(props, dict) else None


def _of_sglang(info: Any) -> int | None:
    """Of all ranks together."""
    states = info.get("internal_states") if isinstance(info, dict) else None
    if not isinstance(states, list) or not states or not isinstance(states[0], dict):
        return None
    each = count(states[0].get("effective_max_running_requests_per_dp"))
    return each * (count(info.get("dp_size")) or 1) if each else None
