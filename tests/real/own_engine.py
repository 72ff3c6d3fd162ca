"""An engine that schedules by itself, without vLLM: our own `continuous` decides, and steps take a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from real.engines.scheduling import EngineSizes, Journal, Load, Progress, SchedulerSettings, Setup
from sim.request import Request
from sim.scenario.policies import make_scheduler
from sim.work import Iterations, Limits, Outcome

STEP_S = 0.0005


class OwnEngine:
    """Decides as it is set; `twist` may change the tokens of an iteration in its journal, as an engine with
    other rules would. Where tokens end answers, each has its own length.
    """

    name, block_size, async_scheduling = "vllm", 32, False
    ragged_prefill = ragged_decode = True
    versions = {"vllm": "made up"}  # noqa: RUF012

    def __init__(
        self,
        loaded: Any,
        sizes: EngineSizes,
        twist: Callable[[int, dict[int, int]], Mapping[int, int]] = lambda number, tokens: tokens,
    ) -> None:
        self.device, self.sizes, self.twist = torch.device("cpu"), sizes, twist
        self.capacity_tokens = (sizes.kv_tokens or 4096) // self.block_size * self.block_size
        self.used = list[SchedulerSettings]()
        self.setup: Setup | None = None
        self.num_resumed = self.num_ended_by_tokens = 0

    @property
    def journal(self) -> Journal:
        assert self.setup is not None
        return self.setup.journal

    def use(self, settings: SchedulerSettings) -> Setup:
        self.used.append(settings)
        setup = Setup(settings, Journal(), {}, self._scheduler(settings))
        self._switch_to(setup)
        return setup

    def resume(self, setup: Setup) -> None:
        self.num_resumed += 1
        self._switch_to(setup)

    def _switch_to(self, setup: Setup) -> None:
        self.setup, world = setup, setup.scheduler
        self.scheduler, self.requests, self.wanted = world.scheduler, world.requests, world.wanted
        self.held, self.running = world.held, world.running

    def _scheduler(self, settings: SchedulerSettings) -> Any:
        blocks = settings.num_gpu_blocks or self.capacity_tokens // self.block_size
        switch = {True: "on", False: "off"}
        scheduler = make_scheduler(
            f"continuous:max_num_seqs={settings.max_num_seqs},"
            f"max_num_batched_tokens={settings.max_num_batched_tokens},async_scheduling=off,"
            f"chunked={switch[settings.chunked]},prefix_caching={switch[settings.prefix_caching]},"
            f"order={'priority' if settings.priority else 'fcfs'},"
            f"admission={'prompt' if settings.reserve_full_prompt else 'chunk'}",
            Limits(blocks * self.block_size, self.block_size),
        )
        # running: ids, by admission
        return SimpleNamespace(scheduler=scheduler, requests={}, wanted={}, held={}, running={})

    def add(
        self,
        key: int,
        prompt: Sequence[int],
        num_tokens: int,
        priority: int = 0,
        arrival_s: float = 0.0,
        end_tokens: Collection[int] = (),
    ) -> None:
        assert prompt and len(prompt) + num_tokens <= self.sizes.max_model_len
        request = Request(key, arrival_s, len(prompt), num_tokens, priority=priority)
        self.num_ended_by_tokens += bool(end_tokens)
        own = 1 + sum(prompt) % 11 if end_tokens else num_tokens
        self.requests[key], self.wanted[key] = request, min(own, num_tokens)
        self.scheduler.submit(request, arrival_s)

    def has_requests(self) -> bool:
        return bool(self.requests)

    def limit_tokens(self, most: int) -> None:
        assert self.setup is not None
        settled = self.setup.settings.max_num_batched_tokens
        self.scheduler.max_num_batched_tokens = min(most, settled)

    def clear(self) -> None:
        if self.requests:
            self.scheduler.drain(0.0)
            for each in (self.requests, self.wanted, self.held, self.running):
                each.clear()

    def step(self) -> list[Progress]:
        work: Any = self.scheduler.next_work(float(self.journal.num_ended))
        assert isinstance(work, Iterations)
        time.sleep(STEP_S)
        for request in work.evict:
            self.held.pop(request.id, None)
            self.running.pop(request.id, None)
        tokens, reused = dict.fromkeys(self.running, 1), dict[int, int]()
        contexts = [self.held[i] for i in self.running]
        attention = 0.0
        for chunk in work.chunks:
            i = chunk.request.id
            if i not in self.held:
                reused[i] = self.held[i] = chunk.cached
            tokens[i] = chunk.num_tokens
            attention += chunk.num_tokens * (self.held[i] + chunk.num_tokens / 2)
            if chunk.last:
                self.running[i] = None
        prefill, longest = sum(chunk.num_tokens for chunk in work.chunks), max(contexts, default=0)
        load = Load(len(contexts), sum(contexts), len(work.chunks), prefill, attention, longest)
        return self._end(work, tokens, reused, load)

    def _end(
        self, work: Iterations, tokens: dict[int, int], reused: dict[int, int], load: Load
    ) -> list[Progress]:
        for i, count in tokens.items():
            self.held[i] += count
        blocks = sum(-(-held // self.block_size) for held in self.held.values())
        evicted = {request.id for request in work.evict}
        noted = self.twist(len(self.journal.decisions), tokens)
        self.journal.scheduled(noted, reused, evicted, blocks, load)
        self.journal.ended()
        incomplete = {chunk.request.id for chunk in work.chunks if not chunk.last}
        gave, finished = [], []
        for i in tokens:
            if i in incomplete:
                continue
            self.wanted[i] -= 1
            gave.append(Progress(i, [self.wanted[i]], not self.wanted[i]))
            if not self.wanted[i]:
                finished.append(self.requests.pop(i))
                del self.running[i], self.held[i]
        self.scheduler.record(work, Outcome(1, finished), float(self.journal.num_ended))
        return gave
