"""`vllm serve`: its flags, and its defaults by GPU (vllm/engine/arg_utils.py, `get_batch_defaults`)."""

from __future__ import annotations

from sim.servers.flag import (
    KERNELS,
    NOT_SCHEDULING,
    ONE_MODEL,
    SLOWER_MEMORY,
    SPECULATIVE,
    Flag,
    Reading,
    silent,
    silent_switches,
)
from traces.errors import InputError

ORDERS = ("fcfs", "priority")
LARGE_GPU_BYTES = 70 * 2**30
"""From so much memory on, but on no A100, batches are larger by default."""
LARGE, SMALL = (8192, 1024), (2048, 256)
"""(max_num_batched_tokens, max_num_seqs) of a server by default, on a large GPU and on another."""

FLAGS: dict[str, Flag] = {
    "model": Flag("engine.model"),
    "tensor-parallel-size": Flag("deployment.tp", "int"),
    "pipeline-parallel-size": Flag("engine.pp", "int"),
    "data-parallel-size": Flag("engine.replicas", "int"),
    "enable-expert-parallel": Flag("engine.expert_parallel", "switch"),
    "dtype": Flag("engine.dtype"),
    "quantization": Flag("engine.quantization"),
    "kv-cache-dtype": Flag("engine.kv"),
    "gpu-memory-utilization": Flag("deployment.utilization", "float"),
    "num-gpu-blocks-override": Flag("engine.blocks", "int"),
    "block-size": Flag("engine.block_size", "int"),
    "max-num-seqs": Flag("policy.max_num_seqs", "int"),
    "max-num-batched-tokens": Flag("policy.max_num_batched_tokens", "suffixed"),
    "max-model-len": Flag("engine.max_model_len", "suffixed"),
    "decode-context-parallel-size": Flag("engine.cp", "int"),
    "prefill-context-parallel-size": Flag("engine.cp", "int"),
    "enable-chunked-prefill": Flag("policy.chunked", "switch"),
    "enable-prefix-caching": Flag("policy.prefix_caching", "switch"),
    "scheduling-policy": Flag("policy.order"),
    "async-scheduling": Flag("policy.async_scheduling", "switch"),
    "enforce-eager": Flag(kind="switch", why="kernel times are those with CUDA graphs"),
    "scheduler-cls": Flag(why="the scheduler is vLLM's own"),
    "cpu-offload-gb": Flag(why="all weights are taken to be in the GPU's memory"),
    "kv-cache-memory-bytes": Flag(why="KV memory follows from gpu-memory-utilization; --kv-blocks sets it"),
    **silent(SPECULATIVE, "speculative-config"),
    **silent(SLOWER_MEMORY, "kv-transfer-config", "kv-offloading-size", "kv-offloading-backend"),
    **silent("long prompts are not slowed down", "long-prefill-token-threshold"),
    **silent("long prompts are not slowed down", "max-num-partial-prefills", "max-long-partial-prefills"),
    **silent("vLLM no longer has it", "num-scheduler-steps", "preemption-mode"),
    **silent(
        NOT_SCHEDULING,
        *("host", "port", "api-key", "served-model-name", "tokenizer", "tokenizer-mode", "download-dir"),
        *("load-format", "revision", "seed", "chat-template", "tool-call-parser", "reasoning-parser"),
        *(
            "generation-config",
            "uvicorn-log-level",
            "root-path",
            "ssl-keyfile",
            "ssl-certfile",
            "hf-overrides",
        ),
        *("max-logprobs", "limit-mm-per-prompt", "distributed-executor-backend", "swap-space"),
        *("api-server-count", "data-parallel-size-local", "data-parallel-backend", "data-parallel-address"),
        *("data-parallel-rpc-port", "data-parallel-start-rank", "data-parallel-rank", "stream-interval"),
        *("prefix-caching-hash-algo", "rope-scaling", "rope-theta", "config-format", "tokenizer-revision"),
        *("allowed-origins", "middleware", "structured-outputs-config", "override-generation-config"),
        *("guided-decoding-backend", "mm-processor-kwargs", "log-config-file"),
    ),
    **silent_switches(
        NOT_SCHEDULING,
        *("trust-remote-code", "disable-log-requests", "enable-log-requests", "disable-log-stats"),
        *("enable-auto-tool-choice", "enable-reasoning", "disable-uvicorn-access-log", "headless"),
        *("disable-frontend-multiprocessing", "enable-prompt-tokens-details", "enable-sleep-mode"),
        *("data-parallel-hybrid-lb", "data-parallel-external-lb", "disable-fastapi-docs"),
    ),
    **silent(KERNELS, "compilation-config", "attention-backend", "max-seq-len-to-capture"),
    **silent(KERNELS, "cuda-graph-sizes", "cudagraph-capture-sizes", "all2all-backend", "optimization-level"),
    **silent_switches("tokens are spread over experts as the tables assume", "enable-eplb"),
    **silent_switches(KERNELS, "disable-custom-all-reduce", "O0", "O1", "O2", "O3"),
    **silent_switches(ONE_MODEL, "enable-lora"),
    **silent(ONE_MODEL, "max-loras", "max-lora-rank", "lora-modules"),
}
SHORT = {
    "tp": "tensor-parallel-size",
    "pp": "pipeline-parallel-size",
    "dp": "data-parallel-size",
    "q": "quantization",
    "ep": "enable-expert-parallel",
    "m": "model",
    "dcp": "decode-context-parallel-size",
    **dict.fromkeys(("cc", "O"), "compilation-config"),
}


def finish(reading: Reading, gpu: str | None, gpu_bytes: int | None) -> None:
    """The engine's own defaults, where nothing was said; without a GPU those of a small one."""
    is_large = gpu_bytes is not None and gpu_bytes >= LARGE_GPU_BYTES and "a100" not in str(gpu).lower()
    tokens, seqs = LARGE if is_large else SMALL
    options = reading.policy
    if (order := options.get("order", ORDERS[0])) not in ORDERS:
        raise InputError(
            f"server: --scheduling-policy: {order!r} is not one of {', '.join(ORDERS)}; other orders "
            "are asked for by --policy"
        )
    if gpu is None and not {"max_num_seqs", "max_num_batched_tokens"} <= options.keys():
        reading.notes.append(
            f"without a GPU: at most {tokens} tokens and {seqs} requests in an iteration, as on small ones"
        )
    if options.get("chunked") is False:
        tokens = max(tokens, reading.engine.get("max_model_len") or 0)
    options.setdefault("prefix_caching", True)
    options.setdefault("max_num_batched_tokens", tokens)
    options.setdefault("max_num_seqs", min(seqs, options["max_num_batched_tokens"]))
