"""What schedulers and executors say to each other; knows nothing of clocks, costs, SimPy or torch.

A scheduler hands out Work, an executor (simulated or real) carries it out and answers with an Outcome. Each
kind of Work says of itself what records, metrics and pictures need to know:

- `kind`: its name in the decision log; `label`: its name in a timeline;
- `is_busy`: whether it takes the accelerator's time;
- `is_padded`: whether it is one batch of rows, whose record holds its time and its iterations (those of
  continuous batching are summed up per replica);
- `is_chunked`: whether it computes chunks of prompts and may evict, which its record then holds;
- `is_question`: whether it asks for lengths instead of computing answers.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Never, NoReturn, Protocol, TypeAlias

from .request import Request


class MemoryTier(NamedTuple):
    """Memory beside the accelerator's: KV tokens that it holds, and seconds that one takes there or back."""

    name: str
    kv_tokens: int
    token_s: float


class Fetch(NamedTuple):
    """Blocks that came back from slower memory: of which request, since when it waited for them, when they
    were there, and how many tokens came from where.
    """

    request_id: int
    since_s: float
    there_s: float
    cpu_tokens: int
    disk_tokens: int


class TierUse(NamedTuple):
    """What slower memory was good for, by tier: prompt tokens fetched when their request was first let in,
    and tokens given up for others; and all that was fetched.
    """

    names: tuple[str, ...]
    found: tuple[int, ...]
    evicted: tuple[int, ...]
    fetches: tuple[Fetch, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the machine can hold, and where a larger batch stops paying.

    `kv_tokens`: capacity of the KV cache in tokens. `block_size`: tokens of a KV block. `knee`: pairs
    (context tokens per sequence, batch size), by rising context: the largest batch that still pays there.
    `perception_tokens`: KV tokens that a length question and its answer take on top of the prompt.
    `async_scheduling`: decisions on iterations are due while the iteration before runs. `tiers`: slower
    memory, the fastest first; `tiers_overlap`: others run while blocks come from there; `tiers_eviction`: by
    which rule the first of them gives up blocks. `prefill_s`: pairs (tokens, seconds of a prompt of that
    length alone), by rising tokens, and `iteration_s`: seconds of an iteration that decodes as many as pay;
    both empty where not known.
    """

    kv_tokens: int
    block_size: int = 16
    knee: tuple[tuple[int, int], ...] = ((0, 256),)
    perception_tokens: int = 0
    async_scheduling: bool = False
    tiers: tuple[MemoryTier, ...] = ()
    tiers_overlap: bool = True
    tiers_eviction: Literal["lru", "arc"] = "lru"
    prefill_s: tuple[tuple[int, float], ...] = ()
    iteration_s: float = 0.0

    def knee_at(self, context_tokens: int) -> int:
        """The batch size beyond which a larger batch stops paying at this context per sequence."""
        at = bisect_right(self.knee, context_tokens, key=lambda pair: pair[0]) - 1
        return self.knee[max(0, at)][1]


Kind: TypeAlias = Literal["Perceive", "PaddedBatch", "Iterations", "Drop"]


@dataclass(frozen=True, slots=True)
class Perceive:
    """Ask the model, in one padded batch, how long the answers to these requests will be."""

    kind: ClassVar[Kind] = "Perceive"
    label: ClassVar[str] = "perceive"
    is_busy: ClassVar[bool] = True
    is_padded: ClassVar[bool] = True
    is_chunked: ClassVar[bool] = False
    is_question: ClassVar[bool] = True

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Prefill these requests together, then decode until all are done or `token_limit` is reached."""

    kind: ClassVar[Kind] = "PaddedBatch"
    label: ClassVar[str] = "batch"
    is_busy: ClassVar[bool] = True
    is_padded: ClassVar[bool] = True
    is_chunked: ClassVar[bool] = False
    is_question: ClassVar[bool] = False

    requests: tuple[Request, ...]
    token_limit: int

    @property
    def answered(self) -> tuple[int, ...]:
        """Tokens of each row's answer that it goes on from; empty where none does."""
        answered = tuple([r.answered_tokens for r in self.requests])
        return answered if any(answered) else ()


@dataclass(frozen=True, slots=True)
class Drop:
    """Give these requests up; takes no time. `reason` begins with `rejected` or `expired`."""

    kind: ClassVar[Kind] = "Drop"
    label: ClassVar[str] = "drop"
    is_busy: ClassVar[bool] = False
    is_padded: ClassVar[bool] = False
    is_chunked: ClassVar[bool] = False
    is_question: ClassVar[bool] = False

    requests: tuple[Request, ...]
    reason: str


@dataclass(slots=True)
class Chunk:
    """`num_tokens` more of a request's prompt (and of what it had generated before an eviction) to compute.

    The `last` chunk yields a token, and the request runs from then on. A first chunk may begin after `cached`
    tokens whose KV is still in memory from before an eviction.
    """

    request: Request
    num_tokens: int
    last: bool
    cached: int = 0


@dataclass(slots=True)
class Iterations:
    """Continuous batching: at most `at_most` iterations of all running requests.

    First the requests `evict` leave the memory (their tokens are kept, to be recomputed with the prompt; who
    has ended meanwhile has left already). The first iteration computes `chunks` beside one token of every
    running request but those in `pause`, which stay in memory; the others decode only. The executor returns
    sooner when a request finishes, with the iteration in progress at `until_s`, or, with `stop_on_arrival`,
    with the iteration in which one arrives.

    `ask`: who is to be asked again how long its answer will be, with the tokens that it has at the end of the
    first iteration; `at_most` is 1 then, and the outcome's predictions answer in this order.

    `overrun`: requests that ended with the iteration before, when the first of these was decided already. It
    computes their rows once more, for nothing, and runs even where there are no others.

    `stall_s`: seconds that the first of these, which has chunks, waits for blocks from slower memory.
    """

    kind: ClassVar[Kind] = "Iterations"
    label: ClassVar[str] = "iterations"
    is_busy: ClassVar[bool] = True
    is_padded: ClassVar[bool] = False
    is_chunked: ClassVar[bool] = True
    is_question: ClassVar[bool] = False

    chunks: Sequence[Chunk]
    evict: Sequence[Request]
    at_most: int
    stop_on_arrival: bool
    until_s: float = math.inf
    overrun: Sequence[Request] = ()
    pause: Sequence[Request] = ()
    ask: Sequence[Request] = ()
    stall_s: float = 0.0

    @property
    def requests(self) -> tuple[Request, ...]:
        """The requests that it names: evicted ones, paused ones, those of the chunks."""
        return (*self.evict, *self.pause, *(chunk.request for chunk in self.chunks))


class SchedulingError(RuntimeError):
    """A scheduler broke the protocol: it lost requests, overcommitted memory or asked for what cannot be
    done.
    """


Work: TypeAlias = Perceive | PaddedBatch | Iterations | Drop

KINDS: Mapping[Kind, type[Work]] = {work.kind: work for work in (Perceive, PaddedBatch, Iterations, Drop)}


def unknown_work(work: Never, scheduler: object) -> NoReturn:
    """Ends a `match` over the kinds of Work: mypy refuses the call where a kind is left over.

    At run time a SchedulingError, for a scheduler from outside may hand out anything.
    """
    raise SchedulingError(f"{type(scheduler).__name__}: {type(work).__name__} is no work of this executor")


class Prediction(NamedTuple):
    """A predicted response length in tokens, the length it stays below at the quantile asked for, and lengths
    that it has with equal probability; the last two where they were asked for.
    """

    tokens: int
    upper_tokens: int | None = None
    lengths: tuple[int, ...] | None = None


def tell(request: Request, prediction: Prediction) -> None:
    """Write on a request what is predicted of it."""
    request.predicted_tokens, request.predicted_upper_tokens, request.predicted_lengths = prediction


@dataclass(slots=True)
class Outcome:
    """What really happened to a Work.

    `iterations`: forward passes run. `finished` and `unfinished` split the requests of a PaddedBatch, each in
    batch order. `predictions` answers a Perceive, or who was asked in Iterations, in its order.
    """

    iterations: int = 0
    finished: Sequence[Request] = ()
    unfinished: Sequence[Request] = ()
    predictions: Sequence[Prediction] = ()


class Scheduler(Protocol):
    """Decides what an accelerator runs next. Built as `Class(limits, **options)`.

    Before each `next_work(now)` the executor has submitted every request that arrived at or before `now`, and
    has recorded the outcome of the work before.

    It may have further members, all optional: see `sim.schedulers.base`.
    """

    def submit(self, request: Request, now: float) -> None:
        """Take a request that has arrived."""

    def next_work(self, now: float) -> Work | None:
        """What to run now; None where there is nothing to do until the next submit or until `wake_at`."""

    def record(self, work: Work, outcome: Outcome, now: float) -> None:
        """Learn what became of the work last handed out. The executor may use the outcome again: keep what it
        holds, not itself.
        """

    def drain(self, now: float) -> list[Request]:
        """Give back all requests not yet ended, those in flight too, and forget them (the replica failed)."""
