"""Regional compilation: one decoder layer is compiled and serves all, for every size of batch."""

from __future__ import annotations

from typing import Any

MOST_COMPILATIONS = 64
"""A layer is compiled anew where a size is 1 or happens to equal another; torch's own limit of 8 is near."""


def compile_layers(model: Any, backend: str = "inductor") -> None:
    """Compile each decoder layer of a LLaMA as a whole; layers of one shape share what was compiled."""
    import torch._dynamo as dynamo

    config: Any = dynamo.config
    # With fullgraph, a layer beyond the limit is an error, not a fall back to plain calls.
    config.recompile_limit = max(config.recompile_limit, MOST_COMPILATIONS)
    for layer in model.model.layers:
        layer.compile(fullgraph=True, dynamic=True, backend=backend)
