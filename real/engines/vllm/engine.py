"""vLLM's engine in this process: requests go in, it schedules and runs them, and says what it decided."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from sim.hardware.kv_memory import GIB, kv_bytes_per_token
from traces.errors import InputError

from ..model import LoadedModel
from ..scheduling import EngineSizes, Journal, Progress, SchedulerSettings, Setup

LEAST_HEAD_DIM = 32
"""vLLM's attention on a processor takes no narrower heads."""
CPU_BLOCK_SIZE = 32
"""And no smaller blocks."""
GPU_BLOCK_SIZE = 16
CPU_KV_TOKENS = 16_384


def prepare_environment(cpu_kv_gib: int) -> None:
    """What vLLM reads from the environment when it is imported or started; what is set already stays."""
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": str(cpu_kv_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def engine_arguments(loaded: LoadedModel, sizes: EngineSizes) -> Any:
    """What an engine of vLLM's for this model and these sizes is started with."""
    on_gpu = loaded.device.type == "cuda"
    kv_tokens = sizes.kv_tokens if on_gpu else sizes.kv_tokens or CPU_KV_TOKENS
    held_bytes = (kv_tokens or 0) * kv_bytes_per_token(loaded.shape)
    prepare_environment(cpu_kv_gib=max(1, math.ceil(1.1 * held_bytes / GIB)))

    from vllm.engine.arg_utils import EngineArgs

    block_size = None if on_gpu else CPU_BLOCK_SIZE
    return EngineArgs(
        model=loaded.source or str(_described(loaded)),
        load_format="auto" if loaded.source else "dummy",
        skip_tokenizer_init=True,
        dtype=str(loaded.dtype).removeprefix("torch."),
        max_model_len=sizes.max_model_len,
        block_size=block_size,
        max_num_seqs=sizes.max_num_seqs,
        max_num_batched_tokens=sizes.max_num_batched_tokens,
        enable_prefix_caching=True,
        enforce_eager=not on_gpu,
        num_gpu_blocks_override=None if kv_tokens is None else kv_tokens // (block_size or GPU_BLOCK_SIZE),
        disable_log_stats=True,
    )


class VllmEngine:
    """An engine of vLLM's for this model; one at a time in a process.

    The model comes without its weights (`model.outline`), since vLLM loads or draws them itself. Raises
    InputError where vLLM does not take it, in one line.
    """

    name = "vllm"
    ragged_prefill = ragged_decode = True

    def __init__(self, loaded: LoadedModel, sizes: EngineSizes) -> None:
        self.device = loaded.device
        arguments = engine_arguments(loaded, sizes)

        from vllm import SamplingParams, __version__
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.llm_engine import LLMEngine

        try:
            self.engine = LLMEngine.from_engine_args(arguments, enable_multiprocessing=False)
        except (ValueError, RuntimeError, AssertionError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise InputError(f"engine {self.name}: vLLM does not start ({reason})") from error
        self.core: Any = self.engine.engine_core
        self.core = self.core.engine_core
        self.config = self.core.vllm_config
        self.block_size: int = self.config.cache_config.block_size
        self.num_gpu_blocks: int = self.config.cache_config.num_gpu_blocks
        self.capacity_tokens = self.num_gpu_blocks * self.block_size
        self.async_scheduling = bool(self.config.scheduler_config.async_scheduling)
        self.kv_cache_config = self.core.scheduler.kv_cache_config
        self.versions = {"vllm": str(__version__)}
        self.setup: Setup | None = None
        # As a server streams: each output holds the new tokens only.
        self._parameters, self._delta = SamplingParams, RequestOutputKind.DELTA

    def use(self, settings: SchedulerSettings) -> Setup:
        """Schedule by these settings from now on, with an empty memory and a new journal."""
        from .schedulers import scheduler_for

        blocks = self.num_gpu_blocks if settings.num_gpu_blocks is None else settings.num_gpu_blocks
        kv_cache = type(self.kv_cache_config)(
            num_blocks=blocks,
            kv_cache_tensors=[],
            kv_cache_groups=self.kv_cache_config.kv_cache_groups,
        )
        journal, keys = Journal(), dict[str, int]()
        scheduler = scheduler_for(settings, self.config, kv_cache, self.block_size, journal, keys)
        self.setup = Setup(settings, journal, keys, scheduler)
        self.core.scheduler = scheduler
        return self.setup

    def resume(self, setup: Setup) -> None:
        """Go on with a setup: its requests are not among those that the worker ran last, and come back."""
        from .schedulers import put_into

        if self.core.batch_queue:
            raise RuntimeError("an iteration is in flight, which another scheduler would be told of")
        put_into(self.config, setup.settings, setup.scheduler.kv_cache_config.num_blocks, self.block_size)
        self.core.scheduler, self.setup = setup.scheduler, setup

    def add(
        self,
        key: int,
        prompt: Sequence[int],
        num_tokens: int,
        priority: int = 0,
        arrival_s: float = 0.0,
        end_tokens: Collection[int] = (),
    ) -> None:
        """A request arrives, whose answer has `num_tokens`, or fewer where one of `end_tokens` ends it."""
        assert self.setup is not None
        keys = self.setup.keys
        parameters = self._parameters(
            max_tokens=num_tokens,
            ignore_eos=True,  # it has been given no tokenizer to know one by
            stop_token_ids=sorted(end_tokens),
            temperature=0.0,
            detokenize=False,
            output_kind=self._delta,
        )
        id = self.engine.add_request(
            str(key),
            {"prompt_token_ids": list(prompt)},
            parameters,
            # Of equal priority, who came last leaves first: no two may have come at once.
            arrival_time=arrival_s + 1e-9 * len(keys),
            priority=priority,
        )
        keys[id] = key

    def has_requests(self) -> bool:
        """Whether a request of this setup has not ended."""
        return bool(self.core.scheduler.has_unfinished_requests())

    def step(self) -> list[Progress]:
        """Run on until an iteration is done, and its tokens are with the host."""
        return [
            Progress(int(output.request_id), list(output.outputs[0].token_ids), bool(output.finished))
            for output in self.engine.step()
        ]

    def clear(self) -> None:
        """Abort all requests of this setup, and let the worker know."""
        if self.setup is not None and self.has_requests():
            self.engine.abort_request(list(self.setup.keys), internal=True)
        while self.core.scheduler.has_requests() or self.core.batch_queue:
            self.engine.step()

    def limit_tokens(self, most: int) -> None:
        """The most tokens of an iteration from now on, at most what the scheduler was set to."""
        settled = self.config.scheduler_config.max_num_batched_tokens
        self.core.scheduler.max_num_scheduled_tokens = min(most, settled)


def _described(loaded: LoadedModel) -> Path:
    """A folder with the settings of a model of random weights, in heads that vLLM takes."""
    settings = loaded.model.config.to_dict()
    if loaded.device.type == "cpu" and settings["head_dim"] < LEAST_HEAD_DIM:
        # The same width in fewer heads: as many parameters, and as many bytes of KV cache.
        for name in ("num_attention_heads", "num_key_value_heads"):
            settings[name] = max(1, settings[name] * settings["head_dim"] // LEAST_HEAD_DIM)
        settings["head_dim"] = LEAST_HEAD_DIM
    settings["architectures"] = ["LlamaForCausalLM"]
    folder = Path(tempfile.mkdtemp(prefix="seqsched-model-"))
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder
