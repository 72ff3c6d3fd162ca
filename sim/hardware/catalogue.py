"""Profiles by name: shipped, in a file of their own, or composed; knows nothing of what is in them."""

from __future__ import annotations

import json
from pathlib import Path

from sim.hardware.profile import Profile
from traces.errors import InputError
from traces.spec import nearest
from traces.unpacking import refuse_device

SHIPPED = Path(__file__).parent / "profiles"
"""The folder of the profiles that come with the package."""

COMPARED = ("h100-llama-3.1-8b-vllm", "h200-llama-3.1-8b-vllm")
"""The shipped profiles that a plan compares where none is named: what many run, one model on two GPUs."""


def names() -> list[str]:
    """The shipped profiles, sorted."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


def load(name_or_path: str | Path) -> Profile:
    """The shipped profile of that name, the profile in that JSON file, or the one that is composed for a text
    such as `llama-3.1-8b@h200,tp=1,dtype=fp8,engine=vllm`.

    Raises `InputError` with one line: the shipped names where nothing has that name, the file, key, value and
    bound where the file is no profile, or what of the text is not known.
    """
    shipped = names()
    if str(name_or_path) in shipped:
        path = SHIPPED / f"{name_or_path}.json"
        label = path.name
    else:
        path = Path(name_or_path)
        label = str(name_or_path)
        if not _exists(path):
            if "@" in label:
                from sim.hardware.composed import composed

                return composed(label)
            raise InputError(
                f"profile: {label!r} is neither a file nor a shipped profile ({', '.join(shipped)}), nor a "
                f"text MODEL@GPU,key=value, such as llama-3.1-8b@h100{nearest(label, shipped)}"
            )
        refuse_device(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except IsADirectoryError:
        raise InputError(f"{label}: it is a directory, not a JSON file") from None
    except OSError as error:
        raise InputError(f"{label}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{label}: byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{label}, line {error.lineno}: not JSON ({error.msg})") from None
    except InputError as error:
        raise InputError(f"{label}: {error}") from None
    except (RecursionError, ValueError):
        raise InputError(f"{label}: not JSON that a profile could be in") from None
    return Profile.from_json(data, label)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # A name too long for a file is no file.
        return False


def _refuse_constant(constant: str) -> None:
    raise InputError(f"{constant} is not a finite number")
