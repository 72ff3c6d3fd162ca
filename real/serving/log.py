"""The layer's log: one JSON object a line and request, which is a trace.

`seqsched trace inspect`, `simulate --trace` and `validate --against` read it. Columns:

- `request_id`: the number of the request, over restarts.
- `arrival_s`, `scheduled_s`, `finish_s`: when it arrived, was sent to an upstream, ended; seconds since 1970.
- `prompt_tokens`, `output_tokens`: by the upstream's count; counted here where it says none (`counted` is
  then "events"); 0 output tokens where it failed.
- `predicted_tokens`, `told_tokens`: of the answer, by the layer and by the client; `max_tokens`: its cap.
- `arm`: policy, or fcfs for the rest of a traffic of which the policy orders a share.
- `priority`, `deadline_s`, `user`: the name of the key; `model`, `endpoint`, `stream`.
- `ttft_slo_ms`, `tpot_slo_ms`, `e2el_slo_ms`: bounds that the client states, where it does; `slo_class`: the
  kind of request that it is, by the client or its key.
- `ttft_ms`, `tpot_ms`, `e2el_ms`: as vLLM defines them, from the arrival.
- `status`: completed, or failed; `error`: why; `finish_reason`; `upstream`: its number; `attempts`.
- `continuations`: parts that the answer came in, beyond the first (`--fcr on`); `restarted`: whether it was
  then begun again uncut.
- `hash_ids`, `hash_tokens`: of the prompt, in blocks of 256 characters, taken for 64 tokens each: equal
  numbers are equal beginnings. Salted anew at each start, so that nobody can try texts against them.
- `prompt`: the text, only where it was asked for.

What became of answers that were mirrored stands in a file beside it (`mirrored_path`), a row each:
`request_id`, `arm`, `finish_s`, and hashes of the answers, `served` and to copies, `plain` and `again`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from sim.parallel.locked import open_locked
from traces.errors import InputError

from .call import printable
from .complaints import complain

BLOCK_CHARACTERS, BLOCK_TOKENS = 256, 64
MOST_BLOCKS = 4096
TAIL = 1 << 20
"""Bytes of a log's end, at least, among which the last number is looked for."""
FIRST = b'{"request_id":'
"""How each row begins."""


class Log:
    """Appends rows to a file; what a process that was killed left half written at its end is cut off.

    Raises InputError where the file cannot be written, and where another process writes to it.
    """

    def __init__(self, path: Path, *, texts: bool = False, prefixes: bool = True) -> None:
        self.texts, self.prefixes = texts, prefixes
        self.salt = secrets.token_bytes(16)
        try:
            self.file = opened(path)
            self.next_id = _repair(path, self.file)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.file.close()
        except OSError as failure:
            complain("the log cannot be written", failure)

    def write(self, row: dict[str, Any], text: str) -> None:
        """One request that has ended."""
        if self.prefixes:
            hashes = prefix_hashes(text, self.salt)[: row["prompt_tokens"] // BLOCK_TOKENS]
            row |= {"hash_ids": hashes, "hash_tokens": [BLOCK_TOKENS] * len(hashes)}
        if self.texts:
            row["prompt"] = printable(text)
        self._append(json.dumps(row, separators=(",", ":"), allow_nan=False).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        """All of a line, or nothing: a row behind half of another would be lost with it."""
        number, written = self.file.fileno(), 0
        try:
            while written < len(line):
                written += os.write(number, line[written:])
        except OSError:
            if written:
                os.ftruncate(number, os.lseek(number, 0, os.SEEK_END) - written)
            raise


def opened(path: Path) -> BinaryIO:
    """The file to append to, which no other process may meanwhile, unless it is a device."""
    is_device = path.exists() and not path.is_file() and not path.is_dir()
    return path.open("ab") if is_device else open_locked(path)


def mirrored_path(log: Path) -> Path:
    """Where the rows of mirrored answers are."""
    return log.with_name(f"{log.stem}.mirrored.jsonl")


def prefix_hashes(text: str, salt: bytes) -> list[int]:
    """A number for each whole block of a text, the same where all up to there is the same."""
    running = hashlib.blake2b(salt, digest_size=8)
    data, numbers = text[: BLOCK_CHARACTERS * MOST_BLOCKS], []
    for start in range(0, len(data) - BLOCK_CHARACTERS + 1, BLOCK_CHARACTERS):
        running.update(data[start : start + BLOCK_CHARACTERS].encode("utf-8", "surrogatepass"))
        numbers.append(int.from_bytes(running.digest(), "big") >> 3)
    return numbers


def _repair(path: Path, file: BinaryIO) -> int:
    """Cut off a last line without end; the number of the next request. InputError for a file that is none of
    ours, which is left as it is.
    """
    size, reach, tail = file.tell(), TAIL, b""
    if not size:
        return 0
    with path.open("rb") as before:
        while tail.count(b"\n") < 2 and len(tail) < size:
            before.seek(max(0, size - reach))
            tail, reach = before.read(), 4 * reach
    whole, _, half = tail.rpartition(b"\n")
    numbers = [_number(line) for line in whole.split(b"\n") if line]
    if (numbers and numbers[-1] < 0) or not FIRST.startswith(half[: len(FIRST)]):
        raise InputError(f"{path}: its last line is no row of a log; another file is needed")
    file.truncate(size - len(half))
    return 1 + max(numbers, default=-1)


def _number(line: bytes) -> int:
    """The `request_id` in a line; -1 where there is none."""
    try:
        return int(json.loads(line)["request_id"])
    except (ValueError, KeyError, TypeError):
        return -1
