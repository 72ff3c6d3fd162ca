"""`trtllm-serve` and its YAML of options (tensorrt_llm/commands/serve.py and llmapi/llm_args.py)."""

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

MAX_BATCH_SIZE, MAX_NUM_TOKENS = 2048, 8192
"""By default."""
TOKENS_PER_BLOCK = 32

FLAGS: dict[str, Flag] = {
    "model": Flag("engine.model"),
    "tp-size": Flag("deployment.tp", "int"),
    "pp-size": Flag("engine.pp", "int"),
    "ep-size": Flag("deployment.ep", "int"),
    "max-batch-size": Flag("policy.max_num_seqs", "int"),
    "max-num-tokens": Flag("policy.max_num_batched_tokens", "int"),
    "max-seq-len": Flag("engine.max_model_len", "int"),
    "kv-cache-free-gpu-memory-fraction": Flag("deployment.utilization", "float"),
    "kv-cache-dtype": Flag("engine.kv"),
    "dtype": Flag("engine.dtype"),
    "quant-config.quant-algo": Flag("engine.quantization"),
    "enable-chunked-prefill": Flag("policy.chunked", "switch"),
    "kv-cache-config.max-tokens": Flag("engine.kv_tokens", "int"),
    "kv-cache-config.tokens-per-block": Flag("engine.block_size", "int"),
    "kv-cache-config.enable-block-reuse": Flag(
        "policy.prefix_caching", "switch", "prompts that share a prefix are not modelled, only paused ones"
    ),
    "scheduler-config.capacity-scheduler-policy": Flag("engine.capacity"),
    "batch-wait-timeout-iters": Flag("policy.batch_wait_timeout_iters", "int"),
    "batch-wait-max-tokens-ratio": Flag("policy.batch_wait_max_tokens_ratio", "float"),
    "batch-wait-timeout-ms": Flag(why="the executor does not wait for requests to come"),
    "enable-attention-dp": Flag("engine.dp_attention", "switch"),
    "disable-overlap-scheduler": Flag(kind="switch", why="the overlap scheduler is not modelled"),
    "max-beam-width": Flag(why="beam search is not modelled"),
    "server-role": Flag(why="servers for prefill or decode alone are not modelled"),
    "cp-size": Flag("engine.cp", "int"),
    **silent(SPECULATIVE, "speculative-config"),
    **silent("groups are taken to be always alike", "attention-dp-config"),
    **silent("prompts are split first come, first served", "scheduler-config.context-chunking-policy"),
    **silent(SLOWER_MEMORY, "kv-cache-config.host-cache-size"),
    **silent(
        NOT_SCHEDULING,
        *("host", "port", "backend", "log-level", "tokenizer", "reasoning-parser", "tool-parser"),
        *("metadata-server-config-file", "num-postprocess-workers", "stream-interval", "gpus-per-node"),
        *("revision", "chat-template", "otlp-traces-endpoint", "cluster-size", "custom-tokenizer"),
    ),
    **silent_switches(NOT_SCHEDULING, "trust-remote-code", "print-iter-log", "enable-iter-perf-stats"),
    **silent_switches(NOT_SCHEDULING, "fail-fast-on-attention-window-too-large"),
    **silent(KERNELS, "moe-config", "attn-backend", "cuda-graph-config", "allreduce-strategy"),
    **silent(ONE_MODEL, "lora-config"),
}
SHORT = {
    "tensor-parallel-size": "tp-size",
    "pipeline-parallel-size": "pp-size",
    "moe-expert-parallel-size": "ep-size",
    "context-parallel-size": "cp-size",
    "free-gpu-memory-fraction": "kv-cache-free-gpu-memory-fraction",
    "kv-cache-config.free-gpu-memory-fraction": "kv-cache-free-gpu-memory-fraction",
    **{f"build-config.{name}": name for name in ("max-batch-size", "max-num-tokens", "max-seq-len")},
    "kv-cache-config.dtype": "kv-cache-dtype",
}


def finish(reading: Reading, gpu: str | None, gpu_bytes: int | None) -> None:
    """The engine's own defaults, where nothing was said."""
    options = reading.policy
    options.setdefault("max_num_batched_tokens", MAX_NUM_TOKENS)
    options.setdefault("max_num_seqs", min(MAX_BATCH_SIZE, options["max_num_batched_tokens"]))
    options.setdefault("chunked", False)
    if "prefix_caching" not in options:
        reading.notes.append(
            "the reuse of blocks is not modelled: prompts that begin alike are computed again"
        )
    if options.get("prefix_caching"):
        options["prefix_caching"] = "own"  # on goes by vLLM's rules
    if "capacity" in reading.engine:
        options["capacity_scheduler_policy"] = reading.engine["capacity"].lower()
    if reading.engine.get("dp_attention"):
        groups = reading.deployment["dp_attention"] = reading.deployment.get("tp", 1)
        reading.multiply(groups)
        if groups > 1:
            reading.notes.append(
                "enable_attention_dp: its groups are taken to be always alike, as one scheduler with "
                f"{groups} times the limits"
            )
    reading.engine.setdefault("block_size", TOKENS_PER_BLOCK)
    reading.notes.append("the overlap scheduler is not modelled: decisions take no time")
