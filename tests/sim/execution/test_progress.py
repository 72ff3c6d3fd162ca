"""A scheduler that gets nothing done is named after a bounded number of decisions; one that waits is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sim import simulate
from sim.cli import main
from sim.request import Request
from sim.schedulers.base import BaseScheduler
from sim.work import Chunk, Drop, Iterations, Limits, Outcome, PaddedBatch, Perceive, SchedulingError, Work
from tests.sim.flat_machine import flat_machine
from traces.errors import InputError

BURST = "lognormal:output_median=20,max_output_tokens=60"
SETTINGS: list[dict[str, Any]] = [
    {},
    {"predictor": "tuned", "request_rate": 3.0},
    {"replicas": 3},
    {"replicas": 2, "router": "shared-queue"},
    {"max_concurrency": 1},
]


class Own(BaseScheduler):
    """Keeps what is submitted and never lets it go."""

    def __init__(self, limits: Limits) -> None:
        self.waiting: list[Request] = []

    def submit(self, request: Request, now: float) -> None:
        self.waiting.append(request)

    def next_work(self, now: float) -> Work | None:
        return None

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        for request in outcome.finished:
            self.waiting.remove(request)

    def drain(self, now: float) -> list[Request]:
        left, self.waiting = self.waiting, []
        return left


class EmptyDrop(Own):
    def next_work(self, now: float) -> Work | None:
        return Drop((), "rejected: nobody")


class EmptyAsk(Own):
    def next_work(self, now: float) -> Work | None:
        return Perceive(())


class AskForever(Own):
    def next_work(self, now: float) -> Work | None:
        return Perceive(tuple(self.waiting)) if self.waiting else None


class Short(Own):
    def next_work(self, now: float) -> Work | None:
        return PaddedBatch(tuple(self.waiting[:4]), 1) if self.waiting else None


class WakeEps(Own):
    def next_work(self, now: float) -> Work | None:
        self.wake_at = now + 1e-9
        return None


class WakeForEver(Own):
    def next_work(self, now: float) -> Work | None:
        self.wake_at = now + 1.0
        return None


class Thrash(Own):
    """Computes a part of a prompt and evicts it again, over and over; time passes, and nothing else."""

    is_in_memory = False

    def next_work(self, now: float) -> Work | None:
        if not self.waiting:
            return None
        evict = (self.waiting[0],) if self.is_in_memory else ()
        self.is_in_memory = True
        return Iterations((Chunk(self.waiting[0], 1, False),), evict, 1, False)


@pytest.mark.parametrize("settings", SETTINGS, ids=json.dumps)
@pytest.mark.parametrize("policy", [EmptyDrop, EmptyAsk, AskForever, Short, WakeEps, WakeForEver, Thrash])
def test_no_progress_is_named(policy: type[Own], settings: dict[str, Any]) -> None:
    charged = settings.get("predictor") == "tuned"
    message = f"^{policy.__name__} makes no progress: in [0-9]+ decisions"
    if policy is EmptyAsk and charged:
        message = "^EmptyAsk: a Perceive of 0 requests asks nothing"
    machine = flat_machine(0.01)
    with pytest.raises(SchedulingError, match=message):
        simulate(BURST, policy=policy, num_prompts=20, profile=machine, **settings)


def test_a_request_that_is_asked_about_again_is_no_event() -> None:
    with pytest.raises(SchedulingError, match=r"a Perceive of 20 requests") as caught:
        simulate(BURST, policy=AskForever, num_prompts=20, profile=flat_machine())
    decisions = int(str(caught.value).partition("in ")[2].split()[0])
    assert decisions == (10_000 + 10 * 20) // 20 + 1


class Batches(Own):
    """All that wait, in padded batches of 1,000."""

    def next_work(self, now: float) -> Work | None:
        return PaddedBatch(tuple(self.waiting[:1000]), 512) if self.waiting else None


class DropsOneByOne(Batches):
    def next_work(self, now: float) -> Work | None:
        return (
            Drop((self.waiting.pop(),), "rejected: not today")
            if len(self.waiting) > 3
            else super().next_work(now)
        )


class AsksOneByOne(Batches):
    num_asked = 0

    def next_work(self, now: float) -> Work | None:
        if self.num_asked < len(self.waiting):
            self.num_asked += 1
            return Perceive((self.waiting[self.num_asked - 1],))
        return super().next_work(now)


class TriesOneByOne(Batches):
    """Runs each alone with a limit of one token, then with two, three, ... before it runs all to the end."""

    num_tried, limit = 0, 1

    def next_work(self, now: float) -> Work | None:
        if self.waiting and self.limit < 4:
            k, self.num_tried = self.num_tried % len(self.waiting), self.num_tried + 1
            limit = self.limit
            self.limit += k == len(self.waiting) - 1
            return PaddedBatch((self.waiting[k],), limit)
        return super().next_work(now)


class Polls(Batches):
    """Looks every 10 microseconds whether 0.2 s are over, when it runs what has come."""

    since: float | None = None

    def next_work(self, now: float) -> Work | None:
        self.wake_at = now + 1e-5
        if not self.waiting:
            self.since = None
            return None
        self.since = now if self.since is None else self.since
        return None if now - self.since < 0.2 else super().next_work(now)


class ChunksOfOne(Own):
    """A prompt token an iteration, with nobody decoding meanwhile."""

    num_done = 0

    def next_work(self, now: float) -> Work | None:
        if not self.waiting:
            return None
        request = self.waiting[0]
        self.num_done += 1
        if self.num_done <= request.prompt_tokens:
            is_last = self.num_done == request.prompt_tokens
            return Iterations((Chunk(request, 1, is_last),), (), 1, False)
        return Iterations((), (), 512, False)

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        super().record(work, outcome, now)
        if outcome.finished:
            self.num_done = 0


@pytest.mark.parametrize(
    ("policy", "settings"),
    [
        (DropsOneByOne, {"num_prompts": 11_000}),
        (AsksOneByOne, {"num_prompts": 11_000}),
        (TriesOneByOne, {"num_prompts": 4000, "trace": "lognormal:output_median=20,output_sigma=0"}),
        (Polls, {"num_prompts": 20, "request_rate": 5.0}),
        (Polls, {"num_prompts": 20, "request_rate": 5.0, "replicas": 2}),
        (ChunksOfOne, {"num_prompts": 2, "prompt_scale": 500.0}),
        (Batches, {"num_prompts": 20, "step_s": 1e-300}),
        ("continuous", {"num_prompts": 11_000, "step_s": 1e-300}),
        ("sequence:max_wait_s=1e-9", {"num_prompts": 200, "request_rate": 50.0}),
        (
            "sequence:vbs=off,batch_size=1,group_size=20000",
            {"num_prompts": 20_000, "predictor": "constant:tokens=1"},
        ),
    ],
)
def test_whoever_gets_something_done_is_left_alone(policy: Any, settings: dict[str, Any]) -> None:
    settings = dict(settings)
    trace, machine = settings.pop("trace", BURST), flat_machine(settings.pop("step_s", 1e-4), kv_tokens=10**9)
    result = simulate(trace, policy=policy, profile=machine, **settings)
    assert len(result.requests) == settings["num_prompts"]


def test_a_poller_ends_with_the_last_request() -> None:
    result = simulate(BURST, policy=Polls, num_prompts=3, profile=flat_machine(0.01))
    assert result.summary["completed"] == 3


OWN = """
from sim.work import Drop
class Own:
    wake_at, next_work = None, lambda self, now: None
    def __init__(self, limits, **options): self.waiting = []
    def submit(self, request, now): self.waiting.append(request)
    def record(self, work, outcome, now): pass
    def drain(self, now): return self.waiting
