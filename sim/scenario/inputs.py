"""Digests of what the texts of settings refer to: files, profiles, the modules of policies from outside.

A resumed run may be taken up only where all of these are what they were.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from traces.errors import InputError
from traces.loading import file_of

from ..hardware import profile as profiles
from .policies import POLICIES


def digest_of(name: str, text: str) -> str:
    """SHA-256 of what one value of a setting refers to; empty where that is nothing.

    A trace's file; profiles; the module of an outside policy, whose options may name files that it writes;
    else the files that the text, or any stretch of it between two of `:;,=`, names. Raises InputError for
    what is not there.
    """
    if name == "trace":
        path = file_of(text)
        return "" if path is None else _file_digest(Path(path))
    if name in ("profile", "fleet"):
        parts = [part.strip().partition("*")[0] for part in text.split(";")]
        machines = [profiles.load(part).to_json() for part in parts]
        return hashlib.sha256(json.dumps(machines, sort_keys=True).encode()).hexdigest()
    if name == "policy" and POLICIES.is_outside(text):
        file = POLICIES.module_file(text)
        return "" if file is None else _file_digest(file)
    cuts = list(re.finditer("[:;,=]", text))
    starts, ends = [0, *(cut.end() for cut in cuts)], [*(cut.start() for cut in cuts), len(text)]
    parts = [text[start:end] for start in starts for end in ends if start < end]
    files = filter(os.path.isfile, parts)  # which, unlike a Path, says False of a text too long for a name
    return " ".join(_file_digest(Path(file)) for file in files)


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
