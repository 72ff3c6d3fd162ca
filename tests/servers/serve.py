"""Does the layer leave real servers' answers as they are, and does an overload gain what `pilot` said?

    python -m tests.servers.serve --out out/serve

`make serve-test`. Starts a llama.cpp server (SmolLM2-135M-Instruct, 4 slots, one thread) and, where there is
an environment with it, a vLLM server (the same model, 6 sequences, one thread, `--scheduling-policy
priority`). Of each:

1. Prompts go to it directly and through `seqsched serve`, decoded greedily, streaming and not: every answer
   must be the same, but for its number and its times. openai's Python client, where the server's environment
   has it, asks as well. So must answers be that run over and are continued (`--fcr on`).
2. The layer serves other requests first come, first served, and writes a log with texts to learn from.
3. Many requests come at once, first come, first served. `seqsched pilot` says from that log what the shortest
   predicted first would gain.
4. The same requests come again under that order: by what was learnt, then by lengths that clients tell. The
   layer holds what llama.cpp has no slot for; vLLM is told by its priorities.

That is repeated, and each gain set beside what was said of the log before it: in seconds of the wall, and in
seconds of the server's processor, for which it does not matter how busy the machine is. The exit status is 1
where an answer differs or fails, where the starvation bound is broken, or where pilot is off a gain in mean
latency by more than a tenth of it and by more than chance explains, by the server's clock: 0 is then outside
the 90 % interval of its error over rounds. The last line of stdout is JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from sim.cli import run_script
from tests.servers.continuations import cut
from tests.servers.gain import FIGURES, gains
from tests.servers.layered import ask, layer, session
from tests.servers.overload import CLOCKS, SHORTEST, Case, Rounds, overload, slots_found, validated
from tests.servers.prompts import body_of, prompts
from tests.servers.started import HERE, Server, free_port, llama_cpp, running, vllm
from tests.servers.starvation_bound import bounded, told
from traces.errors import InputError

SLOTS = 4
SEQUENCES = 6
OWN = frozenset(("id", "created", "timings"))
"""Fields of an answer that are another each time."""
FEW = 8
"""Tokens of an answer that is compared."""
BY_OPENAI = 20
"""Prompts that openai's client asks."""
TOLD = ("--act", "tell")
SENT_AT_ONCE = ("--slots", "1000", "--policy", "continuous")


class Numbers(NamedTuple):
    """Of prompts that are compared, of those whose answers run over, of requests at once, and before."""

    prompts: int
    cut: int
    overload: int
    before: int


def essence(data: bytes, *, in_pieces: bool) -> list[Any]:
    """What an answer, or each event of one, says, without what is another each time, and without fields that
    are null: a server has those in whole answers that it has not in streams, of which the layer makes whole
    ones. `in_pieces`: where a stream is cut into events counts.
    """
    lines = [line[5:].strip() for line in data.splitlines() if line.startswith(b"data:")] or [data]
    said = [line.decode() if line == b"[DONE]" else without_null(json.loads(line)) for line in lines]
    events = [
        {name: value for name, value in each.items() if name not in OWN} if isinstance(each, dict) else each
        for each in said
    ]
    return events if in_pieces else joined(events)


def without_null(value: Any) -> Any:
    """The same without fields that are null."""
    if isinstance(value, dict):
        return {name: without_null(each) for name, each in value.items() if each is not None}
    return [without_null(each) for each in value] if isinstance(value, list) else value


def joined(events: Sequence[Any]) -> list[Any]:
    """Events with their texts moved into one of their own, at the end."""
    texts, others = [], []
    for event in events:
        delta = event["choices"][0].get("delta") if isinstance(event, dict) and event.get("choices") else None
        if delta:
            texts.append(delta.pop("content", ""))
        if delta != {} or "finish_reason" in event["choices"][0]:
            others.append(event)
    return [*others, "".join(texts)]


