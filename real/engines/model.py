"""Loads the model that runs: a known shape with random weights, or a LLaMA-like model from disk or hub.

Knows nothing of requests, batches or time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sim.hardware.model_shape import MODELS, ModelShape
from traces.errors import InputError
from traces.trace import IntArray

from .packaged import PACKAGED, folder_of

Weights = Literal["random", "pretrained"]

TINY = ModelShape("tiny", 4, 64, 128, 4, 4, 16, 512)
"""Four layers, which a laptop's processor runs in milliseconds."""

PUBLISHED_AT = {"vicuna-7b": "lmsys/vicuna-7b-v1.5"}
"""Names on the hub of the shapes known by shorter names here."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

RANDOM_SPREAD = {"tiny": 0.2}
"""Standard deviation of random weights where the usual 0.02 would make all next tokens the same."""


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model in memory, with its description. `tokenizer` is None with random weights."""

    model: Any
    shape: ModelShape
    weights: Weights
    tokenizer: Any = None
    eos_tokens: frozenset[int] = frozenset()
    """The tokens that end an answer where the model decides that itself."""
    source: str = ""
    """The folder, or the name on the hub, that its weights are read from; empty where they are random."""
    place: torch.device | None = None
    """Where it is to run, if the model here is an outline without weights."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return torch.device(self.model.device) if self.place is None else self.place

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights and of its KV cache."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def end_token(self) -> int:
        """The token that ends a turn of a conversation; InputError where the model has no end token."""
        own = getattr(self.tokenizer, "eos_token_id", None)
        if own is not None:
            return int(own)
        if not self.eos_tokens:
            raise InputError(
                f"model {self.shape.name}: neither its settings nor its tokenizer name an end token"
            )
        return min(self.eos_tokens)

    @property
    def pad_token(self) -> int:
        """The token that stands where a row has none; masked, so that any would do where none is named."""
        named = (getattr(self.tokenizer, "pad_token_id", None), self.model.config.pad_token_id)
        return next((int(id) for id in (*named, *sorted(self.eos_tokens)) if id is not None), 0)

    @cached_property
    def ordinary_tokens(self) -> IntArray:
        """Ids of the tokens that are text: all but padding, begin, end and other special ones, ascending."""
        special = {
            *_special(self.model.config),
            *self.eos_tokens,
            *getattr(self.tokenizer, "all_special_ids", ()),
        }
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        special |= {id for id, token in added.items() if token.special}
        return np.setdiff1d(np.arange(self.shape.vocab), np.array(sorted(special), dtype=np.int64))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    @property
    def label(self) -> str:
        """A description for results: model, weights, type, device."""
        place = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        return (
            f"{self.shape.name} ({self.weights} weights), {str(self.dtype).removeprefix('torch.')}, {place}"
        )


def load(
    name: str | None = None,
    *,
    weights: Weights | None = None,
    dtype: str | None = None,
    device: str | None = None,
    seed: int = 0,
    outline: bool = False,
) -> LoadedModel:
    """The model `name`: `tiny`, a shape of `sim.hardware.model_shape`, one of `PACKAGED`, a path, or a name
    on the hub.

    Defaults: vicuna-7b in bfloat16 where there is CUDA, else tiny in float32 on the CPU; random weights for a
    shape, pretrained ones otherwise. Random weights are drawn on the device, in seconds. `outline`: without
    its weights, for an engine that reads or draws them itself. Raises InputError for a model or device that
    is not available.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if re.fullmatch(r"cpu|cuda(:\d+)?", device) is None:
        raise InputError(f"device: {device!r} is not cpu, cuda or cuda:N")
    place = torch.device(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device: {device!r}, but torch {torch.__version__} sees no CUDA device")
    on_gpu = place.type == "cuda"
    name = name or ("vicuna-7b" if on_gpu else "tiny")
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    kind = DTYPES[dtype or ("bfloat16" if on_gpu else "float32")]
    known = {**MODELS, TINY.name: TINY}.get(name)
    weights = weights or ("random" if known is not None else "pretrained")
    place_of = str(folder_of(name)) if name in PACKAGED else PUBLISHED_AT.get(name, name)
    if weights == "pretrained" and name == TINY.name:
        raise InputError("weights: pretrained, but the model tiny exists with random weights only")
    if weights == "pretrained" and not outline:
        model, tokenizer = _pretrained(name, place_of, kind, place)
    else:
        tokenizer = _tokenizer(name, place_of) if weights == "pretrained" else None
        drawn = known if weights == "random" else None
        config = _read_config(place_of) if drawn is None else _config(drawn)
        model = _random(config, kind, torch.device("meta") if outline else place, name, seed)
    ends = {*_ids(model.config.eos_token_id), *_ids(model.generation_config.eos_token_id)}
    ends |= {*_ids(getattr(tokenizer, "eos_token_id", None))}
    # A None in a call's GenerationConfig falls back to the model's own, which would end answers early.
    model.generation_config.eos_token_id = None
    shape = _shape(name, model.config, kind)
    source = place_of if weights == "pretrained" else ""
    placed = place if outline else None
    return LoadedModel(model.eval(), shape, weights, tokenizer, frozenset(ends), source, placed)


def _ids(setting: int | Iterable[int] | None) -> Iterator[int]:
    """The ids in a setting of transformers: none, one, or several."""
    if isinstance(setting, int):
        yield setting
    elif setting is not None:
        yield from setting


def _special(config: Any) -> Iterator[int]:
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "unk_token_id"):
        yield from _ids(getattr(config, name, None))


def _config(shape: ModelShape) -> LlamaConfig:
    if shape.qkv_bias:
        raise InputError(f"model: {shape.name} has biases, which the LLaMA architecture lacks; give a path")
    return LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=shape.tied_embeddings,
        initializer_range=RANDOM_SPREAD.get(shape.name, 0.02),
    )


def _random(config: Any, dtype: torch.dtype, place: torch.device, name: str, seed: int) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), place:
            torch.manual_seed(seed)
            if isinstance(config, LlamaConfig):
                return LlamaForCausalLM(config)
            family: Any = AutoModelForCausalLM
            return family.from_config(config)
    except torch.OutOfMemoryError as error:
        raise InputError(f"model {name}: its weights do not fit the device ({_first_line(error)})") from None
    finally:
        torch.set_default_dtype(before)


def _pretrained(name: str, source: str, dtype: torch.dtype, place: torch.device) -> tuple[Any, Any]:
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
        return model.to(place), AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, torch.OutOfMemoryError) as error:
        raise _cannot_be_loaded(name, error) from None


def _tokenizer(name: str, source: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise _cannot_be_loaded(name, error) from None


def _cannot_be_loaded(name: str, error: BaseException) -> InputError:
    return InputError(
        f"model {name}: cannot be loaded ({_first_line(error)}); --weights random needs no files"
    )


def _read_config(name: str) -> Any:
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        names = ", ".join((*PACKAGED, *MODELS))
        raise InputError(
            f"model {name!r}: not tiny, nor one of {names}, nor readable ({_first_line(error)})"
        ) from None


def _shape(name: str, config: Any, dtype: torch.dtype) -> ModelShape:
    """The shape of the loaded model."""
    known = {**MODELS, TINY.name: TINY}.get(name)
    if known is not None:
        return replace(known, bytes_per_element=dtype.itemsize)
    heads = config.num_attention_heads
    return ModelShape(
        name,
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        heads,
        getattr(config, "num_key_value_heads", None) or heads,
        getattr(config, "head_dim", None) or config.hidden_size // heads,
        config.vocab_size,
        dtype.itemsize,
        bool(config.tie_word_embeddings),
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
