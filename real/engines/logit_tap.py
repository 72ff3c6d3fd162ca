"""A wrapper of an engine that records the logits behind chosen tokens; tokens and decisions stay the same.

Knows nothing of schedulers. A hook on the model's output layer copies the logits into one buffer. A captured
graph contains the copy too, so graphs are captured again while the hook is attached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from .engine import Engine, Part, Row

BUFFER_ROWS = 1024


class LogitTap:
    """Passes padded batches on to `engine`, and keeps the logits of the tokens in `wanted`.

    wanted: request id -> places in its answer, of its last attempt. After the run `logits[id, place]` is a
    float32 vector on the host, and `margins[id]` holds, for every token, the largest logit less the second.
    Whose rows a padded batch has is told by `next_rows`; a batch of which nothing is told is not recorded.
    """

    def __init__(self, engine: Engine, wanted: Mapping[int, set[int]]) -> None:
        self.engine, self.wanted = engine, wanted
        self.coming: Sequence[Row] = ()
        self.batch: list[int] = []
        self.counts: Counter[int] = Counter()
        self.logits: dict[tuple[int, int], torch.Tensor] = {}
        self.margins: dict[int, list[float]] = {}
        model: Any = getattr(engine, "model")  # noqa: B009  (the protocol has none)
        head = model.get_output_embeddings()
        size = (BUFFER_ROWS, head.weight.shape[0])
        self.buffer = torch.zeros(size, dtype=head.weight.dtype, device=engine.device)
        self.head = head

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Inside the block the hook is attached."""
        graphs = getattr(self.engine, "graphs", None)
        if graphs is not None:
            setattr(self.engine, "graphs", type(graphs)())  # noqa: B010
        handle = self.head.register_forward_hook(self._copy)
        try:
            yield
        finally:
            handle.remove()
            if graphs is not None:
                setattr(self.engine, "graphs", graphs)  # noqa: B010

    def next_rows(self, rows: Sequence[Row]) -> None:
        """The next `prefill` has these rows."""
        self.coming = rows

    def prefill(self, prompts: Sequence[Sequence[int]], token_limit: int) -> list[int]:
        """Like the engine's; of its earlier attempt a request keeps the records of what it goes on from."""
        rows, self.coming = self.coming, ()
        tokens = self.engine.prefill(prompts, token_limit)
        self.batch = [row.request for row in rows]
        for i, answered in rows:
            self.counts[i], self.margins[i] = answered, self.margins.get(i, [])[:answered]
        self._note(self.batch)
        return tokens

    def decode(self) -> list[int]:
        """Like the engine's."""
        tokens = self.engine.decode()
        self._note(self.batch)
        return tokens

    def last_logits(self, rows: int) -> torch.Tensor:
        """Logits of the last pass for its first `rows` rows, in float32 on the host."""
        return _on_host(self.buffer[:rows])

    def _copy(self, module: Any, inputs: Any, output: torch.Tensor) -> None:
        rows = output.detach().flatten(0, -2)
        if len(rows) > len(self.buffer):
            self.buffer = rows.new_zeros(rows.shape)
        self.buffer[: len(rows)].copy_(rows)

    def _note(self, ids: Sequence[int]) -> None:
        if not ids:
            return
        rows = self.buffer[: len(ids)]
        top = rows.float().topk(2, dim=-1).values
        for row, (i, margin) in enumerate(zip(ids, (top[:, 0] - top[:, 1]).tolist(), strict=True)):
            place = self.counts[i]
            if place in self.wanted.get(i, ()):
                self.logits[i, place] = _on_host(rows[row])
            self.margins.setdefault(i, []).append(margin)
            self.counts[i] += 1


class StepwiseLogitTap(LogitTap):
    """The same for an engine that mixes prefill and decode, whose keys are request ids."""

    def iterate(self, parts: Sequence[Part]) -> list[int]:
        """Like the engine's."""
        tokens: list[int] = getattr(self.engine, "iterate")(parts)  # noqa: B009
        self._note([part.key for part in parts if part.yields])
        return tokens

    def decode_all(self, keys: Sequence[int]) -> list[int]:
        """Like the engine's."""
        tokens: list[int] = getattr(self.engine, "decode_all")(keys)  # noqa: B009
        self._note(list(keys))
        return tokens


def logit_tap(engine: Engine, wanted: Mapping[int, set[int]]) -> LogitTap:
    """The engine, wrapped in the tap for its kind."""
    return (StepwiseLogitTap if hasattr(engine, "iterate") else LogitTap)(engine, wanted)


def _on_host(logits: torch.Tensor) -> torch.Tensor:
    # Always a copy: the next pass overwrites the buffer.
    return logits.to("cpu", torch.float32, copy=True)
