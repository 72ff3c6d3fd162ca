"""What a scheduler may know of a request; the true length of its answer is not here, only executors know
that.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Request:
    """One request, identified by `id`, its row in the trace.

    Tokens are counts, times are seconds on the executor's clock. A lower `priority` number goes first (as in
    vLLM). The two predictions are None until perception has spoken: `predicted_tokens` is the expected length
    of the answer, `predicted_upper_tokens` the length that it stays below with the scheduler's
    `upper_quantile`.
    """

    id: int
    arrival_s: float
    prompt_tokens: int
    max_new_tokens: int
    priority: int = 0
    user: str | None = None
    deadline_s: float | None = None
    predicted_tokens: int | None = None
    predicted_upper_tokens: int | None = None
