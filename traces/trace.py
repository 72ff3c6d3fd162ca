"""The table of requests that a simulation replays; knows nothing of files, schedulers or hardware."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import sessions
from .errors import InputError
from .prompt_blocks import PromptBlocks, block_columns

if TYPE_CHECKING:
    import pandas as pd

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

DEFAULT_MAX_NEW_TOKENS = 512
SLO_COLUMNS = ("ttft_slo_ms", "tpot_slo_ms", "e2el_slo_ms")
"""Bounds on the latencies of single requests, in ms."""
MOST_CLASSES, OTHER_CLASSES = 100, "other"
"""Classes of requests that a trace may tell apart, and what the rest of a file's are called."""
ALL_CLASSES = "all"
"""What stands for them together, and is no name of one."""
LONGEST_CLASS = 64
CLASS_NAME = f"a name of 1 to {LONGEST_CLASS} printable characters other than {ALL_CLASSES}"
"""What a class may be called; it is part of keys, headings and headers."""


def is_class(name: str) -> bool:
    """Whether a class may be called so."""
    return name.isprintable() and 1 <= len(name) <= LONGEST_CLASS and name != ALL_CLASSES


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests in order of arrival, one array per column, all of one length n; lengths are at least 1 token.

    Units: `arrival_s` in seconds from the first arrival (None: the source has no times), token columns in
    tokens. `samples` holds, per request, the response lengths of several generations of the same prompt,
    shape (n, k), with `sample_names` naming the k columns (the paper's file: temperatures 0.0, 0.3, 0.5,
    0.7). `waits_for` holds, per request, the earlier rows of its session that must have ended before it
    comes, shape (n, k), -1 where there are fewer; it then arrives `think_s` seconds after the last of them,
    and its `arrival_s`, the time at which it came where that was recorded, only orders it. `max_new_tokens`
    is the cap under which the outputs were generated, None where the source states none; `max_tokens` is each
    request's own. `ttft_slo_ms`, `tpot_slo_ms` and `e2el_slo_ms` are bounds that a request states, NaN where
    it states none, and `slo_class` the name of the kind of requests that it is of, empty for none;
    `deadline_s` is when it has to begin, inf for none.
    `notes` state what was assumed or drawn instead of read; `inspect` shows them. `read_as`
    says in which unit the times of a file were read, empty where there are none. `source_rows` are the rows
    of the source that these are, from 0, where it has rows. `blocks` say which prompts begin alike, None
    where nothing is known of that; a prompt covers its own. `num_cut`: how many requests that go on from
    sessions of these were left out behind the last one. Raises InputError where one of these conditions is
    violated.
    """

    name: str
    request_id: npt.NDArray[Any]
    prompt_tokens: IntArray
    output_tokens: IntArray
    arrival_s: FloatArray | None = None
    predicted_tokens: IntArray | None = None
    priority: IntArray | None = None
    prompt: npt.NDArray[Any] | None = None
    user: npt.NDArray[Any] | None = None
    deadline_s: FloatArray | None = None
    ttft_slo_ms: FloatArray | None = None
    tpot_slo_ms: FloatArray | None = None
    e2el_slo_ms: FloatArray | None = None
    slo_class: npt.NDArray[Any] | None = None
    samples: IntArray | None = None
    sample_names: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    max_tokens: IntArray | None = None
    session_id: npt.NDArray[Any] | None = None
    waits_for: IntArray | None = None
    think_s: FloatArray | None = None
    notes: tuple[str, ...] = field(default=())
    read_as: str = ""
    source_rows: IntArray | None = field(default=None, repr=False)
    blocks: PromptBlocks | None = field(default=None, repr=False)
    num_cut: int = 0

    def __post_init__(self) -> None:
        n = len(self.request_id)
        for column in self.columns():
            if len(getattr(self, column)) != n:
                raise InputError(
                    f"{self.name}: {column} has {len(getattr(self, column))} rows, request_id has {n}"
                )
        if self.samples is not None and self.samples.shape != (n, len(self.sample_names)):
            raise InputError(
                f"{self.name}: samples has shape {self.samples.shape}, not {(n, len(self.sample_names))}"
            )
        prompt, output, caps = self.prompt_tokens, self.output_tokens, self.max_tokens
        self._refuse("prompt_tokens", prompt < 1, lambda i: f"{prompt[i]} is below 1")
        self._refuse("output_tokens", output < 1, lambda i: f"{output[i]} is below 1")
        if caps is not None:
            self._refuse("max_tokens", caps < 1, lambda i: f"{caps[i]} is below 1")
        self._check_slos()
        if (blocks := self.blocks) is not None:
            if len(blocks) != n:
                raise InputError(f"{self.name}: blocks has {len(blocks)} rows, request_id has {n}")
            ends = blocks.last_ends
            self._refuse(
                "blocks", ends > prompt, lambda i: f"{ends[i]} tokens are more than the prompt's {prompt[i]}"
            )
        if (times := self.arrival_s) is not None:
            self._refuse("arrival_s", ~np.isfinite(times), lambda i: f"{times[i]} is not finite")
            self._refuse(
                "arrival_s",
                np.append(False, times[1:] < times[:-1]),
                lambda i: f"{times[i]} is below {times[i - 1]}, the row before; rows are in order of arrival",
            )
        if self.waits_for is not None:
            if self.waits_for.ndim != 2:
                raise InputError(f"{self.name}: waits_for has shape {self.waits_for.shape}, not (n, k)")
            sessions.refuse(self.waits_for, self.think_s, self.session_id, self._refuse_row)
        elif self.think_s is not None:
            raise InputError(f"{self.name}: think_s is of no use without waits_for")

    def _check_slos(self) -> None:
        for name, bounds in self.slos.items():
            for i in np.flatnonzero((bounds <= 0) | np.isinf(bounds))[:1].tolist():
                self._refuse_row(name, i, f"{bounds[i]} is not above 0 and finite")
        if (classes := self.slo_class) is not None:
            if (n := len(set(classes.tolist()) - {""})) > MOST_CLASSES:
                raise InputError(f"{self.name}: slo_class has {n} classes, {MOST_CLASSES} are allowed")
            bad = {name for name in set(classes.tolist()) - {""} if not is_class(name)}
            if bad:
                i = next(row for row, name in enumerate(classes.tolist()) if name in bad)
                self._refuse_row("slo_class", i, f"{ascii(classes[i])[:LONGEST_CLASS]} is not {CLASS_NAME}")

    def _refuse_row(self, column: str, row: int, what: str) -> None:
        raise InputError(f"{self.name}, row {row + 1}, {column}: {what}")

    def _refuse(self, column: str, bad: npt.NDArray[np.bool_], what: Callable[[int], str]) -> None:
        if bad.any():
            i = int(bad.argmax())
            raise InputError(f"{self.name}, row {i + 1}, {column}: {what(i)}")

    def __len__(self) -> int:
        return len(self.request_id)

    def columns(self) -> tuple[str, ...]:
        """Names of the per-request columns that this trace has, samples and blocks aside."""
        names = (
            "request_id",
            "arrival_s",
            "prompt_tokens",
            "output_tokens",
            "predicted_tokens",
            "priority",
            "prompt",
        )
        more = ("user", "deadline_s", *SLO_COLUMNS, "slo_class", "max_tokens")
        of_sessions = ("session_id", "waits_for", "think_s")
        return tuple(c for c in (*names, *more, *of_sessions) if getattr(self, c) is not None)

    @property
    def is_waiting(self) -> npt.NDArray[np.bool_]:
        """Which requests wait for another one to end, shape (n,)."""
        return (
            np.zeros(len(self), dtype=bool) if self.waits_for is None else sessions.is_waiting(self.waits_for)
        )

    @property
    def sessions(self) -> npt.NDArray[Any] | None:
        """The session of each request, shape (n,): by its id, or by the id of its first request; None for
        one that is of no session, and where nothing is known of sessions.
        """
        if self.session_id is not None:
            blank = np.array([sessions.is_blank(each) for each in self.session_id.tolist()], dtype=bool)
            if not blank.any():
                return self.session_id
            named = self.session_id.astype(object)
            named[blank] = None
            return named
        if self.waits_for is None:
            return None
        first: npt.NDArray[Any] = self.request_id[sessions.session_of(self.waits_for, None)]
        return first

    @property
    def slos(self) -> dict[str, FloatArray]:
        """The columns of bounds that requests state, those that there are, each of shape (n,)."""
        return {name: getattr(self, name) for name in SLO_COLUMNS if getattr(self, name) is not None}

    @property
    def slo_columns(self) -> dict[str, Any]:
        """The same, and the class of each request where there are classes."""
        named = {} if self.slo_class is None else {"slo_class": self.slo_class}
        return {**self.slos, **named}

    @property
    def thinks_s(self) -> FloatArray:
        """`think_s`, 0 where the trace has none, shape (n,)."""
        return np.zeros(len(self)) if self.think_s is None else self.think_s

    def cells(self, column: str) -> npt.NDArray[Any]:
        """A column as a table shows it, shape (n,): who is waited for by id."""
        values: npt.NDArray[Any] = getattr(self, column)
        return sessions.texts(values, self.request_id.tolist()) if column == "waits_for" else values

    @property
    def perceived_truth(self) -> IntArray:
        """The lengths that predictions are compared with, shape (n,): the largest sample, else the output."""
        return self.output_tokens if self.samples is None else self.samples.max(axis=1)

    @property
    def mean_rate(self) -> float | None:
        """Requests per second by the trace's own times, (n-1) / (last arrival - first); None where it has no
        times, or all arrive at once.
        """
        if self.arrival_s is None or len(self) < 2:
            return None
        span = float(self.arrival_s[-1] - self.arrival_s[0])
        return (len(self) - 1) / span if span > 0 else None

    def select(self, rows: Iterable[int] | IntArray) -> Trace:
        """These rows in this order (copies).

        Who waits for a row that is not among them waits for what that one waited for, both think times long.
        Raises InputError where the trace has arrival times and they are not in order along it.
        """
        return replace(self, **self._at(np.asarray(rows, dtype=np.int64)))

    def _at(self, index: IntArray) -> dict[str, Any]:
        others = [name for name in ("samples", "source_rows", "blocks") if getattr(self, name) is not None]
        names = (*self.columns(), *others)
        chosen = {name: getattr(self, name)[index] for name in names}
        if self.waits_for is not None:
            waits_for, think_s = sessions.taken(self.waits_for, self.thinks_s, index)
            chosen |= {"waits_for": waits_for, "think_s": think_s}
        return chosen

    def beginning(self, count: int) -> Trace:
        """The first so many rows; `num_cut` says how many of the others go on from their sessions."""
        kept = self.select(np.arange(count))
        if self.waits_for is None:
            return kept
        first = sessions.session_of(self.waits_for, self.session_id)
        return replace(kept, num_cut=self.num_cut + int((first[count:] < count).sum()))

    def sample(self, num_prompts: int | None = None, sample_seed: int | None = None) -> Trace:
        """The first `num_prompts` rows, of the file or of its seeded permutation, in that order.

        The permutation is `numpy.random.RandomState(sample_seed).permutation(n)`, the paper's choice; its
        order is then the order of arrival, so the sorted arrival times are reassigned along it.
        Raises InputError where `num_prompts` is below 1 or above the length of the trace, and for a
        permutation of requests that wait for each other.
        """
        n = len(self)
        count = n if num_prompts is None else num_prompts
        if not 1 <= count <= n:
            raise InputError(
                f"num_prompts: {count} is not between 1 and {n}, the length of trace {self.name}"
            )
        if sample_seed is None:
            return self if count == n else self.beginning(count)
        if not 0 <= sample_seed < 2**32:
            raise InputError(f"sample_seed: {sample_seed} is not between 0 and {2**32 - 1}")
        if self.is_waiting.any():
            raise InputError(
                f"sample_seed: {sample_seed} permutes requests, and those of {self.name} wait for each other"
            )
        chosen = self._at(np.random.RandomState(sample_seed).permutation(n)[:count])
        if "arrival_s" in chosen:
            times = np.sort(chosen["arrival_s"])
            times = times - times[0]
            if "deadline_s" in chosen:
                chosen["deadline_s"] = chosen["deadline_s"] - chosen["arrival_s"] + times
            chosen["arrival_s"] = times
        return replace(self, **chosen)

    def with_outputs(self, output_tokens: IntArray, **others: Any) -> Trace:
        """The trace with answers of these lengths, shape (n,), and the `others` in place of its own columns.

        Prompts that hold answers of earlier requests, by `blocks`, grow or shrink with these. A text of such
        a prompt is dropped.
        """
        changed = replace(self, output_tokens=output_tokens, **others)
        if self.blocks is None or self.blocks.answers is None:
            return changed
        longer = output_tokens - self.output_tokens
        blocks, prompt_tokens = self.blocks.with_answers(longer, self.prompt_tokens)
        is_same = bool((prompt_tokens == self.prompt_tokens).all())
        prompt = self.prompt if is_same else None
        return replace(changed, blocks=blocks, prompt_tokens=prompt_tokens, prompt=prompt)

    def with_output_cap(self, max_new_tokens: int) -> Trace:
        """Output lengths, and the requests' own caps, clipped to `max_new_tokens` (a request that reaches the
        cap is finished there).
        """
        return self.with_outputs(
            np.minimum(self.output_tokens, max_new_tokens),
            max_new_tokens=max_new_tokens,
            max_tokens=None if self.max_tokens is None else np.minimum(self.max_tokens, max_new_tokens),
        )

    def to_frame(self) -> pd.DataFrame:
        """A DataFrame of the columns that exist, samples as `L_<name>` and blocks as in `block_columns`; for
        people and for writers.
        """
        import pandas as pd

        frame = pd.DataFrame({c: self.cells(c) for c in self.columns()})
        if self.samples is not None:
            for k, name in enumerate(self.sample_names):
                frame[f"L_{name}"] = self.samples[:, k]
        if self.blocks is not None:
            for name, values in block_columns(self.blocks).items():
                frame[name] = values
        return frame
