"""Fewer launches: CUDA graphs captured on first use in one memory pool, and compiled decoder layers.

Knows nothing of what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

WARM_UP_RUNS = 3
"""Runs before a capture, so that compilation, library handles and allocations are not captured."""


MAX_COMPILATIONS = 64
"""A layer is compiled again where a size is 1 or equals another by chance; torch's limit of 8 is too low."""


def bucket(count: int, sizes: Sequence[int]) -> int:
    """The smallest of the rising `sizes` that holds `count`."""
    return next(size for size in sizes if size >= count)


class GraphPool:
    """Functions of one flat tensor on the device, one captured graph per key."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.captured: dict[Hashable, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}

    def run(
        self,
        key: Hashable,
        values: torch.Tensor,
        harmless: torch.Tensor,
        device: torch.device,
        function: Callable[[torch.Tensor], None],
    ) -> torch.Tensor:
        """Replay the graph of `key` on `values`, and return the tensor on the device that it read.

        A new key is captured first; the warm-up that this needs runs on `harmless`, of the same shape: input
        that may be computed several times.
        """
        if key not in self.captured:
            self.captured[key] = self._capture(harmless.to(device), function)
        graph, static = self.captured[key]
        static.copy_(values, non_blocking=True)
        graph.replay()
        return static

    def _capture(
        self, static: torch.Tensor, function: Callable[[torch.Tensor], None]
    ) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        cuda: Any = torch.cuda  # parts of it have no types
        aside = cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP_RUNS):
                function(static)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            function(static)
        return graph, static


def compile_decoder_layers(model: Any, backend: str = "inductor") -> None:
    """Compile each decoder layer of a LLaMA as a whole; layers of one shape share what was compiled."""
    import torch._dynamo as dynamo

    config: Any = dynamo.config
    # With fullgraph, a layer beyond the limit is an error, not a fall back to plain calls.
    config.recompile_limit = max(config.recompile_limit, MAX_COMPILATIONS)
    for layer in model.model.layers:
        layer.compile(fullgraph=True, dynamic=True, backend=backend)
