"""`python -m sglang.launch_server`: its flags and defaults (python/sglang/srt/server_args.py)."""

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

GIB = 2**30
CHUNKS = ((35 * GIB, 2048), (60 * GIB, 4096), (160 * GIB, 8192))
"""(memory of a GPU, chunked_prefill_size below it) by default; above all of them: 16384."""
MAX_RUNNING_REQUESTS = 2048
"""The least that SGLang computes from its memory where nothing was said."""

PAGE_SIZES = {"flashmla": 64, "trtllm_mla": 64, "trtllm_mha": 64, "cutlass_mla": 128}
"""Tokens of a block (a page) that kernels of attention need; with the others it has one."""

FLAGS: dict[str, Flag] = {
    "model-path": Flag("engine.model"),
    "tp-size": Flag("deployment.tp", "int"),
    "pp-size": Flag("engine.pp", "int"),
    "dp-size": Flag("engine.replicas", "int"),
    "ep-size": Flag("deployment.ep", "int"),
    "enable-dp-attention": Flag("engine.dp_attention", "switch"),
    "dtype": Flag("engine.dtype"),
    "quantization": Flag("engine.quantization"),
    "kv-cache-dtype": Flag("engine.kv"),
    "mem-fraction-static": Flag("deployment.utilization", "float"),
    "max-total-tokens": Flag("engine.kv_tokens", "int"),
    "page-size": Flag("engine.block_size", "int"),
    "max-running-requests": Flag("policy.max_num_seqs", "int"),
    "chunked-prefill-size": Flag("policy.chunked_prefill_size", "int"),
    "max-prefill-tokens": Flag("policy.max_prefill_tokens", "int"),
    "schedule-policy": Flag("engine.schedule_policy"),
    "schedule-conservativeness": Flag("policy.schedule_conservativeness", "float"),
    "enable-mixed-chunk": Flag("policy.mixed_chunk", "switch"),
    "enable-priority-scheduling": Flag("engine.priority", "switch"),
    "schedule-low-priority-values-first": Flag(kind="switch", why="low values go first here in any case"),
    "context-length": Flag("engine.max_model_len", "int"),
    "disable-radix-cache": Flag("engine.no_cache", "switch"),
    "disable-overlap-schedule": Flag(kind="switch", why="the overlap scheduler is not modelled"),
    "disaggregation-mode": Flag(why="servers for prefill or decode alone are not modelled"),
    "num-continuous-decode-steps": Flag(why="decode iterations follow one by one"),
    **silent(SPECULATIVE, "speculative-algorithm", "speculative-num-steps", "speculative-eagle-topk"),
    **silent(SPECULATIVE, "speculative-num-draft-tokens", "speculative-draft-model-path"),
    **silent(SLOWER_MEMORY, "hicache-ratio", "hicache-size", "hicache-write-policy"),
    **silent_switches(SLOWER_MEMORY, "enable-hierarchical-cache"),
    **silent(
        NOT_SCHEDULING,
        *("host", "port", "api-key", "served-model-name", "tokenizer-path", "tokenizer-mode", "random-seed"),
        *("load-format", "revision", "chat-template", "tool-call-parser", "reasoning-parser", "log-level"),
        *("watchdog-timeout", "dist-init-addr", "nnodes", "node-rank", "download-dir", "stream-interval"),
    ),
    **silent_switches(NOT_SCHEDULING, "trust-remote-code", "enable-metrics", "log-requests"),
    "attention-backend": Flag("engine.attention_backend", why=f"it decides the size of pages; {KERNELS}"),
    **silent(KERNELS, "sampling-backend", "cuda-graph-max-bs", "cuda-graph-bs", "moe-runner-backend"),
    **silent(KERNELS, "moe-a2a-backend", "decode-attention-backend", "prefill-attention-backend"),
    **silent_switches(KERNELS, "enable-torch-compile", "disable-custom-all-reduce", "enable-dp-lm-head"),
    **silent_switches("kernel times are those with CUDA graphs", "disable-cuda-graph"),
    **silent_switches(ONE_MODEL, "enable-lora"),
    **silent(ONE_MODEL, "lora-paths", "max-loras-per-batch"),
}
NOT_BESIDE = (
    "iterations are put together by vLLM's rules, since order=longest-prefix-match goes by these only"
)
BY_CACHE = {
    "lpm": f"--schedule-policy lpm: {NOT_BESIDE}",
    "dfs-weight": f"--schedule-policy dfs-weight: taken for lpm, the nearest that is modelled; {NOT_BESIDE}",
}
"""Schedule policies that look at the cache, and what is said of them."""
PREFILL_TOKENS = 16384
"""Tokens at which a prefill batch is full, where nothing was said."""
RULE_OPTIONS = ("max_prefill_tokens", "schedule_conservativeness", "mixed_chunk")
"""Options that rules=vllm do not have."""
SHORT = {
    **dict.fromkeys(("model",), "model-path"),
    **dict.fromkeys(("tp", "tensor-parallel-size"), "tp-size"),
    **dict.fromkeys(("pp", "pipeline-parallel-size"), "pp-size"),
    **dict.fromkeys(("dp", "data-parallel-size"), "dp-size"),
    **dict.fromkeys(("ep", "expert-parallel-size"), "ep-size"),
}


