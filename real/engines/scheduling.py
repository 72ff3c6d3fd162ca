"""Engines that schedule by themselves: what they can be set to, what is asked of them, and the journal of
what they decided. Imports no engine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from .decision import Decision
from .engine import Machine


@dataclass(frozen=True)
class SchedulerSettings:
    """Settings of an engine's own scheduler, named as vLLM names them; its defaults.

    `num_gpu_blocks`: as vLLM counts them, one of which it keeps; None: all that the engine has. `priority`:
    the lowest number first, else first come, first served. `reserve_full_prompt`: a request is let in where
    its whole prompt fits in memory, else where its first chunk does.
    """

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    chunked: bool = True
    priority: bool = False
    prefix_caching: bool = True
    async_scheduling: bool = False
    reserve_full_prompt: bool = True
    num_gpu_blocks: int | None = None


@dataclass(frozen=True)
class EngineSizes:
    """The most that an engine is started for; settings below can then be chosen for each run.

    `kv_tokens` None: as much KV cache as the engine finds memory for.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    kv_tokens: int | None


class Load(NamedTuple):
    """What an iteration computes, as the columns of a steps file count it."""

    num_decode: int
    decode_context_tokens: int
    num_prefill: int
    prefill_tokens: int
    prefill_attention: float
    decode_context_max: int


class Progress(NamedTuple):
    """What an iteration that has ended gave a request: new tokens, and whether it is done."""

    key: int
    tokens: Sequence[int]
    is_finished: bool


@dataclass
class Journal:
    """The iterations of an engine since its scheduler was set up: what was decided, and what each computes.

    One is added as it is scheduled. A preemption for an iteration that then could not be scheduled counts
    with the one that follows.
    """

    decisions: list[Decision] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    num_ended: int = 0
    preempted: set[int] = field(default_factory=set)

    def scheduled(
        self,
        tokens: Mapping[int, int],
        reused: Mapping[int, int],
        preempted: set[int],
        blocks: int,
        load: Load,
    ) -> None:
        """An iteration was scheduled, or, where there are no tokens, could not be."""
        self.preempted |= preempted
        if not tokens:
            return
        left = tuple(sorted(self.preempted))
        self.decisions.append(Decision(len(self.decisions), dict(tokens), dict(reused), left, blocks))
        self.loads.append(load)
        self.preempted = set()

    def ended(self) -> None:
        """The oldest iteration that was in flight has ended."""
        self.num_ended += 1


class Setup(NamedTuple):
    """An engine's scheduler with its memory and its requests, which others of the same engine may take turns
    with.

    `scheduler`: the engine's own object. `keys`: the requests' keys by the names that the engine gives them.
    """

    settings: SchedulerSettings
    journal: Journal
    keys: dict[str, int]
    scheduler: Any


class SchedulingEngine(Machine, Protocol):
    """An engine with a scheduler of its own, which is handed requests and run iteration by iteration.

    `capacity_tokens` are those of all blocks of its KV cache, the one that it keeps included.
    """

    block_size: int
    async_scheduling: bool
    """It decides an iteration while the one before it runs."""
    setup: Setup | None
    """What it schedules by; None before the first `use`."""

    def use(self, settings: SchedulerSettings) -> Setup:
        """Schedule by these settings from now on, with an empty memory and a new journal.

        The requests that it had wait until their setup is resumed.
        """

    def resume(self, setup: Setup) -> None:
        """Go on with a setup, where no iteration of another is in flight.

        Decisions and times are as without the break. What it answers is not: others have written to the same
        memory.
        """

    def add(
        self,
        key: int,
        prompt: Sequence[int],
        num_tokens: int,
        priority: int = 0,
        arrival_s: float = 0.0,
        end_tokens: Collection[int] = (),
    ) -> None:
        """A request arrives, whose answer has `num_tokens`, or fewer where one of `end_tokens` ends it."""

    def has_requests(self) -> bool:
        """Whether a request of this setup has not ended."""

    def step(self) -> list[Progress]:
        """Run on until an iteration is done, and its tokens are with the host."""

    def clear(self) -> None:
        """Abort all requests of this setup."""

    def limit_tokens(self, most: int) -> None:
        """The most tokens of an iteration from now on, at most what the scheduler was set to."""
