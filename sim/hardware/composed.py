"""A profile of a deployment, composed from measured kernels, and the copy of it that is kept.

compose("llama-3.1-8b@h200,tp=1,dtype=fp8,engine=vllm")
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from contextlib import suppress
from dataclasses import replace
from datetime import date as Date
from pathlib import Path
from typing import Any

from sim.hardware import kernels
from sim.hardware.composing import compose_cost
from sim.hardware.deployment import Deployment
from sim.hardware.host import Host, named
from sim.hardware.hugging_face import (
    check_sizes,
    config_of,
    dtype_of,
    has_scales_of_kv,
    not_in_it,
    read_config,
    shape_of,
    without_unknown_formats,
)
from sim.hardware.model_shape import MODELS
from sim.hardware.profile import Profile, Provenance
from traces.datasets import cache_folder
from traces.errors import InputError
from traces.spec import nearest

FORMAT = 5
"""Raised when the same kernels give another profile: copies kept before are not used again."""

_ASYNCHRONOUS_SINCE = {"vllm": (0, 14), "sglang": (0, 4), "trtllm": (1, 0)}
"""Since when asynchronous scheduling (SGLang, TensorRT-LLM: the overlap scheduler) is the default."""

FAMILIES = ("llama", "mixtral", "qwen2", "qwen3", "qwen3_moe", "deepseek_v3", "kimi_k2")
"""Values of `model_type` whose iterations are put together here."""
_LIKE_LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
_SHAPED_LIKE = {"mistral": _LIKE_LLAMA, "phi3": _LIKE_LLAMA}
"""Families with the operations of another one, by what a configuration of that one says."""
_OTHERWISE = {
    "layers with a window of the context beside layers with all of it": (
        "gemma2",
        "gemma3",
        "gemma3_text",
        "gpt_oss",
        "cohere2",
    ),
    "layers with chunks of the context beside layers with all of it": ("llama4", "llama4_text"),
    "sparse attention": ("deepseek_v32", "deepseek_v4", "glm_moe_dsa"),
    "linear attention": ("qwen3_next", "qwen3_5", "qwen3_5_moe", "mamba", "mamba2", "nemotron_h"),
    "a part that sees pictures": ("gemma3", "mistral3", "llava", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"),
}
"""What other families have that is not composed."""
LONGEST = 131_072
"""Context of a model whose configuration does not say it; nothing that is composed depends on it."""
_BITS = {"bf16": None, "fp8": 8, "fp8-block": 8, "nvfp4": 4}
_SOURCES = {"silicon": "measured", "mixed": "measured in part", "empirical": "roofline"}


def compose(deployment: Deployment | str, *, name: str | None = None, date: str | None = None) -> Profile:
    """The profile of a deployment, or of a text such as `llama-3.1-8b@h200,tp=1,dtype=fp8`.

    name: by default the text. date: ISO, by default today. Raises `InputError` without the extra `kernels`,
    and for a model, a GPU, an engine or formats that the tables do not have.
    """
    asked = Deployment.parse(deployment) if isinstance(deployment, str) else deployment
    kernels.require()
    config = config_for(asked.model)
    asked = replace(asked, dtype=asked.dtype or dtype_of(config, asked.model))
    if asked.dp_attention > 1 and not num_experts(config):
        raise InputError(
            f"profile {asked.text}: dp_attention={asked.dp_attention} is for models of experts, which "
            f"{asked.model} is not; groups that share nothing are replicas (--replicas {asked.dp_attention})"
        )
    if asked.ep > 1 and not num_experts(config):
        raise InputError(
            f"profile {asked.text}: ep={asked.ep} is for models of experts, which {asked.model} is not"
        )
    shape = shape_of(config, short_name(asked.model))
    with tempfile.TemporaryDirectory(prefix="seqsched-") as folder:
        content = json.dumps(without_unknown_formats(config))
        Path(folder, "config.json").write_text(content, encoding="utf-8")
        parts = kernels.Kernels(asked, folder, _heads(config, asked.attention_tp))
        memory = parts.memory()
        cost, errors = compose_cost(parts, memory.capacity_tokens)
    origin = parts.origin
    host = named(asked.host_name, config.get("num_hidden_layers"), _BITS[asked.dtype] or 16)
    provenance = Provenance(
        kind="composed from measured kernels",
        date=date or Date.today().isoformat(),
        description=_description(asked, config, parts, host),
        source=f"{kernels.PACKAGE} {origin.package} ({kernels.LICENCE}), tables of {origin.system}",
        versions={
            "engine": f"{origin.engine} {origin.table}",
            "tables": f"{kernels.PACKAGE} {origin.package}",
            "licence": kernels.LICENCE,
        },
        grid={
            **({} if shape else {"model": short_name(asked.model)}),
            **_shares(parts),
            "attention": parts.coverage,
        },
        residuals=errors,
    )
    return Profile(
        name=name or asked.text,
        model=shape and replace(shape, weight_bits=_BITS[asked.dtype], kv_bits=_BITS[asked.kv]),
        gpu=kernels.gpu_of(asked.gpu),
        engine=f"{origin.engine}-{origin.table}",
        step_cost=cost,
        memory=memory,
        provenance=provenance,
        num_gpus=asked.tp,
        host=host,
        async_scheduling=decides_ahead(origin.engine, origin.table),
    )


def decides_ahead(engine: str, version: str) -> bool:
    """Whether that version of an engine decides an iteration while the one before it runs, by default."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    return numbers >= _ASYNCHRONOUS_SINCE[engine]


