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
        World(
            "who preempts itself ends the scan",
            (Asking(18, 14), Asking(12, 7, 0, 1), Asking(6, 17, 1)),
            num_gpu_blocks=5,
            priority=True,
            max_num_seqs=8,
        ),
        World(
            "a chunk keeps the size it had before a victim returned its tokens",
            (Asking(29, 30, 0, 1), Asking(45, 32, 0, 2), Asking(35, 43, 1), Asking(48, 3, 1)),
            num_gpu_blocks=9,
            priority=True,
            max_num_seqs=8,
            max_num_batched_tokens=16,
        ),
        World(
            "where nobody can go on, those that are left are scanned again and others let in",
            (Asking(16, 40, 0, 1), Asking(16, 40, 1), Asking(16, 20, 2)),
            num_gpu_blocks=5,
            priority=True,
            max_num_seqs=8,
        ),
        World("one block is kept", (Asking(32, 8), Asking(17, 8)), num_gpu_blocks=5),
        World(
            "ahead: who reaches max_tokens with the iteration in flight takes no part in the next",
            (Asking(4, 2), Asking(44, 3)),
            max_num_seqs=2,
            max_num_batched_tokens=16,
            async_scheduling=True,
        ),
        World(
            "ahead: who has ended by a token of its own runs once more, alone if nobody else does",
            (Asking(4, 3), Asking(40, 4, 1), Asking(7, 2, 20)),
            max_num_batched_tokens=16,
            async_scheduling=True,
            stops_by_eos=True,
        ),
        World(
            "ahead: where nobody can go on, who is left is scanned again when what is in flight has ended",
            (Asking(16, 40, 0, 1), Asking(16, 40, 1), Asking(16, 8, 17)),
            num_gpu_blocks=5,
            priority=True,
            max_num_seqs=8,
            async_scheduling=True,
        ),
        World(
            "ahead: a block that the token in flight completes has no hash",
            (Asking(1, 10), Asking(26, 13, 1)),
            num_gpu_blocks=4,
            prefix_caching=True,
            async_scheduling=True,
        ),
    )
}
