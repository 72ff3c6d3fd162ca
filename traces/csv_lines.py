"""Counts the fields in each line of a CSV, since parsers pad short rows silently; knows nothing of values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .errors import InputError


def fields_per_line(path: str, data: bytes) -> npt.NDArray[np.int64]:
    """Fields in each line that is not blank, the header first; a quoted line break ends no line."""
    buffer = np.frombuffer(data, dtype=np.uint8)
    following = np.append(buffer[1:], np.uint8(0))
    comma = buffer == ord(",")
    ends = (buffer == ord("\n")) | ((buffer == ord("\r")) & (following != ord("\n")))
    quote = buffer == ord('"')
    if quote.any():
        inside = np.bitwise_xor.accumulate(quote.view(np.uint8)).view(np.bool_)
        _check_quotes(path, buffer, following, quote, inside)
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
) -> None:
    """Quotes must enclose whole fields, so that this count and the parser's split agree."""
    if inside[-1]:
        raise InputError(f"{path}: a quoted field is not closed")
    previous = np.append(np.uint8(10), buffer[:-1])
    borders = np.frombuffer(b',\n\r"', dtype=np.uint8)
    misplaced = (quote & inside & ~np.isin(previous, borders)) | (
        quote & ~inside & ~np.isin(following, borders)
    )
    if misplaced.any():
        offset = int(misplaced.argmax())
        line = int((buffer[:offset] == ord("\n")).sum()) + 1
        raise InputError(f"{path}, line {line}: a quote inside a field that is not quoted")
