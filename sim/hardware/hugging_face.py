"""Between a model's shape and the `config.json` that Hugging Face keeps of it; knows nothing of engines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim.hardware.model_shape import ModelShape
from traces.errors import InputError

_SHAPED_LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3")
_SIZES = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "heads": "num_attention_heads",
    "vocab": "vocab_size",
}


def read_config(path: Path) -> dict[str, Any]:
    """The configuration in a `config.json`, or in that file of a folder; `InputError` for anything else."""
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{file}: it is not JSON") from None
    if not isinstance(config, dict) or "architectures" not in config:
        raise InputError(f"{file}: it is no config.json of Hugging Face (it has no key 'architectures')")
    return config


def shape_of(config: Mapping[str, Any], name: str) -> ModelShape | None:
    """The shape of a model like LLaMA; None for one of another structure (experts, latent attention)."""
    if config.get("model_type") not in _SHAPED_LIKE_LLAMA:
        return None
    sizes: dict[str, int] = {}
    for key, theirs in _SIZES.items():
        size = config.get(theirs)
        if not isinstance(size, int) or isinstance(size, bool):
            raise InputError(f"model {name}: {theirs} is {size!r} in its config.json, not a whole number")
        sizes[key] = size
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
    said = config.get("quantization_config")
    if not said:
        return "bf16"
    method = str(said.get("quant_method", "")).lower()
    algorithm = str(said.get("quant_algo", "")).lower()
    if method == "fp8":
        return "fp8-block" if said.get("weight_block_size") else "fp8"
    if method == "modelopt" and algorithm in ("fp8", "nvfp4"):
        return algorithm
    if method == "compressed-tensors":
        weights = [group.get("weights") or {} for group in (said.get("config_groups") or {}).values()]
        if weights and all(w.get("type") == "float" and w.get("num_bits") == 8 for w in weights):
            return "fp8-block" if any(w.get("strategy") == "block" for w in weights) else "fp8"
    raise InputError(
        f"model {name}: its checkpoint is quantised by {algorithm or method or 'an unnamed method'}, of "
        "which there are no tables; dtype=bf16, fp8, fp8-block or nvfp4 composes it as if it were that"
    )


def not_in_it(config: Mapping[str, Any]) -> list[str]:
    """What a configuration says of a model that iterations put together from kernels leave out."""
    said = []
    window, longest = config.get("sliding_window"), config.get("max_position_embeddings") or 0
    if window and window < longest and config.get("use_sliding_window", True):
        said.append(f"Attention reads all of the context: the window of {window:,} tokens is not in it.")
    if config.get("num_nextn_predict_layers"):
        said.append("Its layers that predict further tokens (MTP) are not used.")
    return said


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