class EmptyDrop(Own):
    def next_work(self, now): return Drop((), "rejected: nobody")
class Raises(Own):
    def next_work(self, now):
        return self._choose()
    def _choose(self):
        raise ValueError("boom") from KeyError("first")
class Leaves(Own):
    def submit(self, request, now): raise SystemExit(0)
class LeavesAtOnce(Own):
    def __init__(self, limits): raise SystemExit(0)
class TwoArguments(Exception):
    def __init__(self, a, b): super().__init__(f"{a} and {b}")
class RaisesOddly(Own):
    def next_work(self, now): raise TwoArguments(1, 2)
class DrainsNot(Own):
    def next_work(self, now): return None
    def drain(self, now): return [][0]
class Misspelt(Own):
    next_work = None
class Foreign(Own):
    def next_work(self, now): return "hello"
class NoRecord:
    def __init__(self, limits): pass
    def submit(self, request, now): pass
    def next_work(self, now): return Drop((), "rejected: nobody")
"""


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["simulate", "--num-prompts", "4", *arguments])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    return err


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with the schedulers of OWN."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.parametrize("fleet", [(), ("--replicas", "2"), ("--replicas", "2", "--router", "shared-queue")])
@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("EmptyDrop", "EmptyDrop makes no progress"),
        ("Raises", "policy Raises._choose raised ValueError: boom (FILE, line 15)"),
        ("Leaves", "policy Leaves.submit raised SystemExit: 0 (FILE, line 17)"),
        ("LeavesAtOnce", "LeavesAtOnce raised SystemExit: 0 (FILE, line 19)"),
        ("RaisesOddly", "policy RaisesOddly.next_work raised TwoArguments: 1 and 2 (FILE, line 23)"),
        ("Misspelt", "Misspelt is no scheduler, it has no method next_work"),
        ("Foreign", "Foreign: str is no work of this executor"),
        ("NoRecord", "policy NoRecord raised AttributeError: 'NoRecord' object has no attribute 'record'"),
    ],
)
def test_an_error_of_a_policy_is_one_line(
    policy: str, message: str, fleet: tuple[str, ...], own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    err = refused(capsys, "--policy", f"{own}:{policy}", *fleet)
    assert err.count("\n") == 1 and message.replace("FILE", f"{own}.py") in err


def test_an_error_as_a_replica_fails_is_one_line(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    failing = ("--request-rate", "0.01", "--mtbf-s", "1", "--mttr-s", "1")
    err = refused(capsys, "--policy", f"{own}:DrainsNot", *failing)
    assert f"policy DrainsNot.drain raised IndexError: list index out of range ({own}.py, line 26)" in err


def test_debug_shows_the_traceback(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    err = refused(capsys, "--debug", "--policy", f"{own}:Raises")
    assert "KeyError: 'first'" in err and 'raise ValueError("boom")' in err
    assert err.splitlines()[-1].startswith("seqsched: policy Raises._choose raised ValueError: boom")


def test_in_a_sweep_the_point_is_recorded_as_failed(own: str) -> None:
    from sim import sweep

    policies = ["vanilla", *(f"{own}:{name}" for name in ("EmptyDrop", "Raises", "Leaves"))]
    result = sweep({"num_prompts": 4, "grid": {"policy": policies}}, jobs=1)
    errors = [row["error"] for row in result.rows]
    assert errors[0] is None
    assert errors[1].startswith("EmptyDrop makes no progress")
    assert all("raised" in error and f"{own}.py, line" in error for error in errors[2:])


def test_errors_of_our_own_are_not_put_on_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    from sim.schedulers.microbatch import MicrobatchScheduler

    def broken(self: Any, now: float) -> Work | None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(MicrobatchScheduler, "next_work", broken)
    with pytest.raises(ZeroDivisionError, match="ours"):
        simulate(BURST, policy="vanilla", num_prompts=3)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"policy Broken\.broken raised ZeroDivisionError: ours"):
        simulate(BURST, policy=type("Broken", (Batches,), {"next_work": broken}), num_prompts=3)
