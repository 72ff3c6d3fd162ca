"""Finds what a source means (file, dataset or generator) and loads it; knows nothing of how each is read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:
    from .readers import Tokenizer
    from .trace import Trace


def load(
    source: str | os.PathLike[str],
    *,
    seed: int = 0,
    max_new_tokens: int | None = None,
    tokenizer: Tokenizer | None = None,
    num_prompts: int | None = None,
) -> Trace:
    """The trace that `source` names: a file, a public dataset, or a generator `NAME[:key=value,...]`.

    Where a file and a name coincide, the file is taken only if `source` is a Path or holds a path separator
    or a suffix (`./fixed` or `fixed.csv`, not `fixed`). `seed` feeds whatever is drawn rather than read,
    `max_new_tokens` caps the outputs, `tokenizer(text)` counts tokens where a file holds text. `num_prompts`
    is the number of requests to generate (None: the generator's default); files and datasets come whole,
    `Trace.sample` takes a part.
    Raises InputError for a source that is none of the three, and for bad input of any kind.
    """
    from . import formats, synthetic

    path = file_of(source)
    if path is None:
        trace = synthetic.generate(os.fspath(source), num_prompts, seed)
        return trace if max_new_tokens is None else trace.with_output_cap(max_new_tokens)
    trace = formats.read(path, seed=seed, max_new_tokens=max_new_tokens, tokenizer=tokenizer)
    return trace if path == os.fspath(source) else replace(trace, name=os.fspath(source))


def file_of(source: str | os.PathLike[str]) -> str | None:
    """The file behind a source, a dataset's fetched where it is missing; None for a generator.

    Raises InputError for a source that is neither file, dataset nor generator.
    """
    from . import datasets, synthetic

    text = os.fspath(source)
    path_like = not isinstance(source, str) or Path(text).name != text or Path(text).suffix != ""
    if not (path_like and os.path.lexists(text)):
        if text.partition(":")[0] in synthetic.names():
            return None
        if text in datasets.names():
            return str(datasets.fetch(text))
        if not text or not os.path.lexists(text):
            raise InputError(
                f"{text or 'empty name'}: no such file, nor a dataset ({', '.join(datasets.names())}), "
                f"nor a generator ({', '.join(synthetic.names())})"
            )
    return text
