"""Between a model's shape and the `config.json` that Hugging Face keeps of it; knows nothing of engines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim.hardware.model_shape import ModelShape
from traces.errors import InputError

_SHAPED_LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3")
_OF_EXPERTS = {
    "mixtral": ("num_local_experts", "intermediate_size"),
    "qwen3_moe": ("num_experts", "moe_intermediate_size"),
    "deepseek_v3": ("n_routed_experts", "moe_intermediate_size", "kv_lora_rank"),
}
_OF_EXPERTS["kimi_k2"] = _OF_EXPERTS["deepseek_v3"]
"""By family, what a configuration has to say beside what it says of all: how many experts, and their size."""
QUANTISED_BESIDE = "quantised_beside"
"""Key of what a file beside the configuration says of quantised weights."""
_SIZES = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "heads": "num_attention_heads",
    "vocab": "vocab_size",
}


def read_config(path: Path) -> dict[str, Any]:
    """The configuration in a `config.json`, or in that file of a folder; `InputError` for anything else.

    How its weights are quantised may stand in a file of its own beside it, as ModelOpt writes it.
    """
    file = path / "config.json" if path.is_dir() else path
    config = _read_json(file)
    if not isinstance(config, dict) or "architectures" not in config:
        raise InputError(f"{file}: it is no config.json of Hugging Face (it has no key 'architectures')")
    beside = file.with_name(f"{file.name.removesuffix('config.json')}hf_quant_config.json")
    if not config.get("quantization_config") and beside.exists():
        content = _read_json(beside)
        said = content.get("quantization") if isinstance(content, dict) else None
        if not isinstance(said, dict):
            raise InputError(f"{beside}: it does not say how weights are quantised (no key 'quantization')")
        config[QUANTISED_BESIDE] = {"quant_method": "modelopt", **said}
    return config


def without_unknown_formats(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as the kernels' package understands it: its own words on how weights are quantised
    where it knows the method, which decides of parts that are not.
    """
    said = config.get("quantization_config")
    known = (None, "fp8", "modelopt")
    is_known = isinstance(said, dict) and said.get("quant_method") in known
    left_out = (QUANTISED_BESIDE,) if is_known else (QUANTISED_BESIDE, "quantization_config")
    return {key: value for key, value in config.items() if key not in left_out}


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{file}: it is not JSON") from None


def check_sizes(config: Mapping[str, Any], name: str) -> None:
    """InputError for sizes that a configuration of a known family lacks, or that are no whole numbers from 1
    on.
    """
    experts = _OF_EXPERTS.get(str(config.get("model_type")), ())
    needed = [key for key in _SIZES.values() if key != "intermediate_size" or not experts]
    needed += [*experts, "num_experts_per_tok"] if experts else []
    optional = [key for key in ("num_key_value_heads", "head_dim") if config.get(key) is not None]
    for key in (*needed, *optional):
        size = config.get(key)
        if not isinstance(size, int) or isinstance(size, bool):
            raise InputError(f"model {name}: {key} is {size!r} in its config.json, not a whole number")
        if size < 1:
            raise InputError(f"model {name}: {key} is {size} in its config.json, below 1")


def shape_of(config: Mapping[str, Any], name: str) -> ModelShape | None:
    """The shape of a model like LLaMA; None for one of another structure (experts, latent attention)."""
    if config.get("model_type") not in _SHAPED_LIKE_LLAMA:
        return None
    check_sizes(config, name)
    sizes: dict[str, int] = {key: config[theirs] for key, theirs in _SIZES.items()}
    return ModelShape(
        name,
        **sizes,
        kv_heads=config.get("num_key_value_heads") or sizes["heads"],
        head_dim=config.get("head_dim") or sizes["hidden"] // sizes["heads"],
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=config["model_type"] == "qwen2",
    )


def dtype_of(config: Mapping[str, Any], name: str) -> str:
    """The format of a checkpoint's weights, as `deployment.DTYPES` name it.

    Raises `InputError` for one that is quantised in a way of which there are no tables.
    """
    said = config.get("quantization_config") or config.get(QUANTISED_BESIDE)
    if not said:
        return "bf16"
    if not isinstance(said, dict):
        raise InputError(f"model {name}: quantization_config is {said!r} in its config.json, not a table")
    method = str(said.get("quant_method", "")).lower()
    algorithm = str(said.get("quant_algo", "")).lower()
    if method in ("fp8", "fbgemm_fp8"):
        return "fp8-block" if said.get("weight_block_size") else "fp8"
    if (not method or method.startswith("modelopt")) and algorithm in ("fp8", "nvfp4"):
        return algorithm
    if method == "compressed-tensors" and (found := _of_compressed_tensors(said.get("config_groups"))):
        return found
    raise InputError(
        f"model {name}: its checkpoint is quantised by {algorithm or method or 'an unnamed method'}, of "
        "which there are no tables; dtype=bf16, fp8, fp8-block or nvfp4 composes it as if it were that"
    )


def _of_compressed_tensors(groups: Any) -> str | None:
    """The format of weights that are multiplied with numbers of the same one; None for others, and where
    groups differ.
    """
    formats = set[tuple[Any, ...]]()
    for group in groups.values() if isinstance(groups, dict) else ():
        for key in ("weights", "input_activations"):
            part = group.get(key) if isinstance(group, dict) else None
            formats.add((part.get("type"), part.get("num_bits")) if isinstance(part, dict) else (None,))
    if formats == {("float", 4)}:
        return "nvfp4"
    if formats != {("float", 8)}:
        return None
    is_block = any(group["weights"].get("strategy") == "block" for group in groups.values())
    return "fp8-block" if is_block else "fp8"


def not_in_it(config: Mapping[str, Any]) -> list[str]:
    """What a configuration says of a model that iterations put together from kernels leave out."""
    said = []
    window, longest = config.get("sliding_window"), config.get("max_position_embeddings") or 0
    is_window = isinstance(window, int) and isinstance(longest, int) and 0 < window < longest
    if is_window and config.get("use_sliding_window", True):
        said.append(f"Attention reads all of the context: the window of {window:,} tokens is not in it.")
    if config.get("num_nextn_predict_layers"):
        said.append("Its layers that predict further tokens (MTP) are not used.")
    return said


def has_scales_of_kv(config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is made for a KV cache of 8 bits, as well as for one of 16."""
    said = config.get("quantization_config") or config.get(QUANTISED_BESIDE)
    return isinstance(said, dict) and str(said.get("kv_cache_quant_algo")).lower() == "fp8"


def config_of(shape: ModelShape) -> dict[str, Any]:
    """The configuration of a shape."""
    kind = "qwen2" if shape.qkv_bias else "llama"
    return {
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "model_type": kind,
        **{theirs: getattr(shape, key) for key, theirs in _SIZES.items()},
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "tie_word_embeddings": shape.tied_embeddings,
        "max_position_embeddings": 131072,
        "torch_dtype": "bfloat16",
    }
