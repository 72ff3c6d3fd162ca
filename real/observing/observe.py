"""`observe`: send a trace to an OpenAI-compatible server, and say what was measured."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal, cast, get_args
from urllib.parse import urlsplit

import aiohttp
import numpy as np

from sim.scenario.requests import arriving, check_concurrency, goodput_bounds, requests_of
from sim.scenario.scenario import stream
from sim.scenario.settings import WorkloadSettings
from sim.version import __version__
from traces.errors import InputError
from traces.trace import Trace

from .api import Endpoint, Reply, Target, ask, client, model_of
from .observation import Observation, observation
from .sending import Order, allow_connections, send
from .slo_headers import stated
from .wording import Prompt, Wording

KEY = "OPENAI_API_KEY"
"""The environment variable that holds the server's key, where it wants one."""
PROBED = (16, 144)
"""Words of the two texts by which the server's tokens a word are found."""
WITHOUT = ((False, True), (True, False), (False, False))
"""Whether requests force lengths and ask for counts, in the order tried with a server that refuses both."""

Lengths = Literal["trace", "model"]


def observe(
    url: str,
    workload: WorkloadSettings,
    *,
    endpoint: str = "completions",
    model: str | None = None,
    lengths: str = "trace",
    timeout_s: float = 3600.0,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Observation:
    """Send the requests of a workload to the server at `url` at their times, and measure.

    A request that waits for others of its session is sent when these have been answered, plus its think time,
    and never where one of them failed.

    Prompts are the trace's texts where it has any, else words of about the right number of tokens by the
    server's own count. They begin alike where the trace says so, and hold the answers to earlier requests
    that it says they hold; otherwise no two are alike, and each run draws others, whatever its `seed`: a
    server that keeps prefixes has none of an earlier run. Bounds that requests state, and their classes, go
    as headers (`slo_headers`), which servers that do not know them ignore.

    `lengths` trace: answers are as long as the trace says where the server can be told to ignore its end
    token; model: they end where the model ends them, at most at the cap. A key is taken from OPENAI_API_KEY.
    `model`: default the first that the server names. `timeout_s`: for a whole answer.

    Raises InputError where the server does not answer to begin with. Later failures are in the observation.
    """
    base = _checked(url, endpoint, lengths, timeout_s)
    requests = requests_of(workload, seed)
    check_concurrency(workload)
    bounds = goodput_bounds(workload.goodput)
    trace = arriving(requests, workload, stream(seed, "arrivals"))
    if not len(trace):
        raise InputError(f"{trace.name}: has no requests")
    assert trace.arrival_s is not None
    trace = trace.select(np.argsort(trace.arrival_s, kind="stable"))
    if lengths == "model":
        assert trace.max_new_tokens is not None
        caps = np.full(len(trace), trace.max_new_tokens) if trace.max_tokens is None else trace.max_tokens
        trace = replace(trace, output_tokens=caps)
    return asyncio.run(
        _run(
            Target(base, cast(Endpoint, endpoint), model or "", forces=lengths == "trace"),
            trace,
            workload,
            timeout_s,
            bounds,
            np.random.default_rng(),
            on_progress,
        )
    )


def _checked(url: str, endpoint: str, lengths: str, timeout_s: float) -> str:
    """The URL without a slash, or the path of the API, at its end."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise InputError(f"url: {url!r} is not the address of a server, such as http://localhost:8000")
    for name, value, known in (
        ("endpoint", endpoint, get_args(Endpoint)),
        ("lengths", lengths, get_args(Lengths)),
    ):
        if value not in known:
            raise InputError(f"{name}: {value!r} is not one of {', '.join(known)}")
    if not timeout_s > 0:
        raise InputError(f"timeout_s: {timeout_s:g} is not above 0")
    return url.rstrip("/").removesuffix("/v1")


async def _run(
    target: Target,
    trace: Trace,
    workload: WorkloadSettings,
    timeout_s: float,
    goodput_ms: dict[str, float],
    rng: np.random.Generator,
    on_progress: Callable[[int, int], None] | None,
) -> Observation:
    allow_connections(min(len(trace), workload.max_concurrency or len(trace)))
    async with client(timeout_s, os.environ.get(KEY)) as session:
        target = await _with_model(session, target)
        target, wording, notes = await _probe(session, target, rng)
        orders = _orders(trace, wording, rng, notes)
        date = datetime.now(UTC).isoformat(timespec="milliseconds")
        sent = await send(
            session, target, orders, max_concurrency=workload.max_concurrency, on_progress=on_progress
        )
    labels = {
        "date": date,
        "backend": "openai" if target.endpoint == "completions" else "openai-chat",
        "base_url": _without_password(target.url),
        "model_id": target.model,
        "num_prompts": len(trace),
        "trace": trace.name,
        "request_rate": _rate(workload.request_rate),
        "burstiness": workload.burstiness,
        "max_concurrency": workload.max_concurrency,
        "version": __version__,
    }
    watched = observation(sent, trace, labels, goodput_ms)
    return replace(watched, notes=(*notes, *watched.notes))


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _rate(rate: float | None) -> float | str | None:
    """JSON has no infinity; vLLM's benchmark writes it as a text, too."""
    return "inf" if rate == float("inf") else rate


async def _with_model(session: aiohttp.ClientSession, target: Target) -> Target:
    """The target with the first model that the server names, where none was given."""
    try:
        named = await model_of(session, target.url)
    except (aiohttp.ClientError, OSError) as error:
        raise InputError(f"{target.url}: no answer ({error or type(error).__name__})") from None
    if not target.model and named is None:
        raise InputError(f"{target.url}: names no model at /v1/models; --model NAME says which to ask")
    return replace(target, model=target.model or named or "")


async def _probe(
    session: aiohttp.ClientSession, target: Target, rng: np.random.Generator
) -> tuple[Target, Wording, list[str]]:
    """Ask twice: whether the server can be told how long to answer, and how many tokens a word is.

    Raises InputError where it gives no answer.
    """
    notes = []

    async def probe(words: int) -> Reply:
        return await ask(session, target, Wording.words(words, rng), 2)

    first = await probe(PROBED[0])
    asked = target
    for forces, counts in WITHOUT:
        if not first.error.startswith("HTTP 4"):
            break
        target = replace(asked, forces=forces and asked.forces, counts=counts)
        first = await probe(PROBED[0])
    if first.error:
        raise InputError(f"{target.url}: {first.error}")
    if asked.forces and not target.forces:
        notes.append("the server takes no ignore_eos and min_tokens: answers end where the model ends them")
    second = await probe(PROBED[1])
    if first.prompt_tokens is None or second.prompt_tokens is None:
        return target, Wording(), notes
    return target, Wording.counted(PROBED, (first.prompt_tokens, second.prompt_tokens)), notes


def _orders(trace: Trace, wording: Wording, rng: np.random.Generator, notes: list[str]) -> list[Order]:
    """What is sent when, texts made before the first is due."""
    assert trace.arrival_s is not None
    due_s = trace.arrival_s - trace.arrival_s[0]
    if trace.prompt is not None:
        prompts = [Prompt(str(text)) for text in trace.prompt]
    else:
        alike = "" if trace.blocks is None else ", alike where it says that prompts begin alike"
        notes.append(f"{trace.name} has no texts: prompts are words drawn at random, of its lengths{alike}")
        prompts = wording.prompts(trace, rng)
    waits_for = [()] * len(trace) if trace.waits_for is None else trace.waits_for.tolist()
    return [
        Order(
            float(due), prompt, int(tokens), tuple(row for row in rows if row >= 0), float(think_s), headers
        )
        for due, prompt, tokens, rows, think_s, headers in zip(
            due_s, prompts, trace.output_tokens, waits_for, trace.thinks_s, stated(trace), strict=True
        )
    ]
