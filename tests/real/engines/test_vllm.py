"""What vLLM is started with and asked for, and how its decisions are read; with stand-ins for its classes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import ANY

import pytest

pytest.importorskip("torch", reason="the real extra is not installed")

from real.engines import model
from real.engines.decision import Decision
from real.engines.scheduling import EngineSizes, Load, Progress, SchedulerSettings
from real.engines.vllm.engine import VllmEngine
from traces.errors import InputError

SIZES = EngineSizes(max_num_seqs=9, max_num_batched_tokens=128, max_model_len=256, kv_tokens=640)


def output(tokens: dict[str, int], new: Any = (), resumed: Any = (), preempted: Any = ()) -> Any:
    """What a scheduler of vLLM's returns; `new` and `resumed`: (id, tokens found in memory)."""
    again = SimpleNamespace(
        req_ids=["other", *(id for id, _ in resumed)],
        num_computed_tokens=[9, *(count for _, count in resumed)],
        resumed_req_ids={id for id, _ in resumed},
    )
    return SimpleNamespace(
        num_scheduled_tokens=tokens,
        total_num_scheduled_tokens=sum(tokens.values()),
        scheduled_new_reqs=[SimpleNamespace(req_id=id, num_computed_tokens=count) for id, count in new],
        scheduled_cached_reqs=again,
        preempted_req_ids=set(preempted),
    )


class Scheduler:
    """Returns these outputs, one after the other."""

    outputs: list[Any] = []  # noqa: RUF012

    def __init__(self, **given: Any) -> None:
        self.given, self.requests = given, dict[str, Any]()
        self.kv_cache_config = given["kv_cache_config"]
        pool = SimpleNamespace(num_gpu_blocks=self.kv_cache_config.num_blocks, get_num_free_blocks=lambda: 5)
        self.kv_cache_manager = SimpleNamespace(block_pool=pool)

    def schedule(self) -> Any:
        return self.outputs.pop(0)

    def update_from_output(self, scheduler_output: Any, sampled: Any) -> str:
        return f"updated by {sampled}"

    def has_requests(self) -> bool:
        return bool(self.requests)

    has_unfinished_requests = has_requests


class KvCacheConfig(SimpleNamespace):
    """Of so many blocks."""


class LLMEngine:
    """Holds a core with a scheduler, and gives every request a token a step."""

    def __init__(self, arguments: Any) -> None:
        config = SimpleNamespace(
            cache_config=SimpleNamespace(
                block_size=arguments.block_size, num_gpu_blocks=arguments.num_gpu_blocks_override
            ),
            scheduler_config=SimpleNamespace(async_scheduling=False),
        )
        cache = KvCacheConfig(num_blocks=arguments.num_gpu_blocks_override, kv_cache_groups=["all"])
        core = SimpleNamespace(
            vllm_config=config, batch_queue=None, scheduler=Scheduler(kv_cache_config=cache)
        )
        self.engine_core = SimpleNamespace(engine_core=core)
        self.arguments, self.added = arguments, list[Any]()

    @classmethod
    def from_engine_args(cls, arguments: Any, enable_multiprocessing: bool) -> LLMEngine:
        if arguments.max_model_len > 4096:
            raise ValueError("too long\nfor this model")
        assert not enable_multiprocessing
        return cls(arguments)

    def add_request(self, id: str, prompt: Any, parameters: Any, **given: Any) -> str:
        self.added.append((id, prompt, parameters, given))
        self.engine_core.engine_core.scheduler.requests[f"{id}-6f0c"] = prompt
        return f"{id}-6f0c"

    def step(self) -> list[Any]:
        one = SimpleNamespace(token_ids=[7])
        return [SimpleNamespace(request_id=id, outputs=[one], finished=id == "1") for id, *_ in self.added]

    def abort_request(self, ids: list[str], internal: bool) -> None:
        assert internal and ids == ["0-6f0c", "1-6f0c"]
        self.added.clear()
        self.engine_core.engine_core.scheduler.requests.clear()


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of vLLM's with stand-ins for what is imported of them."""
    names = {
        "vllm": {"SamplingParams": SimpleNamespace, "__version__": "0.0"},
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(DELTA="delta")},
        "vllm.engine": {},
        "vllm.engine.arg_utils": {"EngineArgs": SimpleNamespace},
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.llm_engine": {"LLMEngine": LLMEngine},
        "vllm.v1.core": {},
        "vllm.v1.core.sched": {},
        "vllm.v1.core.sched.scheduler": {"Scheduler": Scheduler},
        "vllm.v1.core.sched.async_scheduler": {"AsyncScheduler": type("AsyncScheduler", (Scheduler,), {})},
        "vllm.v1.structured_output": {"StructuredOutputManager": lambda config: config},
    }
    for name, members in names.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "real.engines.vllm.schedulers", raising=False)


@pytest.fixture
def engine(stand_ins: None) -> Any:
    return VllmEngine(model.load("tiny", outline=True), SIZES)


def test_it_is_started_for_the_sizes_and_in_heads_that_it_takes(engine: Any) -> None:
    arguments = engine.engine.arguments
    assert (arguments.max_num_seqs, arguments.max_num_batched_tokens, arguments.max_model_len) == (
        9,
        128,
        256,
    )
    assert (arguments.block_size, arguments.num_gpu_blocks_override) == (32, 20)
    assert arguments.load_format == "dummy" and arguments.dtype == "float32"
    settings = json.loads((Path(arguments.model) / "config.json").read_text())
    assert (settings["num_attention_heads"], settings["num_key_value_heads"], settings["head_dim"]) == (
        2,
        2,
        32,
    )
    assert settings["hidden_size"] == 64 and settings["architectures"] == ["LlamaForCausalLM"]
    assert (engine.capacity_tokens, engine.block_size, engine.versions) == (640, 32, {"vllm": "0.0"})


