"""The one exception that bad input raises; knows nothing of who reads the input."""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be used.

    The message is a single line that names the thing, its value and the bound, for example
    `trace.csv, row 3, prompt_tokens: -5 is below 1`. The command line prints it and exits with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
