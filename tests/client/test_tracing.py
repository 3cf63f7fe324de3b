"""OpenTelemetry spans, when its API is there."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from comfysnap_client import Client, DeadlineExceeded, tracing
from tests.client.fakes import DrawInput, FakeServer


class Tracer(trace.NoOpTracer):
    """Remembers the spans; the SDK is no dependency of ours."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, dict[str, Any]]] = []
        self.context = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))

    def start_as_current_span(self, name: str, *args: Any, **options: Any) -> Any:
        self.spans.append((name, dict(options.get("attributes") or {})))
        return trace.use_span(NonRecordingSpan(self.context))


@pytest.fixture
def tracer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracer]:
    found = Tracer()

    def get_tracer(_name: str) -> Tracer:
        return found

    monkeypatch.setattr(trace, "get_tracer", get_tracer)
    tracing.forget()
    yield found
    tracing.forget()


async def test_a_call_and_its_wait_are_spans_and_the_trace_travels(
    server: FakeServer, tracer: Tracer
) -> None:
    server.outputs = None
    async with Client(server.url) as client:
        with pytest.raises(DeadlineExceeded):
            await client.infer_sync(DrawInput(prompt="x"), timeout=0.2)

    job_id = next(iter(server.jobs))
    assert tracer.spans == [
        ("comfysnap.infer_sync", {"comfysnap.workflow": "draw"}),
        ("comfysnap.wait", {"comfysnap.job_id": job_id}),
    ]
    assert server.requests[0].headers["traceparent"].startswith("00-")


def test_without_the_package_nothing_is_traced() -> None:
    code = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from comfysnap_client import tracing\n"
        "headers = {}\n"
        "with tracing.span('x'):\n"
        "    tracing.annotate(a='b')\n"
        "    tracing.propagate(headers)\n"
        "assert headers == {}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
