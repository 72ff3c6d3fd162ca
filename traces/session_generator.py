"""Draws conversations: sessions of turns whose prompts grow by the answers before, behind one system prompt.

Knows nothing of files, schedulers or hardware.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from . import sessions
from .errors import InputError
from .generating import MAX_NUM_PROMPTS, MAX_TOKENS, Bounded, lognormal_tokens, stream
from .prompt_blocks import PromptBlocks
from .trace import FloatArray, IntArray, Trace

SYSTEM = 0
"""The hash of the system prompt; questions and answers have the odd and the even numbers above it."""
MAX_TURNS = 1000


class Turns(NamedTuple):
    """The turns of all sessions, one session after the other, each of shape (n,) but `first`: the first turn
    of each session. Prompts hold all that was said before; arrivals are as if answers took no time.
    """

    session: IntArray
    turn: IntArray
    first: IntArray
    is_kept: npt.NDArray[np.bool_]
    prompt: IntArray
    answer: IntArray
    think_s: FloatArray
    arrival_s: FloatArray


@dataclass(frozen=True)
class Sessions(Bounded):
    """Conversations: users start over time, ask, read, and ask again with all that was said in the prompt."""

    users: int | None = None
    """Number of sessions; without it as many as the requests asked for take."""
    turns: float = 4.0
    """Requests of a session: of each, or on average."""
    turns_law: Literal["fixed", "geometric"] = "fixed"
    """Whether all sessions have `turns` requests (rounded), or numbers drawn with this mean."""
    rate: float = 1.0
    """Users that start in a second (Poisson)."""
    think_s: float = 5.0
    """Seconds from the end of an answer to the next turn: of each, or on average."""
    think_law: Literal["fixed", "exponential"] = "exponential"
    """Whether all think times are `think_s`, or drawn with this mean."""
    system_tokens: int = 512
    """Length of the system prompt with which every prompt begins."""
    prompt_tokens: float = 128.0
    """Median of the tokens that a turn adds to the prompt, beside the answers before."""
    prompt_sigma: float = 0.8
    """Standard deviation of the logarithm of these."""
    output_tokens: float = 128.0
    """Median length of an answer."""
    output_sigma: float = 0.8
    """Standard deviation of the logarithm of these."""
    max_output_tokens: int = 2048
    """Longer answers are clipped to this; it becomes the trace's max_new_tokens."""
    max_context_tokens: int = 1_000_000
    """A session ends before a turn, but its first, whose prompt and answer would be longer than this."""
    agents: int = 0
    """Sub-agents that work side by side between two turns: each one request behind the system prompt."""

    NAME: ClassVar[str] = "sessions"
    BOUNDS: ClassVar[Mapping[str, tuple[float, float]]] = {
        "turns": (1, MAX_TURNS),
        "rate": (1e-6, 1e6),
        "think_s": (0, 1e6),
        "system_tokens": (0, MAX_TOKENS),
        "prompt_tokens": (1, MAX_TOKENS),
        "prompt_sigma": (0, 5),
        "output_tokens": (1, MAX_TOKENS),
        "output_sigma": (0, 5),
        "max_output_tokens": (1, MAX_TOKENS),
        "max_context_tokens": (2, MAX_TOKENS),
        "agents": (0, 100),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.users is not None and not 1 <= self.users <= MAX_NUM_PROMPTS:
            raise InputError(f"{self.NAME}: users {self.users} is not between 1 and {MAX_NUM_PROMPTS}")

    def num_requests(self, seed: int) -> int | None:
        """How many requests there are; None where as many as are asked for."""
        return None if self.users is None else len(self._trace(self.users, seed))

    def generate(self, num_prompts: int, seed: int) -> Trace:
        """The first `num_prompts` requests, in the order in which they come where answers take no time."""
        trace = self._trace(self.users, seed) if self.users else self._enough(num_prompts, seed)
        if num_prompts > len(trace):
            self._refuse(num_prompts, len(trace))
        return trace.beginning(num_prompts)

    def whole(self, num_prompts: int, seed: int) -> Trace:
        """The first sessions, to their ends, that have so many requests or more."""
        users = self.users or min(num_prompts, round(1.2 * num_prompts / self.turns) + 10)
        while True:
            turns = self._turns(users, seed)
            kept = np.bincount(turns.session[turns.is_kept], minlength=users)
            total = np.cumsum(kept + self.agents * (kept - 1))
            if total[-1] >= num_prompts:
                return self._trace(int(np.searchsorted(total, num_prompts)) + 1, seed)
            if self.users:
                self._refuse(num_prompts, int(total[-1]))
            users = min(num_prompts, 2 * users)

    def _refuse(self, num_prompts: int, most: int) -> NoReturn:
        raise InputError(
            f"{self.NAME}: {self.users} users make {most} requests, fewer than {num_prompts}; "
            "without users there are as many as needed"
        )

    def _enough(self, num_prompts: int, seed: int) -> Trace:
        """Sessions of which the first so many requests do not change when others are added."""
        users = min(num_prompts, round(1.2 * num_prompts / self.turns) + 10)
        while True:
            trace = self._trace(users, seed)
            assert trace.arrival_s is not None and trace.waits_for is not None
            # As many sessions as requests are always enough, since each has a first request.
            last_start_s = trace.arrival_s[~trace.is_waiting][-1]
            if users == num_prompts or (
                len(trace) >= num_prompts and trace.arrival_s[num_prompts - 1] <= last_start_s
            ):
                return trace
            users = min(num_prompts, 2 * users)

    def _trace(self, users: int, seed: int) -> Trace:
        """All requests of so many sessions, by nominal arrival."""
        turns = self._turns(users, seed)
        parts = [self._conversations(turns)]
        if self.agents:
            parts.append(self._sub_agents(turns, seed))
        columns: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        arrival, place = columns["arrival_s"], columns.pop("place")
        order = np.lexsort((place, columns["session"], arrival))
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        waits_for = columns.pop("waits_for")
        columns["waits_for"] = np.where(waits_for >= 0, rank[waits_for], sessions.NOBODY)
        columns = {name: values[order] for name, values in columns.items()}
        names = np.array([str(number) for number in columns.pop("session").tolist()], dtype=object)
        return Trace(
            name=self.NAME,
            request_id=np.arange(len(order)),
            session_id=names,
            user=names,
            max_new_tokens=self.max_output_tokens,
            blocks=self._blocks(turns, len(order))[order],
            notes=("sessions are drawn: a prompt holds the system prompt and all that was said before",),
            **columns,
        )

    def _turns(self, users: int, seed: int) -> Turns:
        """The turns of so many sessions; those of fewer are the first of them."""
        if self.turns_law == "fixed":
            numbers = np.full(users, round(self.turns))
        else:
            drawn = stream(seed, "turns").geometric(1 / self.turns, size=users)
            numbers = np.minimum(drawn, MAX_TURNS)
        gaps = stream(seed, "session starts").exponential(1 / self.rate, size=users)
        gaps[:1] = 0.0
        n = int(numbers.sum())
        first = np.cumsum(numbers) - numbers
        session, turn = np.repeat(np.arange(users), numbers), np.arange(n) - np.repeat(first, numbers)
        think_s = np.full(n, self.think_s)
        if self.think_law == "exponential":
            think_s *= stream(seed, "think times").standard_exponential(n)
        think_s[turn == 0] = 0.0
        question = self._questions(n, seed, "question")
        answer = self._answers(n, seed, "answer")
        said = np.cumsum(question + answer)
        prompt = self.system_tokens + said - answer - np.repeat((said - question - answer)[first], numbers)
        waited = np.cumsum(think_s)
        arrival = np.repeat(np.cumsum(gaps) - waited[first], numbers) + waited
        over = np.flatnonzero((prompt + answer > self.max_context_tokens) & (turn > 0))
        last = numbers.copy()  # turns of each session that are left
        np.minimum.at(last, session[over], turn[over])
        return Turns(session, turn, first, turn < last[session], prompt, answer, think_s, arrival)

    def _questions(self, n: int, seed: int, purpose: str) -> IntArray:
        rng = stream(seed, f"{purpose} lengths")
        return lognormal_tokens(rng, n, self.prompt_tokens, self.prompt_sigma, MAX_TOKENS)

    def _answers(self, n: int, seed: int, purpose: str) -> IntArray:
        rng = stream(seed, f"{purpose} lengths")
        return lognormal_tokens(rng, n, self.output_tokens, self.output_sigma, self.max_output_tokens)

    def _conversations(self, turns: Turns) -> dict[str, Any]:
        """Columns of the turns; `place` orders the requests of a session that come at one time."""
        kept = np.flatnonzero(turns.is_kept)
        row = np.cumsum(turns.is_kept) - 1  # by turn
        waits_for = np.full((len(kept), max(self.agents, 1)), sessions.NOBODY)
        later = turns.turn[kept] > 0
        if self.agents:
            agent = len(kept) + (np.cumsum(later) - 1)[:, None] * self.agents + np.arange(self.agents)
            waits_for[later] = agent[later]
        else:
            waits_for[later, 0] = row[kept[later] - 1]
        return {
            "session": turns.session[kept],
            "place": 2 * turns.turn[kept],
            "arrival_s": turns.arrival_s[kept],
            "prompt_tokens": turns.prompt[kept],
            "output_tokens": turns.answer[kept],
            "waits_for": waits_for,
            "think_s": turns.think_s[kept],
        }

    def _sub_agents(self, turns: Turns, seed: int) -> dict[str, Any]:
        """Columns of the sub-agents, those before each turn but the first in a row: they start with the end
        of the turn before.
        """
        kept = np.flatnonzero(turns.is_kept & (turns.turn > 0))
        before = np.repeat(kept - 1, self.agents)
        n, count = len(before), self.agents * len(turns.turn)
        chosen = (np.repeat(kept, self.agents) * self.agents) + np.tile(np.arange(self.agents), len(kept))
        task, report = self._questions(count, seed, "task"), self._answers(count, seed, "report")
        waits_for = np.full((n, self.agents), sessions.NOBODY)
        waits_for[:, 0] = (np.cumsum(turns.is_kept) - 1)[before]
        return {
            "session": turns.session[before],
            "place": 2 * turns.turn[before] + 1,
            "arrival_s": turns.arrival_s[before],
            "prompt_tokens": self.system_tokens + task[chosen],
            "output_tokens": report[chosen],
            "waits_for": waits_for,
            "think_s": np.zeros(n),
        }

    def _blocks(self, turns: Turns, num_requests: int) -> PromptBlocks:
        """The system prompt, and every question and answer so far; of sub-agents the system prompt alone."""
        has_system = int(self.system_tokens > 0)
        kept = np.flatnonzero(turns.is_kept)
        counts = np.full(num_requests, has_system)
        counts[: len(kept)] += 2 * turns.turn[kept] + 1
        offsets = np.concatenate([[0], np.cumsum(counts)])
        row = np.repeat(np.arange(num_requests), counts)
        place = np.arange(offsets[-1]) - offsets[row] - has_system  # -1: the system prompt
        is_said = place >= 0
        at = turns.first[turns.session[kept[row[is_said]]]] + place[is_said] // 2
        is_answer = place[is_said] % 2
        hashes = np.full(len(row), SYSTEM)
        ends = np.full(len(row), self.system_tokens)
        hashes[is_said] = 2 * at + 1 + is_answer
        ends[is_said] = turns.prompt[at] + is_answer * turns.answer[at]
        answers = np.full(num_requests, -1)
        answers[: len(kept)] = 2 * kept + 2
        return PromptBlocks(hashes, ends, offsets, answers)