def finish(reading: Reading, gpu: str | None, gpu_bytes: int | None) -> None:
    """The engine's own defaults, where nothing was said; without a GPU those of an H100."""
    options, engine = reading.policy, reading.engine
    size = options.get("chunked_prefill_size")
    if size is None:
        memory = 80 * GIB if gpu_bytes is None else gpu_bytes
        options["chunked_prefill_size"] = next((n for bound, n in CHUNKS if memory < bound), 16384)
    elif size <= 0:
        del options["chunked_prefill_size"]
        options["chunked"] = False
    options.setdefault("max_num_seqs", MAX_RUNNING_REQUESTS)
    engine.setdefault("block_size", PAGE_SIZES.get(engine.get("attention_backend", ""), 1))
    options["max_num_batched_tokens"] = max(2048, options["max_num_seqs"])
    if engine.get("dp_attention"):
        groups = reading.deployment["dp_attention"] = engine.pop("replicas", 1)
        if "kv_tokens" in engine:  # of every group; the other limits are for all
            engine["kv_tokens"] *= groups
        reading.notes.append(
            "--enable-dp-attention: its groups are taken to be always alike, as one scheduler"
        )
    _rank_by_cache(reading)
    if engine.get("priority"):
        options["order"] = "priority"
        reading.notes.append("--enable-priority-scheduling: nobody is preempted, and low values go first")
    reading.notes.append("the overlap scheduler is not modelled: decisions take no time")


def _rank_by_cache(reading: Reading) -> None:
    """`--schedule-policy`: those that look at the cache go by vLLM's rules here, the only ones that have a
    cache; without a cache they are fcfs, as in SGLang.
    """
    options, engine = reading.policy, reading.engine
    policy, no_cache = engine.get("schedule_policy", "fcfs"), engine.get("no_cache", False)
    if policy not in ("fcfs", *BY_CACHE):
        known = ", ".join(("fcfs", *BY_CACHE))
        raise InputError(f"server: --schedule-policy: {policy!r} is not modelled ({known} are)")
    if no_cache and policy != "fcfs":
        reading.notes.append(f"--schedule-policy {policy}: with --disable-radix-cache it is fcfs")
    elif policy == "fcfs" and not no_cache:
        reading.notes.append("the radix cache is not modelled: prompts that begin alike are computed again")
    if no_cache or policy == "fcfs":
        return
    reading.notes.append(BY_CACHE[policy])
    tokens = options.pop("chunked_prefill_size", None) or options.get("max_prefill_tokens", PREFILL_TOKENS)
    if options.pop("chunked", True) is False:
        reading.notes.append(f"--chunked-prefill-size: prompts of more than {tokens} tokens are split")
    for name in RULE_OPTIONS:
        if name in options:
            del options[name]
            reading.notes.append(f"--{name.replace('_', '-')}: not beside --schedule-policy {policy}")
    options |= {
        "rules": "vllm",
        "prefix_caching": True,
        "order": "longest-prefix-match",
        "max_num_batched_tokens": max(tokens, options["max_num_seqs"]),
    }