def test_where_it_does_not_start_that_is_one_line(stand_ins: None) -> None:
    with pytest.raises(InputError, match=r"engine vllm: vLLM does not start \(too long\)"):
        VllmEngine(model.load("tiny", outline=True), EngineSizes(9, 128, 5000, 640))


def test_its_scheduler_is_set_up_by_the_settings(engine: Any) -> None:
    engine.use(SchedulerSettings(4, 64, chunked=False, priority=True, prefix_caching=False, num_gpu_blocks=7))
    set_up = engine.config.scheduler_config
    assert (set_up.max_num_seqs, set_up.max_num_batched_tokens, set_up.max_num_scheduled_tokens) == (
        4,
        64,
        64,
    )
    assert (set_up.policy, set_up.enable_chunked_prefill, set_up.scheduler_reserve_full_isl) == (
        "priority",
        False,
        True,
    )
    assert (
        engine.config.cache_config.num_gpu_blocks == 7
        and not engine.config.cache_config.enable_prefix_caching
    )
    assert type(engine.core.scheduler).__mro__[1] is Scheduler
    engine.limit_tokens(100)
    assert engine.core.scheduler.max_num_scheduled_tokens == 64
    engine.use(SchedulerSettings(async_scheduling=True))
    assert type(engine.core.scheduler).__mro__[1].__name__ == "AsyncScheduler"
    assert engine.config.cache_config.num_gpu_blocks == 20


def test_requests_have_forced_lengths_and_no_two_come_at_once(engine: Any) -> None:
    engine.use(SchedulerSettings())
    engine.add(0, [5, 6], 3, priority=2, arrival_s=1.5)
    engine.add(1, [7], 1, arrival_s=1.5)
    (id, prompt, parameters, given), (_, _, _, second) = engine.engine.added
    assert (id, prompt, given["priority"]) == ("0", {"prompt_token_ids": [5, 6]}, 2)
    assert (parameters.max_tokens, parameters.ignore_eos, parameters.output_kind) == (3, True, "delta")
    assert parameters.stop_token_ids == []
    engine.add(2, [7], 9, end_tokens=frozenset({4, 2}))
    assert engine.engine.added.pop()[2].stop_token_ids == [2, 4]
    del engine.core.scheduler.requests["2-6f0c"], engine.setup.keys["2-6f0c"]
    assert given["arrival_time"] == 1.5 < second["arrival_time"] < 1.5 + 1e-6
    assert engine.step() == [Progress(0, [ANY], False), Progress(1, [ANY], True)]
    assert engine.setup.keys == {"0-6f0c": 0, "1-6f0c": 1}
    engine.clear()
    assert not engine.has_requests()


def test_a_setup_is_resumed_with_its_requests_and_its_settings(engine: Any) -> None:
    first = engine.use(SchedulerSettings(max_num_seqs=4, priority=True, num_gpu_blocks=7))
    engine.add(0, [5, 6], 3)
    second = engine.use(SchedulerSettings(max_num_seqs=2, prefix_caching=False))
    assert not engine.has_requests() and engine.setup is second
    engine.resume(first)
    assert engine.has_requests() and engine.core.scheduler is first.scheduler
    set_up, cache = engine.config.scheduler_config, engine.config.cache_config
    assert (set_up.max_num_seqs, set_up.policy) == (4, "priority")
    assert (cache.num_gpu_blocks, cache.enable_prefix_caching) == (7, True)
    engine.core.batch_queue = ["an iteration"]
    with pytest.raises(RuntimeError, match="in flight"):
        engine.resume(second)


def test_what_it_decides_is_in_the_journal(engine: Any) -> None:
    engine.use(SchedulerSettings())
    scheduler = engine.core.scheduler
    for key, prompt_tokens in ((0, 40), (1, 90), (2, 8)):
        engine.setup.keys[f"id{key}"] = key
        scheduler.requests[f"id{key}"] = SimpleNamespace(
            num_prompt_tokens=prompt_tokens, num_computed_tokens=0
        )
    steps = [
        ({"id0": 40, "id1": 24}, {"new": [("id0", 0), ("id1", 32)]}, {"id0": 40, "id1": 56}),
        ({}, {"preempted": ["id1"]}, {}),
        ({"id0": 1, "id2": 8}, {"new": [("id2", 0)], "preempted": ["id1"]}, {"id0": 41, "id2": 8}),
        ({"id0": 1, "id1": 30}, {"resumed": [("id1", 64)]}, {"id0": 42, "id1": 94}),
    ]
    for tokens, given, computed in steps:
        for id, count in computed.items():
            scheduler.requests[id].num_computed_tokens = count
        Scheduler.outputs = [output(tokens, **given)]
        scheduled = scheduler.schedule()
        assert scheduler.update_from_output(scheduled, 3) == "updated by 3"
    journal = engine.setup.journal
    assert journal.num_ended == 3 and journal.decisions == [
        Decision(0, {0: 40, 1: 24}, {0: 0, 1: 32}, (), 14),
        Decision(1, {0: 1, 2: 8}, {2: 0}, (1,), 14),
        Decision(2, {0: 1, 1: 30}, {1: 64}, (), 14),
    ]
    assert journal.loads == [
        Load(0, 0, 2, 64, 40 * 20 + 24 * (32 + 12), 0),
        Load(1, 40, 1, 8, 8 * 4, 40),
        Load(1, 41, 1, 30, 30 * (64 + 15), 41),
    ]
