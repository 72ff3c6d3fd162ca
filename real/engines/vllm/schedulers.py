"""vLLM's own scheduler classes, set up apart from an engine's start, and reporting what they decide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..scheduling import Journal, Load, SchedulerSettings


def scheduler_for(
    settings: SchedulerSettings,
    config: Any,
    kv_cache_config: Any,
    block_size: int,
    journal: Journal,
    keys: Mapping[str, int],
) -> Any:
    """A scheduler of vLLM's with these settings, which go into `config` too.

    It writes `journal`; `keys` are the requests' own by those that vLLM gives them.
    """
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.structured_output import StructuredOutputManager

    put_into(config, settings, kv_cache_config.num_blocks, block_size)
    kind = _recording(AsyncScheduler if settings.async_scheduling else Scheduler, journal, keys)
    return kind(
        vllm_config=config,
        kv_cache_config=kv_cache_config,
        structured_output_manager=StructuredOutputManager(config),
        block_size=block_size,
        hash_block_size=block_size,
        log_stats=False,
    )


def put_into(config: Any, settings: SchedulerSettings, num_gpu_blocks: int, block_size: int) -> None:
    """Write the settings into vLLM's own, which its schedulers read while they run."""
    scheduling, cache = config.scheduler_config, config.cache_config
    scheduling.max_num_seqs = settings.max_num_seqs
    scheduling.max_num_batched_tokens = settings.max_num_batched_tokens
    scheduling.max_num_scheduled_tokens = settings.max_num_batched_tokens
    scheduling.enable_chunked_prefill = settings.chunked
    scheduling.policy = "priority" if settings.priority else "fcfs"
    scheduling.async_scheduling = settings.async_scheduling
    scheduling.scheduler_reserve_full_isl = settings.reserve_full_prompt
    cache.enable_prefix_caching = settings.prefix_caching
    cache.block_size, cache.num_gpu_blocks = block_size, num_gpu_blocks


def _recording(base: type[Any], journal: Journal, keys: Mapping[str, int]) -> type[Any]:
    """The scheduler class, noting what it schedules and what has ended."""

    class Recording(base):  # type: ignore[misc]
        def schedule(self, *args: Any, **kwargs: Any) -> Any:
            output = super().schedule(*args, **kwargs)
            again = output.scheduled_cached_reqs
            reused = {r.req_id: r.num_computed_tokens for r in output.scheduled_new_reqs}
            for id, computed in zip(again.req_ids, again.num_computed_tokens, strict=True):
                if id in again.resumed_req_ids:
                    reused[id] = computed
            pool = self.kv_cache_manager.block_pool
            journal.scheduled(
                {keys[id]: count for id, count in output.num_scheduled_tokens.items()},
                {keys[id]: count for id, count in reused.items()},
                {keys[id] for id in output.preempted_req_ids or ()},
                pool.num_gpu_blocks - 1 - pool.get_num_free_blocks(),
                _load(self.requests, output.num_scheduled_tokens),
            )
            return output

        def update_from_output(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            returned = super().update_from_output(scheduler_output, *args, **kwargs)
            if scheduler_output.total_num_scheduled_tokens:
                journal.ended()
            return returned

    return Recording


def _load(requests: Mapping[str, Any], scheduled: Mapping[str, int]) -> Load:
    """What an iteration computes; vLLM has counted its tokens as computed already."""
    num_decode = context = longest = num_prefill = prefill = 0
    attention = 0.0
    for id, count in scheduled.items():
        request = requests[id]
        before = request.num_computed_tokens - count
        if count == 1 and before >= request.num_prompt_tokens:
            num_decode += 1
            context += before
            longest = max(longest, before)
        else:
            num_prefill += 1
            prefill += count
            attention += count * (before + count / 2)
    return Load(num_decode, context, num_prefill, prefill, attention, longest)
