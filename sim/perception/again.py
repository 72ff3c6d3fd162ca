"""What a predictor answers when it is asked again while an answer grows, and what each question costs."""

from __future__ import annotations

import math
from typing import NamedTuple


class Again(NamedTuple):
    """How the error of a prediction shrinks as the answer grows.

    Of n tokens, p are predicted at first; after g of them, g + (n - g) * (p / n) ** ((1 - g / n) ** shrink)
    are. So the rest is off by the same factor as the whole was at first, and that factor itself falls to 1:
    with `shrink` 0 it stays, the higher, the sooner it falls. It stands for what is measured of probes on the
    model's own state (TRAIL, arXiv 2410.01035, figure 2) and of asking anew with the answer so far (ELIS,
    arXiv 2505.09142): errors that fall with progress.
    """

    shrink: float
    """How soon the error falls."""
    ask_s: float = 0.0
    """Seconds that each question adds to the iteration in which it is asked."""

    def tokens(self, first: int, length: int, generated: int) -> int:
        """The whole length that is predicted after `generated` tokens of an answer of `length`, where `first`
        were predicted before any.
        """
        if generated >= length:
            return generated
        share_left = 1.0 - generated / length
        factor: float = (max(first, 1) / length) ** (share_left**self.shrink)
        return generated + max(1, math.ceil((length - generated) * factor * (1 - 1e-12)))
