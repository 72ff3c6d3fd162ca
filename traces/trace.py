"""The table of requests that a simulation replays; knows nothing of files, schedulers or hardware."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import InputError

if TYPE_CHECKING:
    import pandas as pd

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

DEFAULT_MAX_NEW_TOKENS = 512


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests in order of arrival, one array per column, all of one length n.

    Units: `arrival_s` in seconds from the first arrival (None: the source has no times), token columns in
    tokens. `samples` holds, per request, the response lengths of several generations of the same prompt,
    shape (n, k), with `sample_names` naming the k columns (the paper's file: temperatures 0.0, 0.3, 0.5,
    0.7). `max_new_tokens` is the cap under which the outputs were generated, None where the source states
    none. `notes` say what was assumed or drawn rather than read; `inspect` shows them.
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
    samples: IntArray | None = None
    sample_names: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    notes: tuple[str, ...] = field(default=())

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

    def __len__(self) -> int:
        return len(self.request_id)

    def columns(self) -> tuple[str, ...]:
        """Names of the per-request columns that this trace has, samples aside."""
        names = (
            "request_id",
            "arrival_s",
            "prompt_tokens",
            "output_tokens",
            "predicted_tokens",
            "priority",
            "prompt",
        )
        return tuple(c for c in (*names, "user", "deadline_s") if getattr(self, c) is not None)

    @property
    def perceived_truth(self) -> IntArray:
        """What a predictor is judged by, shape (n,): the largest of the samples, else the output length."""
        return self.output_tokens if self.samples is None else self.samples.max(axis=1)

    def select(self, rows: Iterable[int] | IntArray) -> Trace:
        """These rows in this order (a view where numpy can make one)."""
        index = np.asarray(rows, dtype=np.int64)
        chosen = {
            c: getattr(self, c)[index]
            for c in (*self.columns(), *(["samples"] if self.samples is not None else []))
        }
        return replace(self, **chosen)

    def sample(self, num_prompts: int | None = None, sample_seed: int | None = None) -> Trace:
        """The first `num_prompts` rows, of the file or of its seeded permutation, in that order.

        The permutation is `numpy.random.RandomState(sample_seed).permutation(n)`, the paper's choice; its
        order is then the order of arrival, so the sorted arrival times are handed out anew along it.
        Raises InputError where `num_prompts` is below 1 or above the length of the trace.
        """
        n = len(self)
        count = n if num_prompts is None else num_prompts
        if not 1 <= count <= n:
            raise InputError(
                f"num_prompts: {count} is not between 1 and {n}, the length of trace {self.name}"
            )
        if sample_seed is None:
            return self if count == n else self.select(np.arange(count))
        if not 0 <= sample_seed < 2**32:
            raise InputError(f"sample_seed: {sample_seed} is not between 0 and {2**32 - 1}")
        chosen = self.select(np.random.RandomState(sample_seed).permutation(n)[:count])
        if chosen.arrival_s is None:
            return chosen
        times = np.sort(chosen.arrival_s)
        times = times - times[0]
        deadline = None if chosen.deadline_s is None else chosen.deadline_s - chosen.arrival_s + times
        return replace(chosen, arrival_s=times, deadline_s=deadline)

    def with_output_cap(self, max_new_tokens: int) -> Trace:
        """Output lengths clipped to `max_new_tokens` (a request that reaches the cap is finished there)."""
        return replace(
            self, output_tokens=np.minimum(self.output_tokens, max_new_tokens), max_new_tokens=max_new_tokens
        )

    def to_frame(self) -> pd.DataFrame:
        """A DataFrame of the columns that exist, samples as `L_<name>`; for people and for writers."""
        import pandas as pd

        frame = pd.DataFrame({c: getattr(self, c) for c in self.columns()})
        if self.samples is not None:
            for k, name in enumerate(self.sample_names):
                frame[f"L_{name}"] = self.samples[:, k]
        return frame
