"""Tells the separator of a CSV, and counts the fields in each line, since parsers pad short rows silently.

Knows nothing of values.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from .errors import InputError

SEPARATORS = b",;\t|"


def separator_of(data: bytes) -> str:
    """The separator that the first line that is not blank has most of outside quotes; a comma for none."""
    header = re.sub(rb'"[^"]*"', b"", data.lstrip(b"\r\n").partition(b"\n")[0].partition(b"\r")[0])
    counts = [header.count(bytes([separator])) for separator in SEPARATORS]
    return chr(SEPARATORS[counts.index(max(counts))])


def fields_per_line(path: str, data: bytes, separator: str) -> npt.NDArray[np.int64]:
    """Fields in each line that is not blank, the header first; a quoted line break ends no line."""
    buffer = np.frombuffer(data, dtype=np.uint8)
    following = np.append(buffer[1:], np.uint8(0))
    comma = buffer == ord(separator)
    ends = (buffer == ord("\n")) | ((buffer == ord("\r")) & (following != ord("\n")))
    quote = buffer == ord('"')
    if quote.any():
        inside = np.bitwise_xor.accumulate(quote.view(np.uint8)).view(np.bool_)
        _check_quotes(path, buffer, following, quote, inside, separator)
        comma &= ~inside
        ends &= ~inside
    last = np.flatnonzero(ends)
    first = np.append(0, last[:-1] + 1)
    length = last - first
    blank = (length == 0) | ((length == 1) & (buffer[first] == ord("\r")))
    counts = np.diff(np.searchsorted(np.flatnonzero(comma), last), prepend=0) + 1
    return np.asarray(counts[~blank], dtype=np.int64)


def _check_quotes(
    path: str,
    buffer: npt.NDArray[np.uint8],
    following: npt.NDArray[np.uint8],
    quote: npt.NDArray[np.bool_],
    inside: npt.NDArray[np.bool_],
    separator: str,
) -> None:
    """Quotes must enclose whole fields, so that this count and the parser's split agree."""
    if inside[-1]:
        raise InputError(f"{path}: a quoted field is not closed")
    previous = np.append(np.uint8(10), buffer[:-1])
    borders = np.frombuffer(separator.encode() + b'\n\r"', dtype=np.uint8)
    misplaced = (quote & inside & ~np.isin(previous, borders)) | (
        quote & ~inside & ~np.isin(following, borders)
    )
    if misplaced.any():
        offset = int(misplaced.argmax())
        line = int((buffer[:offset] == ord("\n")).sum()) + 1
        raise InputError(f"{path}, line {line}: a quote inside a field that is not quoted")
