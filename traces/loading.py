"""Finds what a source means (file, dataset, format or generator) and loads it; not how each is read."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import checked
from .errors import InputError
from .spec import nearest

if TYPE_CHECKING:
    from .readers import Tokenizer
    from .registry import Named
    from .trace import Trace


@checked
def load(
    source: str | os.PathLike[str],
    *,
    seed: int = 0,
    max_new_tokens: int | None = None,
    tokenizer: Tokenizer | None = None,
    num_prompts: int | None = None,
    time_unit: str | None = None,
    whole_sessions: bool = False,
) -> Trace:
    """The trace that `source` names: a file, a public dataset, a generator, or a file of a named format.

    A file's format is detected. A generator is `NAME[:key=value,...]`, a named format
    `NAME:file=PATH[,key=value,...]`; NAME may be `some.module:Class`, with a method
    `generate(num_prompts, seed)` or a class over `traces.readers.Format`.

    Where a file and a name coincide, the file is taken only if `source` is a Path or holds a path separator
    or a suffix (`./fixed` or `fixed.csv`, not `fixed`). `seed` feeds whatever is drawn rather than read,
    `max_new_tokens` caps the outputs, `tokenizer(text)` counts tokens where a file holds text. `num_prompts`
    is the number of requests to generate (None: the generator's default), or the first so many of a file or
    dataset (None: all); `Trace.sample` takes others. A generator's last
    sessions do not end within these; with `whole_sessions` they do, a few requests later. `time_unit` (s, ms,
    us, ns) is that of a file's times where it is not clear.
    The trace's name is the source as it was given; for a path, and for a file in our own format, it is the
    name of the file.
    Raises InputError for a source that is none of these, and for bad input of any kind.
    """
    from . import formats, synthetic
    from .own_format import Seqsched
    from .readers import Reading

    text = os.fspath(source)
    if is_generator(source):
        if time_unit is not None:
            raise InputError(f"time_unit: {time_unit} is of no use for {text}, which is drawn")
        trace = synthetic.generate(text, num_prompts, seed, whole_sessions=whole_sessions)
        return trace if max_new_tokens is None else trace.with_output_cap(max_new_tokens)
    named = _named_format(source)
    if named is not None:
        reading = Reading(seed, max_new_tokens, tokenizer, time_unit)
        trace = formats.read_named(named, reading)
        return (trace if named.make is Seqsched else replace(trace, name=text)).sample(num_prompts)
    path = _path(source)
    trace = formats.read(
        path, seed=seed, max_new_tokens=max_new_tokens, tokenizer=tokenizer, time_unit=time_unit
    )
    return (trace if path == text else replace(trace, name=text)).sample(num_prompts)


def announce(source: str, time_unit: str | None) -> None:
    """Log here how a file is read that only other processes will read; one that cannot be read is theirs to
    name.
    """
    with suppress(InputError):
        if not is_generator(source):
            load(source, time_unit=time_unit)


def sources_help() -> str:
    """What a flag that takes a source says in its `--help`."""
    from .known_formats import FORMATS
    from .synthetic import GENERATORS

    return (
        "A file, a dataset (`seqsched trace fetch`), a generator NAME[:key=value,...] "
        f"({', '.join(GENERATORS.names)}), a file in a named format, NAME:file=PATH "
        f"({', '.join(FORMATS.names)}), or some.module:Class[:key=value,...]; "
        "`seqsched list generators formats` describes them."
    )


def file_of(source: str | os.PathLike[str]) -> str | None:
    """The file behind a source, a dataset's fetched where it is missing; None for a generator.

    Raises InputError for a source that names nothing.
    """
    if is_generator(source):
        return None
    named = _named_format(source)
    return _path(source) if named is None else str(named.options.get("file", ""))


def is_generator(source: str | os.PathLike[str]) -> bool:
    """Whether a source is drawn for a seed and a number of requests, rather than read from a file."""
    from .synthetic import GENERATORS

    if _is_file(source):
        return False
    text = os.fspath(source)
    if text.partition(":")[0] in GENERATORS.names:
        return True
    return _is_outside(text) and hasattr(GENERATORS.resolve(text).make, "generate")


def module_file_of(source: str) -> Path | None:
    """The file of the module of a format or generator from outside; None for any other source."""
    from .known_formats import FORMATS

    return FORMATS.module_file(source) if not _is_file(source) and _is_outside(source) else None


def _is_file(source: str | os.PathLike[str]) -> bool:
    """Whether it is a path, and something is there."""
    text = os.fspath(source)
    path_like = not isinstance(source, str) or Path(text).name != text or Path(text).suffix != ""
    return path_like and os.path.lexists(text)


def _is_outside(text: str) -> bool:
    """Whether it is `some.module:Class[:...]`, and no file that happens to be called so."""
    from .known_formats import FORMATS
    from .synthetic import GENERATORS

    return FORMATS.is_outside(text) and GENERATORS.is_outside(text) and not os.path.lexists(text)


def _named_format(source: str | os.PathLike[str]) -> Named | None:
    from .known_formats import FORMATS

    text = os.fspath(source)
    name, colon, _ = text.partition(":")
    is_named = not _is_file(source) and ((bool(colon) and name in FORMATS.names) or _is_outside(text))
    return FORMATS.resolve(text) if is_named else None


def _path(source: str | os.PathLike[str]) -> str:
    """The path of a file or dataset; InputError where there is none."""
    from . import datasets
    from .known_formats import FORMATS
    from .synthetic import GENERATORS

    text = os.fspath(source)
    if _is_file(source):
        return text
    if text in datasets.names():
        return str(datasets.fetch(text))
    if not text or not os.path.lexists(text):
        name, colon, _ = text.partition(":")
        raise InputError(
            f"{text or 'empty name'}: no such file, nor a dataset ({', '.join(datasets.names())}), "
            f"nor a generator ({', '.join(GENERATORS.names)}), nor some.module:Class"
            f"{nearest(name, [*datasets.names(), *GENERATORS.names, *(FORMATS.names if colon else ())])}"
        )
    return text
