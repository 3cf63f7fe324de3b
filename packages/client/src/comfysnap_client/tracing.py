"""OpenTelemetry spans when its API package is installed; nothing otherwise."""

import functools
from collections.abc import Generator, MutableMapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def span(name: str, **attributes: str) -> Generator[None]:
    """Run the body within a span; an exception marks it as failed."""
    tracer = _tracer()
    if tracer is None:
        yield
        return
    told = {f"comfysnap.{key}": value for key, value in attributes.items()}
    with tracer.start_as_current_span(f"comfysnap.{name}", attributes=told):
        yield


def annotate(**attributes: str) -> None:
    """Add attributes to the present span."""
    if _tracer() is not None:
        from opentelemetry import trace

        for key, value in attributes.items():
            trace.get_current_span().set_attribute(f"comfysnap.{key}", value)


def propagate(headers: MutableMapping[str, str]) -> None:
    """Add the trace context (W3C ``traceparent``) to a request's headers."""
    if _tracer() is not None:
        from opentelemetry.propagate import inject

        inject(headers)


@functools.cache
def _tracer() -> Any | None:
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace.get_tracer("comfysnap_client")


def forget() -> None:
    """Look for the package and its tracer again."""
    _tracer.cache_clear()
