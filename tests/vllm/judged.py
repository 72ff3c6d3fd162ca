"""What vLLM itself decides in a small world. Needs vLLM, and more of it than is public: its version is pinned
(`make vllm`).

Dry: its `Scheduler` and `KVCacheManager` with outputs that are made up: a world takes hundredths of a second.
Engine: a whole engine in this process, with a tiny model of random weights, as `real/validate.py --engine
vllm` runs it.
"""

from __future__ import annotations

import random
from typing import Any, Protocol

import torch
from vllm import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

from real.engines import model
from real.engines.decision import Decision
from real.engines.scheduling import EngineSizes, Journal, SchedulerSettings
from real.engines.vllm.engine import VllmEngine, engine_arguments
from real.engines.vllm.schedulers import scheduler_for
from tests.vllm.worlds import World

EOS, VOCAB = 2, 512
SIZES = EngineSizes(
    max_num_seqs=256, max_num_batched_tokens=4096, max_model_len=4096, kv_tokens=2048 * 32
)  # fmt: skip
MOST_EMPTY = 1000
HASH = get_hash_fn_by_name("sha256")
init_none_hash(HASH)


class Judge(Protocol):
    """vLLM, to be asked for its decisions."""

    journal: Journal

    def start(self, world: World) -> None:
        """A new world begins."""

    def add(self, number: int) -> None:
        """The request of that number arrives."""

    def has_requests(self) -> bool:
        """Whether a request has not ended."""

    def step(self) -> None:
        """Schedule an iteration, and end the oldest in flight where there are enough, or nothing else is."""


class Dry:
    """vLLM's scheduler alone: every request whose prompt is complete gets a token."""

    def __init__(self) -> None:
        self.config = engine_arguments(model.load("tiny", outline=True), SIZES).create_engine_config()
        self.journal = Journal()

    def start(self, world: World) -> None:
        """A new world begins."""
        self.world, self.journal, self.num_sampled = world, Journal(), dict[str, int]()
        self.prompts = prompts_of(world)
        self.keys = {str(number): number for number in range(len(world.requests))}
        spec = FullAttentionSpec(
            block_size=world.block_size, num_kv_heads=1, head_size=32, dtype=torch.bfloat16
        )
        cache = KVCacheConfig(
            num_blocks=world.num_gpu_blocks,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        )
        self.scheduler = scheduler_for(
            settings_of(world), self.config, cache, world.block_size, self.journal, self.keys
        )
        self.in_flight: list[tuple[Any, Any]] = []

    def add(self, number: int) -> None:
        """The request of that number arrives."""
        self.scheduler.add_request(request_of(self.world, number, self.prompts[number]))

    def has_requests(self) -> bool:
        """Whether a request has not ended, or an iteration is in flight."""
        return bool(self.in_flight or self.scheduler.has_requests())

    def step(self) -> None:
        """Two iterations are in flight where decisions are taken ahead."""
        output = self.scheduler.schedule()
        if output.total_num_scheduled_tokens:
            self.in_flight.append((output, self._run(output)))
        is_full = len(self.in_flight) == (2 if self.world.async_scheduling else 1)
        if self.in_flight and (is_full or not output.total_num_scheduled_tokens):
            self.scheduler.update_from_output(*self.in_flight.pop(0))

    def _run(self, output: Any) -> ModelRunnerOutput:
        """Tokens as made up: `EOS` is the last where answers end by it."""
        ids, sampled = list(output.num_scheduled_tokens), list[list[int]]()
        for id in ids:
            if self.scheduler.requests[id].is_prefill_chunk:
                sampled.append([])
                continue
            count = self.num_sampled[id] = self.num_sampled.get(id, 0) + 1
            sampled.append([answer_of(self.world, int(id))[count - 1]])
        return ModelRunnerOutput(
            req_ids=ids, req_id_to_index={id: k for k, id in enumerate(ids)}, sampled_token_ids=sampled
        )


class Engine:
    """A whole engine in this process: its worker and its model run what was scheduled."""

    def __init__(self) -> None:
        self.engine = VllmEngine(model.load("tiny", outline=True), SIZES)

    @property
    def journal(self) -> Journal:
        """Of the world that was begun last."""
        assert self.engine.setup is not None
        return self.engine.setup.journal

    def start(self, world: World) -> None:
        """A new world begins."""
        self.world, self.prompts = world, prompts_of(world)
        self.engine.clear()
        self.engine.use(settings_of(world))

    def add(self, number: int) -> None:
        """The request of that number arrives."""
        asking = self.world.requests[number]
        self.engine.add(number, self.prompts[number], asking.output_tokens, asking.priority, asking.arrival)

    def has_requests(self) -> bool:
        """Whether a request has not ended."""
        return self.engine.has_requests()

    def step(self) -> None:
        """One iteration."""
        self.engine.step()


def settings_of(world: World) -> SchedulerSettings:
    """How a scheduler is set up for the world."""
    return SchedulerSettings(
        max_num_seqs=world.max_num_seqs,
        max_num_batched_tokens=world.max_num_batched_tokens,
        chunked=world.chunked,
        priority=world.priority,
        prefix_caching=world.prefix_caching,
        async_scheduling=world.async_scheduling,
        num_gpu_blocks=world.num_gpu_blocks,
    )


def answer_of(world: World, number: int) -> list[int]:
    """The answer as made up: random, like no other; `EOS` is the last where answers end by it."""
    rng, length = random.Random(f"{world.seed} answer {number}"), world.requests[number].output_tokens
    tokens = [rng.randrange(3, VOCAB) for _ in range(length)]
    # A row that was decided ahead runs once more.
    return [*tokens[:-1], EOS if world.stops_by_eos else tokens[-1], EOS]


def prompts_of(world: World) -> list[list[int]]:
    """The tokens of all prompts."""
    return world.prompts(lambda number: answer_of(world, number), VOCAB)


def request_of(world: World, number: int, prompt: list[int]) -> Request:
    """The request of that number, for a scheduler alone."""
    asking = world.requests[number]
    most = max(asking.output_tokens for asking in world.requests)
    num_allowed = most + 1 if world.stops_by_eos else asking.output_tokens
    params = SamplingParams(max_tokens=num_allowed, ignore_eos=not world.stops_by_eos, temperature=0.0)
    params.update_from_generation_config({}, EOS)
    return Request(
        request_id=str(number),
        prompt_token_ids=prompt,
        sampling_params=params,
        pooling_params=None,
        arrival_time=asking.arrival + 1e-6 * number,
        priority=asking.priority,
        block_hasher=get_request_block_hasher(world.block_size, HASH) if world.prefix_caching else None,
    )


def decide(world: World, judge: Judge) -> list[Decision]:
    """Its decisions, their iterations counted as the arrivals are: nothing runs where nobody has come."""
    judge.start(world)
    journal = judge.journal
    coming = sorted(range(len(world.requests)), key=lambda number: world.requests[number].arrival)
    decisions, idle, num_empty = list[Decision](), 0, 0
    while coming or judge.has_requests():
        if not judge.has_requests():
            idle = max(idle, world.requests[coming[0]].arrival - journal.num_ended)
        while coming and world.requests[coming[0]].arrival <= journal.num_ended + idle:
            judge.add(coming.pop(0))
        judge.step()
        new = journal.decisions[len(decisions) :]
        decisions += [decision._replace(iteration=decision.iteration + idle) for decision in new]
        num_empty = 0 if new else num_empty + 1
        if num_empty > MOST_EMPTY:
            raise RuntimeError(f"{world.name}: nothing can run, a request is larger than the memory")
    return decisions
