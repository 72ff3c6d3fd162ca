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
        *(
            World(name, requests, prefix_caching=True, **options)
            for name, requests, options in (
                (
                    "shared: only full blocks are found",
                    (Asking(41, 2, texts=((0, 40),)), Asking(41, 2, 5, texts=((0, 40),))),
                    {},
                ),
                (
                    "shared: of a prompt that is found whole, the last block is computed again",
                    tuple(Asking(n, 2, 5 * k, texts=((0, n),)) for k, n in enumerate((32, 32, 32))),
                    {},
                ),
                (
                    "shared: a prompt is found from the iteration on that computes it",
                    (Asking(33, 2, texts=((0, 33),)), Asking(33, 2, texts=((0, 33),))),
                    {},
                ),
                (
                    "shared: a prompt is found as far as its chunks go",
                    (Asking(160, 2, texts=((0, 160),)), Asking(160, 2, texts=((0, 160),))),
                    {"max_num_batched_tokens": 64},
                ),
                (
                    "shared: what others hold takes no room",
                    tuple(Asking(65, 3, k, texts=((0, 64),)) for k in (0, 1, 1)),
                    {"num_gpu_blocks": 9},
                ),
                (
                    "shared: what is free and found takes room",
                    (
                        Asking(33, 1, texts=((0, 33),)),
                        Asking(70, 6, 3, texts=((1, 32),)),
                        Asking(49, 2, 4, texts=((0, 33),)),
                    ),
                    {"num_gpu_blocks": 8},
                ),
                (
                    "shared: the first to be free is the first to be given up, from its last block on",
                    (
                        *(Asking(33, 1, 3 * k, texts=((k, 33),)) for k in (0, 1)),
                        Asking(80, 1, 6),
                        *(Asking(33, 1, 9 + 3 * k, texts=((k, 33),)) for k in (0, 1)),
                    ),
                    {"num_gpu_blocks": 9},
                ),
                (
                    "shared: who is found again counts as freed anew",
                    (
                        *(Asking(33, 1, 3 * k, texts=((k, 33),)) for k in (0, 1)),
                        Asking(33, 1, 6, texts=((0, 33),)),
                        Asking(100, 1, 7),
                        *(Asking(33, 1, 9 + 3 * k, texts=((k, 33),)) for k in (0, 1)),
                    ),
                    {"num_gpu_blocks": 9},
                ),
                (
                    "shared: the first block that is not there ends the search",
                    (
                        Asking(64, 1, texts=((0, 16), (1, 48))),
                        Asking(64, 1, 3, texts=((0, 16), (2, 16), (1, 32))),
                    ),
                    {},
                ),
                (
                    "shared: a later turn finds the answer, but for its last token",
                    (Asking(20, 29), Asking(60, 4, 40, after=0)),
                    {},
                ),
                (
                    "shared: where two end at once, blocks are given up as the two were let in",
                    (
                        Asking(40, 12, priority=1, texts=((0, 33),)),
                        Asking(40, 12, texts=((1, 33),)),
                        Asking(64, 1, 20),
                        *(Asking(34, 1, 24 + k, texts=((k, 33),)) for k in (0, 1)),
                    ),
                    {"num_gpu_blocks": 9, "priority": True},
                ),
            )
        ),
    )
}
