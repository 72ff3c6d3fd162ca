"""The queue disciplines by the names that options know."""

from __future__ import annotations

from ..work import Limits
from .continuous_options import ContinuousOptions
from .deadlines import Deadline, LeastLaxity
from .gittins import Gittins
from .mlfq import SkipJoinQueues
from .order import STATIC, FairShare, MemoryTime, Rank, ShortestRemaining, by_priority
from .retention import Retention
from .uncertain import LowerBound, tail_inflated


def discipline(options: ContinuousOptions, limits: Limits) -> Rank:
    """The rank function of the order that the options choose, on a machine of these limits.

    Where its ranks may rise while a request runs, it has a method `until_above(request, generated, bound)`:
    after how many further tokens, at least 1, the rank may be above `bound` that is not now.
    """
    order = options.order
    match order:
        case "priority":
            return by_priority(options.aging_s)
        case "fair":
            return FairShare()
        case "shortest-remaining":
            return ShortestRemaining()
        case "memory-time":
            return MemoryTime(None if options.waits == "discard" else Retention(options.waits, limits))
        case "deadline":
            return Deadline()
        case "least-laxity":
            return LeastLaxity(options.token_ms)
        case "gittins":
            return Gittins()
        case "tie":
            return tail_inflated(options.tail)
        case "lower-bound":
            return LowerBound(options.lower_quantile)
        case "mlfq":
            return SkipJoinQueues(options.level_tokens, options.prompt_weight)
    return STATIC[order]
