"""Are answers that run over, and are continued, those that the server gives by itself?"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from tests.servers.layered import layer, session
from tests.servers.overload import Case, rows_of
from tests.servers.prompts import prompts

STORY = "Write a story of so many words: 90"
PROMPTS = (
    STORY,
    *("Write emojis: \U0001f600\U0001f603\U0001f604\U0001f601", "日本の歴史について書いてください。"),
    *("Écrivez une lettre à une amie.", "Напишите рассказ о море."),
)
"""Whose answers are long, or have characters of several tokens."""
SHORT, LONG = 20, 90
"""Tokens of the answers that the layer learns from, and the most of those that run over."""
LEARNT_FROM = 300
ASKED_BEFORE = 5


class Cut(NamedTuple):
    """Prompts whose answers were others, though the server gives the same one twice, and those to which it
    does not; how many there were; continuations, and answers begun again.
    """

    cut_differ: list[str]
    cut_unstable: list[str]
    cut: int
    continuations: int
    restarts: int

    def __str__(self) -> str:
        same = self.cut - len(self.cut_differ) - len(self.cut_unstable)
        return (
            f"with --fcr on {same} of {self.cut} answers are the same, to {len(self.cut_unstable)} it gives "
            f"another itself; {self.continuations} continuations, {self.restarts} begun again"
        )


def cut(case: Case, number: int, out: Path) -> Cut:
    """Ask greedily for `number` answers, those of `PROMPTS` among them, directly and through a layer that
    expects short ones: it learns from the requests before, as if their answers had been so.
    """
    before, short = (out / f"{case.name}-{name}.jsonl" for name in ("before", "short"))
    rows = [{**row, "output_tokens": SHORT} for row in rows_of(before)]
    more = [rows[k % len(rows)] | {"request_id": k} for k in range(LEARNT_FROM)]
    short.write_text("".join(json.dumps(row) + "\n" for row in more), encoding="utf-8")
    flags = ("--slots", "1", "--fcr", "on", "--predictor", f"online:log={short}")

    async def compared(url: str) -> Cut:
        async with session() as client:
            return await _compared(client, case, url, number)

    with layer(case.url, out / f"{case.name}-cut.jsonl", *flags) as url:
        return asyncio.run(compared(url))


async def _compared(client: aiohttp.ClientSession, case: Case, url: str, number: int) -> Cut:
    async def said(base: str, prompt: str, most: int, *, stream: bool = False) -> tuple[str, str | None]:
        body = {"model": case.model, "prompt": prompt, "max_tokens": most, "temperature": 0}
        body["stream"] = stream
        async with client.post(f"{base}/v1/completions", json=body) as response:
            return said_by(await response.read())

    for prompt, _ in prompts(ASKED_BEFORE, 2 * number):  # until it is known whether the server continues
        await said(url, prompt, LONG)
        await asyncio.sleep(1.0)
    differ, unstable, before = list[str](), list[str](), await _counted(client, url)
    for k, prompt in enumerate([*PROMPTS, *(each for each, _ in prompts(number))][:number]):
        stream = k % 2 == 0  # a server may say halves of characters in one of both alone
        direct = await said(case.url, prompt, LONG, stream=stream)
        if direct != await said(url, prompt, LONG, stream=stream):
            is_stable = direct == await said(case.url, prompt, LONG, stream=stream)
            (differ if is_stable else unstable).append(prompt)
    continuations, restarts = (
        now - was for now, was in zip(await _counted(client, url), before, strict=True)
    )
    return Cut(differ, unstable, number, continuations, restarts)


def said_by(data: bytes) -> tuple[str, str | None]:
    """The text of an answer, and why it ended; ValueError for one that shows token ids."""
    lines = [line[5:] for line in data.splitlines() if line.startswith(b"data: {")] or [data]
    choices: list[dict[str, Any]] = [each for line in lines for each in json.loads(line)["choices"]]
    if any(choice.get(name) for choice in choices for name in ("token_ids", "prompt_token_ids")):
        raise ValueError("nobody has asked for token ids")
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"] is not None]
    return "".join(choice["text"] for choice in choices), reasons[-1] if reasons else None


async def _counted(client: aiohttp.ClientSession, url: str) -> tuple[int, int]:
    """Continuations so far, and answers that were begun again."""
    async with client.get(f"{url}/metrics") as response:
        lines = (await response.text()).splitlines()
    counts = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    names = ("seqsched_continuations_total", "seqsched_restarts_total")
    continuations, restarts = (int(float(counts[name])) for name in names)
    return continuations, restarts