def composed(text: str) -> Profile:
    """The profile of a text, composed once and kept in the user's cache folder by its content.

    A copy that is there is used without the extra. Raises `InputError` as `compose` does.
    """
    asked = Deployment.parse(text)
    kernels.system_of(asked.gpu)
    name = f"{_key(asked)}.json"
    try:
        kept = cache_folder() / "profiles" / name
    except InputError:  # a user without a home
        return compose(asked)
    try:
        return Profile.from_json(json.loads(kept.read_text(encoding="utf-8")), str(kept))
    except (OSError, ValueError):  # there is none, or half of one; InputError is a ValueError
        profile = compose(asked)
    with suppress(OSError, InputError):  # a folder that takes no files costs time, not the answer
        kept.parent.mkdir(parents=True, exist_ok=True)
        profile.save(kept)
    return profile


def config_for(model: str) -> dict[str, Any]:
    """The configuration of a model: known by name, in the package, or in a file.

    Raises `InputError` for an unknown model and for one of a family that is not put together here.
    """
    if model in MODELS:
        config = config_of(MODELS[model])
    elif Path(model).exists():
        config = read_config(Path(model))
    else:
        kernels.require()
        packaged = kernels.packaged_models()
        if model not in packaged:
            known = [*MODELS, *packaged]
            raise InputError(
                f"model: {model!r} is neither a config.json nor a known model ({', '.join(MODELS)}, or one "
                f"that {kernels.PACKAGE} has, such as Qwen/Qwen3-32B){nearest(model, known)}"
            )
        config = read_config(kernels.packaged_config(model))
    kind = str(config.get("model_type"))
    if kind not in (*FAMILIES, *_SHAPED_LIKE):
        why = next((f" ({text})" for text, kinds in _OTHERWISE.items() if kind in kinds), "")
        raise InputError(
            f"model: {model} is of the family {kind!r}{why}, whose iterations are not put "
            f"together here ({', '.join((*FAMILIES, *_SHAPED_LIKE))} are)"
        )
    check_sizes(config, model)
    return {"max_position_embeddings": LONGEST, **config, **_SHAPED_LIKE.get(kind, {})}


def short_name(model: str) -> str:
    """What a model is called: the last part of its name, or the folder of its file."""
    path = Path(model)
    return path.resolve().parent.name if path.name == "config.json" else path.name.lower()


def _key(asked: Deployment) -> str:
    """What decides a profile: the deployment, the model's own configuration, the tables and this program."""
    formats = [asked.dtype] if asked.dtype else list(_BITS)  # the checkpoint's is one of them
    hosts = [named(asked.host_name, 1, _BITS[each] or 16).to_json() for each in formats]
    content: list[Any] = [FORMAT, kernels.VERSION, asked.text, *(host for host in hosts if host)]
    if Path(asked.model).exists():
        content.append(read_config(Path(asked.model)))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _heads(config: dict[str, Any], tp: int) -> kernels.Attention | None:
    """The heads of one GPU; None for latent attention, whose table is another."""
    if config.get("kv_lora_rank"):
        return None
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    if heads % tp:
        raise InputError(f"tp: {tp} does not divide the {heads} heads")
    if kv_heads % tp and tp % kv_heads:
        raise InputError(f"tp: {tp} neither divides the {kv_heads} KV heads nor is a multiple of them")
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return kernels.Attention(heads // tp, max(1, kv_heads // tp), head_dim)


def num_experts(config: dict[str, Any]) -> int:
    """Experts of a layer, by what its configuration says; 0 for a dense model."""
    keys = ("num_experts", "num_local_experts", "n_routed_experts")
    return next((int(config[key]) for key in keys if config.get(key)), 0)


def _shares(parts: kernels.Kernels) -> dict[str, str]:
    total = sum(parts.shares.values())
    return {
        name: f"{100 * parts.shares[source] / total:.1f} % of the time"
        for source, name in _SOURCES.items()
        if parts.shares[source]
    }


def _description(asked: Deployment, config: dict[str, Any], parts: kernels.Kernels, host: Host) -> str:
    shares = ", ".join(f"{share} {name}" for name, share in _shares(parts).items())
    left_out = "".join(f" {text}" for text in not_in_it(config))
    if asked.kv == "bf16" and has_scales_of_kv(config):
        left_out += " The KV cache has 16 bits; the checkpoint has scales for 8 (kv=fp8)."
    uneven = " Tokens are spread over the experts by the power law that the tables assume." * bool(
        num_experts(config)
    )
    if asked.dp_attention > 1:
        uneven += (
            f" Sequences and prompt tokens are spread evenly over {asked.dp_attention} groups of GPUs with "
            "an attention and a KV cache of their own."
        )
    on_host = " No time on the host is in it: an engine that schedules slower than its kernels run is slower."
    if host.name:
        on_host = f" Time on the host: the terms of {host.name}, fitted on {host.fitted_on}."
    return (
        f"Nobody measured these iterations. Each is the sum of its kernels, which were measured one by one "
        f"on {parts.origin.system} under {parts.origin.engine} {parts.origin.table}: {shares}. Attention: "
        f"{parts.coverage}. Memory by the rule of {parts.origin.engine}.{uneven}{left_out}{on_host}"
    )
