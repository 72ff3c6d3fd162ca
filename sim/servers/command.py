"""From a command or a file to the flags in it, by engine; makes nothing of their values."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from sim.servers import sglang, trtllm, vllm
from sim.servers.flag import OFF, ON, Flag
from traces.errors import InputError

ENGINES: Mapping[str, ModuleType] = {"vllm": vllm, "sglang": sglang, "trtllm": trtllm}
PROGRAMS = {
    ("vllm", "serve"): "vllm",
    ("-m", "vllm.entrypoints.openai.api_server"): "vllm",
    ("-m", "sglang.launch_server"): "sglang",
    ("sglang", "serve"): "sglang",
    ("-m", "vllm.entrypoints.cli.main", "serve"): "vllm",
    ("trtllm-serve", "serve"): "trtllm",
    ("trtllm-serve",): "trtllm",
}
"""Words of a command after which the flags of an engine come, without the folders of programs."""
IMAGES = {"vllm-openai": "vllm"}
"""Names of containers that start a server themselves, which flags may follow."""
ENVIRONMENT = re.compile(r"(VLLM|SGLANG|SGL|TRTLLM|TLLM)_[A-Z0-9_]+=.*", re.DOTALL)
"""Variables that change what an engine does, as they stand before its command."""
SHELL = re.compile(r"&|&&|\|.*|;|\d?[<>].*|&>.*")
"""A word with which the shell takes over again."""
COMMENT = re.compile(r"(?m)(^|(?<=\s))#[^'\"\n]*$")
CONTINUED = re.compile(r"(?<!\S)[\\`^][ \t]*\r?\n|\\\n")
"""The end of a line that goes on in the next, in a Unix shell, in PowerShell and at Windows' own prompt, also
where blanks were pasted behind it.
"""
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
"""What word processors and web pages make of hyphens."""
FILES = ("config", "extra-llm-api-options")
"""Flags that name a file with further ones."""
MODEL = ("model", "model-path")
SUFFIXES = (".yaml", ".yml", ".json")


class Given(NamedTuple):
    """A flag as it was given: how it was written, its name in the engine's table, its value."""

    written: str
    name: str
    value: str


def engine_and_flags(text: str) -> tuple[str, list[Given]]:
    """The engine that a command starts or a file configures, and its flags, those that win last."""
    words = _words(text)
    if len(words) == 1 and words[0].lower().endswith(SUFFIXES):
        content = flat(load(words[0]), "")
        engine = _engine_of(words[0], content)
        return engine, [_named(engine, key, value) for key, value in content]
    for inner in (words, *(_words(word) for word in words if len(word.split()) > 1)):  # as in sh -c "…"
        if (found := _program(inner)) is not None:
            engine, place = found
            said = [Given(word, word, "") for word in inner[:place] if ENVIRONMENT.fullmatch(word)]
            return engine, [*said, *_of_command(engine, _until_shell(inner[place:]))]
    raise InputError(
        f"server: {text!r} is neither a file ({', '.join(SUFFIXES)}) nor a command with "
        "vllm serve, python -m sglang.launch_server or trtllm-serve"
    )


def _words(text: str) -> list[str]:
    try:
        return shlex.split(CONTINUED.sub(" ", COMMENT.sub("", text)).replace("\r\n", "\n"))
    except ValueError as error:
        raise InputError(f"server: {text!r}: {error}") from None


def _program(words: Sequence[str]) -> tuple[str, int] | None:
    """The engine whose program or container is among the words, and the place of the first behind it."""
    names = [word if word.startswith("-") else word.rpartition("/")[2] for word in words]
    for program, engine in PROGRAMS.items():
        for place in range(len(names) - len(program) + 1):
            if tuple(names[place : place + len(program)]) == program:
                return engine, place + len(program)
    images = [re.split("[:@]", name)[0] for name in names]
    return next(((IMAGES[name], i + 1) for i, name in enumerate(images) if name in IMAGES), None)


def _until_shell(words: Sequence[str]) -> list[str]:
    """The words of a command, without what a shell makes of those behind it."""
    kept: list[str] = []
    for word in words:
        if SHELL.fullmatch(word):
            break
        kept.append(word.removesuffix(";"))
        if word.endswith(";"):
            break
    return kept