async def same_answers(
    client: aiohttp.ClientSession, case: Case, through: str, number: int
) -> tuple[list[str], list[str]]:
    """The prompts, one after the other, whose answers through the layer are others than direct ones: those
    to which the server itself gives the same answer twice, and those to which it does not.
    """
    differ, unstable = list[str](), list[str]()
    for k, (prompt, cap) in enumerate(prompts(number)):
        body = body_of(prompt, model=case.model, stream=k % 2 == 0, most=min(cap, FEW), extra=case.extra)

        async def said(url: str, body: dict[str, Any] = body) -> list[Any]:
            return essence(await ask(client, url, body), in_pieces=case.in_pieces)

        direct = await said(case.url)
        if direct != await said(through):
            again = await said(case.url)
            (differ if again == direct else unstable).append(prompt)
    return differ, unstable


def _compared(case: Case, number: int, out: Path) -> tuple[list[str], list[str]]:
    async def compared(url: str) -> tuple[list[str], list[str]]:
        async with session() as client:
            return await same_answers(client, case, url, number)

    with layer(case.url, out / f"{case.name}-same.jsonl", *case.shortest) as url:
        return asyncio.run(compared(url))


def _by_openai(case: Case, python: Path, out: Path) -> list[str] | None:
    """What openai's own client, of the server's environment, gets otherwise through the layer than directly,
    by prompt; None where it is not there.
    """
    if subprocess.run([python, "-c", "import openai"], stderr=subprocess.DEVNULL, check=False).returncode:
        return None
    asked = [prompt for prompt, _ in prompts(BY_OPENAI)]

    def said(url: str) -> list[Any]:
        request = {"url": url, "model": case.model, "prompts": asked, "most": FEW, "extra": case.extra}
        command = [python, HERE / "openai_client.py"]
        done = subprocess.run(command, input=json.dumps(request).encode(), stdout=subprocess.PIPE, check=True)
        answers: list[Any] = json.loads(done.stdout)
        return answers

    with layer(case.url, out / f"{case.name}-openai.jsonl", *case.shortest) as url:
        pairs = zip(("the models", *asked), said(case.url), said(url), strict=True)
        return [what for what, direct, through in pairs if direct != through]


def _llama_cpp(python: Path, port: int) -> tuple[Server, Any]:
    slots = ("--slots", str(SLOTS), "--policy")

    def case(pid: int) -> Case:
        # Without what is kept of earlier prompts, which would change its rounding.
        return Case(
            name="llama.cpp",
            url=f"http://127.0.0.1:{port}",
            pid=pid,
            model="smollm2-135m-instruct",
            slots=SLOTS,
            fcfs=(*slots, "continuous"),
            shortest=(*slots, SHORTEST),
            ran_slots=None,
            extra={"cache_prompt": False},
            in_pieces=True,
        )

    return llama_cpp(python, port, SLOTS), case


def _vllm(python: Path, port: int) -> tuple[Server, Any]:
    from real.engines.packaged import folder_of

    name = "smollm2-135m"

    def case(pid: int) -> Case:
        return Case(
            name="vLLM",
            url=f"http://127.0.0.1:{port}",
            pid=pid,
            model=name,
            slots=SEQUENCES,
            fcfs=SENT_AT_ONCE,
            shortest=TOLD,
            ran_slots=SEQUENCES,
            extra={},
            in_pieces=False,  # where its loop is behind, it sends several tokens as one event
        )

    server = vllm(
        python,
        port,
        folder_of(name),
        name=name,
        slots=SEQUENCES,
        scheduling_policy="priority",
        enforce_eager=True,
        distributed_executor_backend="uni",  # a worker process spins while it waits, which its clock counts
    )
    return server, case


