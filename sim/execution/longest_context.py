"""Who of those that decode has the longest context, now and later; knows nothing of requests or costs.

All contexts grow by one with every tick, so that who has the longest has it until it ends, unless another
comes with a longer one. A request that is no longer than another, and ends no later, never has it.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TypeAlias

Longest: TypeAlias = list[tuple[int, int]]
"""Who has the longest context, and who will have it when that one has ended, each as (birth: the tick less
its context, the tick of its last token). Both rise, so that the list stays short.
"""


def note_context(longest: Longest, birth: int, end: int) -> None:
    """A request decodes until the tick `end`, with a context of the tick less `birth`."""
    at = bisect_left(longest, (birth, end))
    if at and longest[at - 1][1] >= end:
        return
    after = at
    while after < len(longest) and longest[after][1] <= end:
        after += 1
    longest[at:after] = [(birth, end)]
