"""The smallest worlds found in which one of vLLM's rules decides, a rule each."""

from __future__ import annotations

from collections.abc import Mapping

from tests.vllm.worlds import Asking, World

EXAMPLES: Mapping[str, World] = {
    world.name: world
    for world in (
        World(
            "freed blocks: who holds no hash is taken first",
            (Asking(12, 41), Asking(68, 21), Asking(11, 19, 5)),
            num_gpu_blocks=10,
            prefix_caching=True,
        ),
        World("one block is kept", (Asking(32, 8), Asking(17, 8)), num_gpu_blocks=5),
    )
}
