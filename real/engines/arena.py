"""The engine `cuda-graphs`: a flat KV arena, state on the device, ragged rows, a CUDA graph per batch bucket.

Padded batches and continuous batching go through the same packed forward pass of the stock model, whose
attention (`real.engines.attention`) reads each row's real length only. On the CPU, and in float32, it
computes the same without graphs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from sim.work import SchedulingError

from .attention import NAME, has_kernel, register
from .engine import KvOvercommitted, Part, check_padded
from .graphs import GraphPool, bucket, compile_decoder_layers
from .model import LoadedModel
from .packing import Columns, pack
from .regions import RegionMap

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 1024)
"""Batch sizes that have a graph; others are padded to the next one with scratch rows."""

TOKEN_STEP, MOST_GRAPHED_TOKENS = 64, 512
"""Packed passes of up to MOST_GRAPHED_TOKENS run as graphs, padded to multiples of TOKEN_STEP; in larger ones
the launches are hidden behind the computation.
"""

SEQUENCE_BUCKETS = (4, 16, 64, 256, 1024, 4096)
"""Numbers of sequences to which a packed pass that runs as a graph is padded."""

SCRATCH_TOKENS = 16


class ArenaEngine:
    """Runs padded batches and iterations of continuous batching; see `engine.StepwiseEngine`.

    There is one slot more than rows, for scratch: padding of a bucket runs there, in arena rows beyond the
    capacity. `compile_layers` compiles one decoder layer for all (CUDA only).
    """

    name = "cuda-graphs"
    ragged_prefill = True
    max_rows = BUCKETS[-1]

    def __init__(self, loaded: LoadedModel, capacity_tokens: int, *, compile_layers: bool = False) -> None:
        self.model, self.capacity_tokens, self.device = loaded.model, capacity_tokens, loaded.device
        self.vocab = loaded.shape.vocab
        register()
        self.model.set_attn_implementation(NAME)
        size = (capacity_tokens + SCRATCH_TOKENS, loaded.shape.kv_heads, loaded.shape.head_dim)
        self.arenas: list[torch.Tensor] = []
        for layer in self.model.model.layers:
            for which in ("arena_keys", "arena_values"):
                # Attributes, not a table by layer: one compiled layer then serves all.
                arena = torch.zeros(size, dtype=loaded.dtype, device=self.device)
                setattr(layer.self_attn, which, arena)
                self.arenas.append(arena)
        if compile_layers and self.device.type == "cuda":
            compile_decoder_layers(self.model)
        # Device-side state by slot: last token, tokens in the cache, start of the region.
        self.tokens, self.lengths, self.starts = (
            torch.zeros(self.max_rows + 1, dtype=torch.long, device=self.device) for _ in range(3)
        )
        self.starts[self.max_rows] = capacity_tokens
        self.counting = torch.arange(self.max_rows + 2, dtype=torch.int32, device=self.device)
        # Without the kernel, rows are gathered at the length of the longest, which the host must know.
        self.ragged_decode = has_kernel(self.arenas[0])
        self.graphs = GraphPool() if self.ragged_decode else None
        self.is_filled = False
        self.batch: list[int] = []
        self.places = RegionMap(capacity_tokens)
        self.slot_of: dict[int, int] = {}
        self.length_of: dict[int, int] = {}
        self.free_slots = list(range(self.max_rows - 1, -1, -1))

    def prefill(self, prompts: Sequence[Sequence[int]], token_limit: int) -> list[int]:
        """First token of every row; only real tokens are computed, and running sequences stay in place."""
        check_padded(self.name, prompts, token_limit, self.capacity_tokens)
        self._begin_batch(len(prompts), max(map(len, prompts)) + token_limit)
        return self._packed([Part(key, p, True) for key, p in zip(self.batch, prompts, strict=True)])

    def decode(self) -> list[int]:
        """The next token of every row of the batch."""
        return self.decode_all(self.batch)

    def release(self) -> None:
        """Forget the batch."""
        for key in self.batch:
            self.evict(key)
        self.batch = []

    @contextmanager
    def without_graphs(self) -> Iterator[None]:
        """Inside the block no graph is used: a graph runs the model as it was when captured."""
        graphs, self.graphs = self.graphs, None
        try:
            yield
        finally:
            self.graphs = graphs

    def prime(self, contexts: Sequence[int]) -> None:
        """Set up a batch whose rows have these contexts, in regions of one size."""
        self._prime(contexts, self.capacity_tokens // len(contexts))

    def prime_mixed(
        self, rows: int, context_tokens: int, history_tokens: int, chunk_tokens: int
    ) -> tuple[list[int], int]:
        """Set up a batch, and a sequence with a history that waits for its chunk; the keys of both."""
        spare = history_tokens + chunk_tokens
        self._prime([context_tokens] * rows, (self.capacity_tokens - spare) // rows)
        key = -2 - self.max_rows  # no row of a batch has it, and no request
        self.admit(key, spare)
        self.length_of[key] = history_tokens
        self._make_room({key: chunk_tokens})
        return self.batch, key

    def _prime(self, contexts: Sequence[int], stride: int) -> None:
        self._begin_batch(len(contexts), stride)
        self._fill_once()
        slots = torch.tensor([self.slot_of[key] for key in self.batch], device=self.device)
        starts = [self.places.regions[key].start for key in self.batch]
        self.starts[slots] = torch.tensor(starts, device=self.device)
        self.lengths[slots] = torch.tensor(contexts, device=self.device)
        self.tokens[slots] = torch.randint(self.vocab, (len(contexts),), device=self.device)
        self.length_of.update(zip(self.batch, contexts, strict=True))

    def _fill_once(self) -> None:
        """Fill the arena with random values once: timings on zeros would be too good."""
        if not self.is_filled:
            for arena in self.arenas:
                arena.normal_()
        self.is_filled = True

    def admit(self, key: int, tokens: int) -> None:
        """Give a sequence of at most `tokens` a slot and, as far as possible, a region of that size."""
        if not self.free_slots:
            raise SchedulingError(f"{self.name}: more than {self.max_rows} sequences at a time")
        self.slot_of[key] = self.free_slots.pop()
        self.length_of[key] = 0
        self.places.take(key, tokens)

    def evict(self, key: int) -> None:
        """Forget a sequence."""
        self.places.free(key)
        self.free_slots.append(self.slot_of.pop(key))
        del self.length_of[key]

    def iterate(self, parts: Sequence[Part]) -> list[int]:
        """One iteration of packed sequences of any lengths."""
        return self._packed(parts)

    def decode_all(self, keys: Sequence[int]) -> list[int]:
        """One decode iteration of these sequences."""
        self._make_room(dict.fromkeys(keys, 1))
        tokens = self._decode_slots([self.slot_of[key] for key in keys])
        for key in keys:
            self.length_of[key] += 1
        return tokens

    def _begin_batch(self, rows: int, stride: int) -> None:
        """Rows of a padded batch are sequences with negative keys, all `stride` tokens long."""
        self.release()
        for row in range(rows):
            self.admit(-1 - row, stride)
            self.batch.append(-1 - row)
        try:
            self._make_room(dict.fromkeys(self.batch, stride))
        except KvOvercommitted:
            self.release()
            raise

    def _make_room(self, more: dict[int, int]) -> None:
        """Let each of these sequences grow by that many tokens, moving regions where needed."""
        regions, lengths = self.places.regions, self.length_of
        if all(regions[key].size >= lengths[key] + count for key, count in more.items()):
            return
        needs = {key: lengths[key] + more.get(key, 0) for key in regions}
        for key in self.batch:
            needs[key] = max(needs[key], regions[key].most)
        moves = self.places.lay_out(needs)
        if moves is None:
            raise KvOvercommitted(
                f"{self.name}: {len(needs)} sequences need {sum(needs.values())} KV tokens, "
                f"the capacity is {self.capacity_tokens}"
            )
        for key, source, target in moves:
            count = lengths[key]
            for arena in self.arenas:
                arena[target : target + count] = arena[source : source + count].clone()
        slots = torch.tensor([self.slot_of[key] for key in self.places.regions], device=self.device)
        starts = [region.start for region in self.places.regions.values()]
        self.starts[slots] = torch.tensor(starts, device=self.device)

    def _packed(self, parts: Sequence[Part]) -> list[int]:
        """Run these parts in one forward pass, and update the device-side state of those that yield."""
        self._make_room({part.key: len(part.tokens) for part in parts})
        total = sum(len(part.tokens) for part in parts)
        is_graphed = self.graphs is not None and total <= MOST_GRAPHED_TOKENS
        packed = pack(
            parts,
            starts=[self.places.regions[part.key].start for part in parts],
            lengths=[self.length_of[part.key] for part in parts],
            slots=[self.slot_of[part.key] for part in parts],
            padded_tokens=-(-total // TOKEN_STEP) * TOKEN_STEP if is_graphed else total,
            padded_parts=bucket(len(parts), SEQUENCE_BUCKETS) if is_graphed else len(parts),
            scratch_slot=self.max_rows,
            scratch_row=self.capacity_tokens,
        )
        if is_graphed and self.graphs is not None:
            key = (packed.num_tokens, packed.num_parts)
            flat = self.graphs.run(
                key,
                packed.flat,
                packed.flat,
                self.device,
                lambda x: self._pass(packed.split(x), key[0], self.capacity_tokens),
            )
        else:
            flat = packed.flat.to(self.device)
            longest = max(len(part.tokens) for part in parts)
            most_keys = max(self.length_of[part.key] + len(part.tokens) for part in parts)
            self._pass(packed.split(flat), longest, most_keys)
        slots = packed.split(flat).slots[: packed.num_yields]
        tokens: list[int] = self.tokens[slots].tolist()
        for part in parts:
            self.length_of[part.key] += len(part.tokens)
        return tokens

    def _pass(self, c: Columns, longest: int, most_keys: int) -> None:
        self.tokens[c.slots] = self._forward(
            c.ids,
            c.positions,
            c.write_at,
            c.query_starts.int(),
            c.key_starts.int(),
            c.key_counts.int(),
            c.last,
            longest,
            most_keys,
        )
        self.lengths[c.slots], self.starts[c.slots] = c.lengths, c.regions
        self._reset_scratch()

    def _decode_slots(self, slots: list[int]) -> list[int]:
        """One decode iteration; apart from the slots, all its inputs are on the device."""
        count = bucket(len(slots), BUCKETS) if self.graphs is not None else len(slots)
        rows = torch.tensor(slots + [self.max_rows] * (count - len(slots)))
        if self.graphs is not None:
            scratch = torch.full_like(rows, self.max_rows)
            rows = self.graphs.run((count,), rows, scratch, self.device, self._decode_step)
        else:
            rows = rows.to(self.device)
            self._decode_step(rows)
        tokens: list[int] = self.tokens[rows[: len(slots)]].tolist()
        return tokens

    def _decode_step(self, rows: torch.Tensor) -> None:
        count = rows.numel()
        lengths, starts = self.lengths[rows], self.starts[rows]
        self.tokens[rows] = self._forward(
            self.tokens[rows],
            lengths,
            starts + lengths,
            self.counting[: count + 1],
            torch.nn.functional.pad(starts, (0, 1)).int(),
            (lengths + 1).int(),
            self.counting[:count].long(),
            1,
            self.capacity_tokens,
        )
        self.lengths[rows] = lengths + 1
        self._reset_scratch()

    def _reset_scratch(self) -> None:
        # Fills, not item assignments: those would copy from the host, which a graph cannot hold.
        self.lengths[self.max_rows :].zero_()
        self.starts[self.max_rows :].fill_(self.capacity_tokens)

    def _forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        write_at: torch.Tensor,
        query_starts: torch.Tensor,
        key_starts: torch.Tensor,
        key_counts: torch.Tensor,
        last: torch.Tensor,
        max_queries: int,
        max_keys: int,
    ) -> torch.Tensor:
        with torch.no_grad():
            logits = self.model(
                input_ids=ids[None],
                position_ids=positions[None],
                use_cache=False,
                logits_to_keep=last,
                write_at=write_at,
                query_starts=query_starts,
                key_starts=key_starts,
                key_counts=key_counts,
                max_queries=max_queries,
                max_keys=max_keys,
            ).logits[0]
        tokens: torch.Tensor = logits.argmax(-1)
        return tokens
