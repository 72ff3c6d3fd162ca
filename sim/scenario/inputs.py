"""Digests of what the texts of settings refer to: files, profiles, modules from outside.

A resumed run may be taken up only where all of these are what they were.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from traces.errors import InputError
from traces.loading import file_of, module_file_of
from traces.trace import Trace

from ..fleet.routers import ROUTERS
from ..hardware import catalogue
from ..hardware.profile import Profile
from ..perception.registry import PREDICTORS
from .policies import POLICIES

REGISTRIES = {"predictor": PREDICTORS, "router": ROUTERS}
"""Setting -> what reads its text, where a class from outside may stand in it."""

Input: TypeAlias = tuple[str, str, str]
"""(setting, text, digest of what the text refers to)."""

KEY_DIGITS = 24
SINGULAR = {"policies": "policy", "baseline": "policy"}
"""Other names under which the values of a setting stand."""


def digest_of(name: str, text: str) -> str:
    """SHA-256 of what one value of a setting refers to; empty where that is nothing.

    A trace's file; profiles; the module of an outside policy, whose options may name files that it writes;
    else the files that the text, or any stretch of it between two of `:;,=`, names, and the module of an
    outside predictor, router, trace format or generator. Raises InputError for what is not there.
    """
    if name in ("profile", "fleet"):
        parts = [part.strip().partition("*")[0] for part in text.split(";")]
        machines = [catalogue.load(part).to_json() for part in parts]
        return hashlib.sha256(json.dumps(machines, sort_keys=True).encode()).hexdigest()
    if name == "trace":
        path, module = file_of(text), module_file_of(text)
        files = _named_in(text) if path is None and module is not None else []
        return _digests(module, *files) if path is None else _digests(module, Path(path))
    if name == "policy" and POLICIES.is_outside(text):
        return _digests(POLICIES.module_file(text))
    module = REGISTRIES[name].module_file(text) if name in REGISTRIES else None
    return _digests(module, *_named_in(text))


def check_unchanged(inputs: Iterable[Input], what: str) -> None:
    """InputError where what a text refers to is not what it was when `what` ("sweep") began.

    Policies aside: whoever builds the scheduler reads them.
    """
    for name, text, content in inputs:
        if name != "policy" and digest_of(name, text) != content:
            raise InputError(f"{name} {text}: its content here is not what it was when the {what} began")


def _named_in(text: str) -> list[Path]:
    """The files that any stretch of the text between two of `:;,=` names."""
    cuts = list(re.finditer("[:;,=]", text))
    starts, ends = [0, *(cut.end() for cut in cuts)], [*(cut.start() for cut in cuts), len(text)]
    parts = [text[start:end] for start in starts for end in ends if start < end]
    # isfile, unlike a Path, says False of a text too long for a name.
    return [Path(part) for part in filter(os.path.isfile, parts)]


def _digests(*files: Path | None) -> str:
    """SHA-256 of each file, with spaces between them; None is no file."""
    return " ".join(_file_digest(file) for file in files if file is not None)


def texts_within(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(setting, text) of every text among the values, also of those in a list or tuple."""
    for name, value in settings.items():
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, str | Path):
                yield SINGULAR.get(name, name), str(each)


def plain(value: Any) -> Any:
    """What JSON can hold in place of a value, so that another value has another; a digest where that is
    long. Texts stay as they are, whatever they refer to.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Trace):
        return digest_of_trace(value)
    if isinstance(value, Profile):
        return digest(value.to_json())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        items = {each.name: plain(getattr(value, each.name)) for each in fields(value) if each.compare}
        return {type(value).__qualname__: items}
    return hashlib.sha256(pickle.dumps(value)).hexdigest()[:KEY_DIGITS]


def digest_of_trace(trace: Trace) -> str:
    """SHA-256, shortened, of a trace's columns and cap; its name and request ids do not count."""
    state = hashlib.sha256(str(trace.max_new_tokens).encode())
    for name in (*trace.columns(), "samples"):
        column = getattr(trace, name)
        if column is None or name == "request_id":
            continue
        state.update(name.encode())
        whole = np.ascontiguousarray(column)
        state.update(repr(column.tolist()).encode() if whole.dtype == object else whole.tobytes())
    if (blocks := trace.blocks) is not None:
        for part in (blocks.hashes, blocks.ends, blocks.offsets, blocks.answers):
            state.update(b"" if part is None else part.tobytes())
    return state.hexdigest()[:KEY_DIGITS]


def digest(value: Any) -> str:
    """SHA-256, shortened, of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:KEY_DIGITS]


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