def _show(case: Case, rounds: Rounds, out: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Gains by clock, printed as a table."""
    print(f"| {case.name} | clock | mean falls by | pilot off by | p99 falls by |\n|---|---|---|---|---|")
    for clock in CLOCKS:
        by_arm = gains(case, rounds, clock, out)
        for arm, by_figure in by_arm.items():
            mean, p99 = (by_figure[f] for f in FIGURES)
            print(f"| {arm} | {clock} | {mean} | {mean.verdict} | {p99} |", flush=True)
        yield (
            clock,
            {
                arm: {
                    **{f: gain.to_json() for f, gain in each.items()},
                    "is_missed": each[FIGURES[0]].is_missed,
                }
                for arm, each in by_arm.items()
            },
        )


def _watched(case: Case, python: Path, numbers: Numbers, rounds: Rounds, out: Path) -> dict[str, Any]:
    """Everything that the server has to run for."""
    num_prompts, num_overload = numbers.prompts, numbers.overload
    differ, unstable = _compared(case, num_prompts, out)
    same = num_prompts - len(differ) - len(unstable)
    print(f"{case.name}: {same} of {num_prompts} answers are the same", flush=True)
    if unstable:
        print(f"{case.name}: to {len(unstable)} it gives another itself when asked again", flush=True)
    by_openai = _by_openai(case, python, out)
    if by_openai is None:
        print(f"{case.name}: openai's client is not there, left out", flush=True)
    else:
        same = BY_OPENAI + 1 - len(by_openai)
        print(f"{case.name}: {same} of {BY_OPENAI + 1} answers are the same to openai's client", flush=True)
    found: dict[str, Any] = {"prompts": num_prompts, "differ": differ, "unstable": unstable}
    found["by_openai"] = by_openai
    for line in overload(case, num_overload, numbers.before, rounds, out):
        print(line, flush=True)
    if numbers.cut:
        print(f"{case.name}: {(was_cut := cut(case, numbers.cut, out))}", flush=True)
        found |= was_cut._asdict()
    run = (told if case.shortest == TOLD else bounded)(case, num_overload, out)
    print(f"{case.name}: {run}", flush=True)
    found |= run._asdict()
    found["slots"] = slots_found(case, num_overload // 2, out)
    print(f"{case.name}: --slots auto has {found['slots']:g} there of {case.slots}", flush=True)
    return found


def serve_test(
    *,
    servers_python: Path = Path(".venv-servers/bin/python"),
    vllm_python: Path = Path(".venv-vllm/bin/python"),
    num_prompts: int = 200,
    num_cut: int = 16,
    num_overload: int = 80,
    num_before: int = 160,
    rounds: int = 3,
    rounds_told: int = 3,
    out: Path = Path("out/serve"),
) -> None:
    """Put real servers behind the layer, and compare.

    Parameters
    ----------
    servers_python
        The interpreter of the environment with llama.cpp; without it, it is left out.
    vllm_python
        The interpreter of the environment with vLLM; without it, it is left out.
    num_prompts
        Prompts asked directly and through the layer, at most 240.
    num_cut
        Prompts whose answers run over, at most 240; 0: none.
    num_overload
        Requests sent at once.
    num_before
        Other requests that the layer learns from before.
    rounds
        How often each arm is tried, in turn.
    rounds_told
        In how many of these clients tell lengths, too.
    out
        The folder for logs.
    """
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name, python, start in (("llama.cpp", servers_python, _llama_cpp), ("vLLM", vllm_python, _vllm)):
        if not python.exists():
            made = "make serve-test" if start is _llama_cpp else "make vllm"
            print(f"{name}: skipped, there is no {python} ({made} makes it)", file=sys.stderr)
            continue
        server, case_of = start(python.absolute(), port := free_port())
        with running(server, f"http://127.0.0.1:{port}", out / f"{name}.log") as pid:
            times = Rounds(rounds, rounds_told)
            numbers = Numbers(num_prompts, num_cut, num_overload, num_before)
            found[name] = _watched(case := case_of(pid), python.absolute(), numbers, times, out)
        found[name]["gains"] = dict(_show(case, times, out))
        found[name]["validated"] = errors = validated(case, "server", out)
        said = ", ".join(f"{key.upper()} {error:+.1%}" for key, error in errors.items())
        print(f"{name}: fitted to the first log, the second is simulated with {said}")
    if not found:
        raise InputError("no server: neither environment is there")
    print(json.dumps(found))
    if any(_is_missed(each) for each in found.values()):
        sys.exit(1)


def _is_missed(found: dict[str, Any]) -> bool:
    arms = found["gains"]["server"].values()
    wrong = found["differ"] or found["by_openai"] or found.get("cut_differ") or found.get("breaches")
    return bool(wrong or any(arm["is_missed"] for arm in arms))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run_script(serve_test)
