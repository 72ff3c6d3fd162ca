"""Who may ask: API keys from a file, compared in constant time; never shown, never logged."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from traces.errors import InputError
from traces.trace import CLASS_NAME, is_class


@dataclass(frozen=True)
class Key:
    """A key's name, its digest, the priority of what it sends (a lower number goes first), and the class that
    it is of, empty for none.
    """

    name: str
    digest: bytes
    priority: int = 0
    slo_class: str = ""


class Keys:
    """The keys that are let in; with none, everybody is."""

    def __init__(self, keys: tuple[Key, ...] = ()) -> None:
        self.keys = keys

    def __bool__(self) -> bool:
        return bool(self.keys)

    def find(self, headers: Mapping[str, str]) -> Key | None:
        """The key that a request brings as `Authorization: Bearer KEY`, or as the password of a browser
        (`Basic`); None for none, or another one.

        Takes the same time whichever key it is, and whether it is one.
        """
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        scheme, secret = scheme.lower(), secret.strip()
        given = digest(_password(secret) if scheme == "basic" else secret)
        found = None
        for key in self.keys:
            if hmac.compare_digest(key.digest, given):
                found = key
        return found if scheme in ("bearer", "basic") else None


def read_keys(path: Path) -> Keys:
    """The keys in a file of lines `NAME KEY [PRIORITY [CLASS]]`; # begins a comment.

    Raises InputError naming file and line, never the key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'})"
        ) from None
    keys: list[Key] = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"{path}, line {number}"
        if not 2 <= len(words) <= 4:
            raise InputError(f"{where}: {len(words)} words; NAME KEY [PRIORITY [CLASS]] are needed")
        if len(words) > 2 and not words[2].removeprefix("-").isdecimal():
            raise InputError(f"{where}: the priority is not a whole number")
        if any(key.name == words[0] for key in keys):
            raise InputError(f"{where}: the name {words[0]} stands above already")
        level, kind = int(words[2]) if len(words) > 2 else 0, words[3] if len(words) > 3 else ""
        if kind and not is_class(kind):
            raise InputError(f"{where}: the class is not {CLASS_NAME}")
        keys.append(Key(words[0], digest(words[1]), level, kind))
    if not keys:
        raise InputError(f"{path}: holds no key")
    return Keys(tuple(keys))


def _password(credentials: str) -> str:
    """What follows the name in a browser's credentials; empty where they are none."""
    try:
        return base64.b64decode(credentials, validate=True).decode("utf-8").partition(":")[2]
    except ValueError:
        return ""


def digest(secret: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
