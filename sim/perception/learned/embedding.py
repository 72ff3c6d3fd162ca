"""Embeddings of texts by a model in a folder: the mean of its last hidden states. The only module of `sim`
that knows torch, which it imports when it is asked for an embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from traces.errors import InputError
from traces.trace import FloatArray

BATCH = 32
MOST_TOKENS = 512
"""Tokens of a text that are looked at, or as many as the model takes, where that is less."""


def fingerprint(folder: str | Path) -> str:
    """SHA-256 of the weights in a model's folder; InputError where there are none."""
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise InputError(f"embeddings: {folder} is no folder of a model (no *.safetensors in it)")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def embedder(
    folder: str, sha256: str | None = None, wanted_by: str = ""
) -> Callable[[Sequence[str]], FloatArray]:
    """From texts to embeddings of length 1 (0 without tokens), shape (n, dimensions), by a model's folder.

    `sha256`: what `fingerprint` said of it, else InputError; `wanted_by`: who needs it, for errors.
    """
    if sha256 is not None and (found := fingerprint(folder)) != sha256:
        which = f"({found[:12]}, not {sha256[:12]})"
        raise InputError(f"{wanted_by}: was trained with another model than that in {folder} {which}")
    return lambda texts: _embed(folder, texts)


@cache
def _loaded(folder: str) -> tuple[Any, Any]:
    try:
        import transformers
    except ImportError:
        raise InputError('embeddings: need transformers and torch: pip install "seqsched[real]"') from None
    library: Any = transformers
    library.utils.logging.disable_progress_bar()
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = library.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"embeddings: {folder} cannot be loaded ({error})") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, model


def _embed(folder: str, texts: Sequence[str]) -> FloatArray:
    import torch

    tokenizer, model = _loaded(folder)
    most = min(MOST_TOKENS, int(getattr(model.config, "max_position_embeddings", MOST_TOKENS)))
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # texts of like length are padded little
    rows: list[Any] = [None] * len(texts)
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            given = tokenizer(
                [texts[i] or " " for i in batch],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=most,
            )
            states = model(**given).last_hidden_state
            mask = given["attention_mask"].unsqueeze(-1).to(states.dtype)
            means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1).clamp(min=1), dim=1)
            for i, mean in zip(batch, means.numpy(), strict=True):
                rows[i] = mean
    return np.asarray(rows, dtype=np.float64)
