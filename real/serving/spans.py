"""Spans of a request by OpenTelemetry's conventions for generative AI: the request, in it its wait and its
answer. Numbers and the model's name only, neither texts nor keys.

Who sets OpenTelemetry up (`opentelemetry-instrument`, or a program of one's own) says where spans go; where
nobody does, and where the package is absent, there are none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from .call import Call
from .relay import Relayed, kind_of

try:
    import opentelemetry.propagate as propagate
    import opentelemetry.trace as trace
except ImportError:
    HAS_OPENTELEMETRY = False
else:
    HAS_OPENTELEMETRY = True

OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion"}


class Following(Protocol):
    """One request that is followed; it begins to wait when this is made."""

    def sent(self, headers: dict[str, str]) -> None:
        """Its wait is over; whoever gets these headers next belongs to the same trace."""

    def ended(self, relayed: Relayed, error: str) -> None:
        """Its answer has ended; `error`: why there is no whole one."""


class NoSpans:
    """Nobody follows it."""

    def __init__(self, call: Call) -> None:
        pass

    def sent(self, headers: dict[str, str]) -> None:
        """Nothing to do."""

    def ended(self, relayed: Relayed, error: str) -> None:
        """Nothing to do."""


def following() -> Callable[[Call], Following]:
    """What follows requests."""
    return partial(RequestSpans, trace.get_tracer("seqsched")) if HAS_OPENTELEMETRY else NoSpans


class RequestSpans:
    """The spans of one request; the client's `traceparent` says what they belong to."""

    def __init__(self, tracer: trace.Tracer, call: Call) -> None:
        operation = OPERATIONS[call.path]
        attributes: dict[str, str | int] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "openai",  # whose API it is
            "gen_ai.request.model": call.model,
            "seqsched.predicted_tokens": call.request.predicted_tokens or 0,
            "seqsched.arm": call.arm,
        }
        if call.max_tokens is not None:
            attributes["gen_ai.request.max_tokens"] = call.max_tokens
        self.tracer = tracer
        self.request = self.tracer.start_span(
            f"{operation} {call.model}".rstrip(),
            propagate.extract(call.headers),
            kind=trace.SpanKind.SERVER,
            attributes=attributes,
        )
        self.context = trace.set_span_in_context(self.request)
        self.part = self.tracer.start_span("queue", self.context)

    def sent(self, headers: dict[str, str]) -> None:
        """Its wait is over; the upstream's own spans belong to the answer."""
        self.part.end()
        self.part = self.tracer.start_span("answer", self.context, kind=trace.SpanKind.CLIENT)
        propagate.inject(headers, trace.set_span_in_context(self.part))

    def ended(self, relayed: Relayed, error: str) -> None:
        """Its answer has ended; `error`: why there is no whole one."""
        self.part.end()
        seen, span = relayed.seen, self.request
        if seen.prompt_tokens is not None:
            span.set_attribute("gen_ai.usage.input_tokens", seen.prompt_tokens)
        if tokens := seen.tokens:
            span.set_attribute("gen_ai.usage.output_tokens", tokens)
        if seen.reasons:
            span.set_attribute("gen_ai.response.finish_reasons", list(seen.reasons.values()))
        if error:
            span.set_attribute("error.type", kind_of(error))
            span.set_status(trace.StatusCode.ERROR, error)
        span.end()
