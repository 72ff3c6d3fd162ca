"""Blocks of one tier as spans of consecutive ones that are used alike, and the order in which they were used.

A span is cut in two where only some of its blocks are used. Knows nothing of requests, links or clocks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter

from .radix_tree import BlockRange, Node


class Span:
    """Blocks `low` up to `high` of a node.

    They can be read from `ready_s` on, are being read until `busy_s`, and the GPU has them from `sent_s` on.
    The first of them was used least recently or, where the span `is_reversed`, the last. `order` is where it
    stands, `before` and `after` beside which.
    """

    __slots__ = (
        "after", "before", "busy_s", "high", "is_reversed", "low", "node", "order", "ready_s", "sent_s",
    )  # fmt: skip
    after: Span
    before: Span

    def __init__(self, node: Node, low: int, high: int, ready_s: float) -> None:
        self.node, self.low, self.high, self.ready_s = node, low, high, ready_s
        self.busy_s = self.sent_s = 0.0
        self.is_reversed = False
        self.order: Order | None = None


class Order:
    """Spans by when they were used, the least recently used first: a ring, with `end` before the first and
    behind the last.
    """

    __slots__ = ("end", "num_blocks")

    def __init__(self) -> None:
        self.num_blocks = 0
        self.end = end = Span(Node((), (), None), 0, 0, 0.0)
        end.before = end.after = end

    def __iter__(self) -> Iterator[Span]:
        """The spans; the one that was given last may be taken out."""
        span = self.end.after
        while span is not self.end:
            after = span.after
            yield span
            span = after

    def put(self, span: Span, before: Span | None = None) -> None:
        """Put a span before another one of these, or behind all."""
        after = self.end if before is None else before
        span.before, span.after = after.before, after
        after.before.after = after.before = span
        span.order = self
        self.num_blocks += span.high - span.low


def take_out(span: Span) -> None:
    """Take a span out of its order."""
    assert span.order is not None
    span.before.after, span.after.before = span.after, span.before
    span.order.num_blocks -= span.high - span.low
    span.order = None


def use(spans: Sequence[Span], order: Order | None = None) -> None:
    """The blocks of these are used, the first of them last, and stay in their orders or go into this one."""
    for span in reversed(spans):
        to = span.order if order is None else order
        assert to is not None
        take_out(span)
        span.is_reversed = True
        to.put(span)


class Spans:
    """The spans of one tier, by node in the order of their blocks."""

    __slots__ = ("by_node",)

    def __init__(self) -> None:
        self.by_node: dict[Node, list[Span]] = {}

    def find(self, blocks: Sequence[BlockRange]) -> tuple[list[Span], list[BlockRange]]:
        """Which of these blocks are there, in spans that hold no others, and which are missing."""
        there: list[Span] = []
        missing: list[BlockRange] = []
        for wanted in blocks:
            node, at, high = wanted
            spans = self.by_node.get(node)
            if spans is None:
                missing.append(wanted)
                continue
            number = max(0, bisect_right(spans, at, key=_LOW) - 1)
            if spans[number].high <= at:
                number += 1
            elif spans[number].low < at:
                self.cut(spans[number], at)
                number += 1
            while number < len(spans) and spans[number].low < high:
                span = spans[number]
                if span.high > high:
                    self.cut(span, high)
                if span.low > at:
                    missing.append(BlockRange(node, at, span.low))
                there.append(span)
                at, number = span.high, number + 1
            if at < high:
                missing.append(BlockRange(node, at, high))
        return there, missing

    def cut(self, span: Span, at: int) -> Span:
        """Cut a span in two, the second of which, returned, begins with block `at`."""
        part = Span(span.node, at, span.high, span.ready_s)
        part.busy_s, part.sent_s, part.is_reversed = span.busy_s, span.sent_s, span.is_reversed
        assert span.order is not None
        span.order.num_blocks -= span.high - at
        span.order.put(part, span if span.is_reversed else span.after)
        span.high = at
        self._insert(part)
        return part

    def divide(self, spans: Sequence[Span], blocks: int) -> tuple[list[Span], list[Span]]:
        """The first so many blocks of these, in the order of their use, and the rest."""
        first: list[Span] = []
        rest: list[Span] = []
        for span in spans:
            here = span.high - span.low
            if blocks <= 0:
                rest.append(span)
            elif here <= blocks:
                first.append(span)
            else:
                part = self.cut(span, span.high - blocks if span.is_reversed else span.low + blocks)
                first.append(part if span.is_reversed else span)
                rest.append(span if span.is_reversed else part)
            blocks -= here
        return first, rest

    def first(self, spans: Iterable[Span], blocks: int) -> list[Span]:
        """The first so many blocks of these, or all; of the spans no more are looked at than that takes."""
        found: list[Span] = []
        missing = blocks
        for span in spans:
            if missing <= 0:
                break
            found.append(span)
            missing -= span.high - span.low
        return self.divide(found, blocks)[0]

    def add(self, span: Span, order: Order) -> None:
        """Blocks that are not there come in, as those used last in that order."""
        self._insert(span)
        order.put(span)

    def _insert(self, span: Span) -> None:
        spans = self.by_node.setdefault(span.node, [])
        spans.insert(bisect_right(spans, span.low, key=_LOW), span)

    def remove(self, span: Span) -> None:
        """These blocks go."""
        take_out(span)
        spans = self.by_node[span.node]
        del spans[bisect_left(spans, span.low, key=_LOW)]
        if not spans:
            del self.by_node[span.node]


_LOW = attrgetter("low")