def _of_command(engine: str, words: Sequence[str]) -> list[Given]:
    """The flags of a command, and of the files that it names."""
    flags: Mapping[str, Flag] = ENGINES[engine].FLAGS
    given: list[Given] = []
    files: list[Given] = []
    for written, value in _split(engine, words):
        one = _named(engine, written, value)
        acts = one.name in flags and bool(flags[one.name].target)
        if one.name in FILES:
            files += [_named(engine, key, text) for key, text in flat(load(value), "")]
        elif acts and any(one.name == other.name for other in given):
            raise InputError(f"server: {written} is given twice")
        else:
            given.append(one)
    # TensorRT-LLM's file wins over its command; the others' commands win over their files.
    return [*given, *files] if engine == "trtllm" else [*files, *given]


def _split(engine: str, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(flag as it is written, its value) of the words of a command; the first other word is the model."""
    flags, place, is_named = ENGINES[engine].FLAGS, 0, False
    if pasted := next((word for word in words if word.startswith(tuple(DASHES))), None):
        raise InputError(
            f"server: {pasted!r} begins with no hyphen; did you mean --{pasted.strip('-' + DASHES)}?"
        )
    has_model = any(_switch(engine, word.partition("=")[0])[0] in MODEL for word in words if _is_flag(word))
    while place < len(words):
        word = words[place]
        place += 1
        if not word.startswith("-"):
            if is_named:
                raise InputError(f"server: {word!r} belongs to no flag")
            is_named = has_model = True
            yield "model", word
            continue
        written, equals, value = word.partition("=")
        name = _switch(engine, written)[0]
        flag: Flag | None = flags.get(name)
        if flag is not None and flag.kind == "switch" and not equals:
            value = "true"
        elif not equals:
            # What is not known, or has no effect, may take several values.
            most = 1 if not has_model or name in FILES or (flag and flag.target) else len(words)
            behind = list(takewhile(lambda other: not _is_flag(other), words[place : place + most]))
            if not behind and flag is not None:
                raise InputError(f"server: {written} needs a value")
            place, value = place + len(behind), " ".join(behind)
        yield written, value


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not word.lstrip("-").replace(".", "").isdecimal()


def _switch(engine: str, written: str) -> tuple[str, bool]:
    """The name of a flag, and whether it is said with `no-` before it."""
    name = known_name(engine, written)
    if name not in ENGINES[engine].FLAGS and name.startswith("no-"):
        return known_name(engine, name.removeprefix("no-")), False
    return name, True


def known_name(engine: str, written: str) -> str:
    """How the table calls a flag, without dashes before it and with `-` for `_`; a part of one that has no
    effect, as in `--compilation-config.level`, is called as the whole.
    """
    flags: Mapping[str, Flag] = ENGINES[engine].FLAGS
    short: Mapping[str, str] = ENGINES[engine].SHORT
    name = written.lstrip("-").replace("_", "-")
    name = short.get(name, name)
    whole = short.get(whole := name.partition(".")[0], whole)
    return whole if name not in flags and whole in flags and not flags[whole].target else name


def _named(engine: str, written: str, value: str) -> Given:
    """A flag as its table calls it; one with `no-` before its name says the opposite."""
    name, is_on = _switch(engine, written)
    if not is_on:
        opposites = {**dict.fromkeys(ON, "false"), **dict.fromkeys(OFF, "true")}
        value = opposites.get(value.lower(), value)
    return Given(written, name, value)


def _engine_of(path: str, content: Sequence[tuple[str, str]]) -> str:
    """The engine that knows the most of a file's keys."""
    found = {
        engine: sum(known_name(engine, key) in module.FLAGS for key, _ in content)
        for engine, module in ENGINES.items()
    }
    best = [engine for engine, number in found.items() if number == max(found.values())]
    if len(best) > 1:
        raise InputError(
            f"server: {path}: its keys do not tell {' from '.join(best)}; give a command, such as "
            f"vllm serve --config {path}"
        )
    return best[0]


def load(path: str) -> Mapping[str, Any]:
    """The content of a YAML or JSON file; InputError where it is none, or no table of keys and values."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"server: {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"server: {path}: byte {error.start} is not UTF-8") from None
    content: object
    if path.lower().endswith(".json"):
        try:
            content = json.loads(text)
        except ValueError as error:
            raise InputError(f"server: {path}: not JSON: {error}") from None
    else:
        import yaml

        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"server: {path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"server: {path}: keys and values are needed, not a {type(content).__name__}")
    return content


def flat(content: Mapping[Any, Any], before: str) -> list[tuple[str, str]]:
    """(key, value) of all keys but those with none; `outer.inner` for one in a table of its own."""
    found: list[tuple[str, str]] = []
    for key, value in content.items():
        if value is None:
            continue
        if isinstance(value, dict) and value:
            found += flat(value, f"{before}{key}.")
        else:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            found.append((f"{before}{key}", text))
    return found
