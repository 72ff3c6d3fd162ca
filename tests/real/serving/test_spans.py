"""Spans of requests, as OpenTelemetry's SDK exports them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("opentelemetry.sdk", reason="needs opentelemetry-sdk")

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from real.serving import spans
from real.serving.keys import Key, Keys, digest
from tests.real.serving.running import Up, with_fakes
from tests.real.serving.upstream import Fake

TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def ids(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def test_a_request_is_a_span_with_its_wait_and_its_answer_in_it(exported: InMemorySpanExporter) -> None:
    async def test(up: Up, fake: Fake) -> None:
        headers = {"Authorization": "Bearer sk-secret", "traceparent": PARENT}
        status, _ = await up.ask("secret words 7", headers=headers, max_tokens=9)
        assert status == 200 and len(exported.get_finished_spans()) == 3
        found = by_name(exported)
        request, queue, answer = (found[name] for name in ("chat fake", "queue", "answer"))
        assert attributes(request) == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "fake",
            "gen_ai.request.max_tokens": 9,
            "gen_ai.usage.input_tokens": 3,
            "gen_ai.usage.output_tokens": 7,
            "gen_ai.response.finish_reasons": ("stop",),
            "seqsched.predicted_tokens": 9,
            "seqsched.arm": "policy",
        }
        assert request.parent is not None
        assert (ids(request)[0], request.parent.span_id) == (TRACE_ID, 0xB7AD6B7169203331)
        assert [each.parent and each.parent.span_id for each in (queue, answer)] == [ids(request)[1]] * 2
        assert (request.kind, answer.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
        times = [request.start_time, queue.start_time, queue.end_time, answer.start_time, answer.end_time]
        times.append(request.end_time)
        assert times == sorted(each or 0 for each in times)
        # What the upstream does belongs to the answer.
        assert fake.headers[0]["Traceparent"] == f"00-{TRACE_ID:032x}-{ids(answer)[1]:016x}-01"
        told = "".join(span.to_json() for span in found.values())
        assert "secret" not in told and "words" not in told and "alice" not in told

    with_fakes(test, keys=Keys((Key("alice", digest("sk-secret")),)))


def test_a_failure_is_a_span_with_an_error(exported: InMemorySpanExporter) -> None:
    async def test(up: Up, fake: Fake) -> None:
        fake.fails.append(500)
        assert (await up.ask("any 3", chat=False))[0] == 500
        span = by_name(exported)["text_completion fake"]
        assert span.status.status_code is StatusCode.ERROR
        assert attributes(span)["error.type"] == "the upstream answers 500"
        assert span.parent is None and "gen_ai.usage.output_tokens" not in attributes(span)

    with_fakes(test, retries=0)


def test_who_leaves_the_queue_leaves_no_span_open(exported: InMemorySpanExporter) -> None:
    async def test(up: Up, fake: Fake) -> None:
        long = asyncio.create_task(up.ask("long 60"))
        while not fake.open:
            await asyncio.sleep(0.001)
        waits = asyncio.create_task(up.ask("left 3", stream=True))
        while not up.layer.executor.waiting:
            await asyncio.sleep(0.001)
        waits.cancel()
        await long
        await up.idle()
        names = sorted(span.name for span in exported.get_finished_spans())
        assert names == ["answer", "chat fake", "chat fake", "queue", "queue"]

    with_fakes(test, slots=1)


def test_without_the_package_nobody_follows() -> None:
    """In a process of its own, where the package cannot be imported."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from real.serving import layer, spans\n"
        "assert spans.following() is spans.NoSpans"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["sim/facade", "."])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert spans.following() is not spans.NoSpans
