import asyncio
import json
from collections.abc import Callable, Generator
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfysnap_schema.workflow.apply import Workflow
from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.settings import GatewaySettings
from tests.server.gateway.fakes import FakeBackend

FUZZ = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(["prompt", "steps", "width", "seed", "noise", "image"]) | st.text()
BODIES = st.dictionaries(NAMES, VALUES, max_size=6).map(json.dumps).map(str.encode) | st.binary()
WORDS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=60)


Ask = Callable[..., httpx.Response]


@pytest.fixture
def ask(workflow: Workflow) -> Generator[Ask]:
    app = create_app(FakeBackend(), {workflow.name: workflow}, GatewaySettings())
    transport = httpx.ASGITransport(app)
    with asyncio.Runner() as runner:
        http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
        yield lambda *args, **options: runner.run(http.request(*args, **options))
        runner.run(http.aclose())


def is_told_well(answer: httpx.Response) -> bool:
    if answer.is_success:
        return True
    problem = answer.json()
    return answer.status_code < 500 and problem["code"] != "internal" and problem["request_id"]


@FUZZ
@given(body=BODIES)
def test_any_body_is_accepted_or_refused_by_code(ask: Ask, body: bytes) -> None:
    answer = ask("POST", "/infer_async", content=body)
    assert is_told_well(answer), (body, answer.text)
    assert answer.status_code in (202, 400, 422)


@FUZZ
@given(
    route=st.sampled_from(["check_status", "events", "outputs/x", "workflows", "infer_sync", ""]),
    word=WORDS,
    query=st.dictionaries(st.sampled_from(["wait", "after", "label", "limit"]) | WORDS, WORDS),
    headers=st.dictionaries(
        st.sampled_from(["Idempotency-Key", "Last-Event-ID", "Range", "Comfysnap-Contract",
                         "Content-Type", "Authorization", "X-Request-Id", "Origin", "Host"]),
        WORDS,
    ),
)  # fmt: skip
def test_any_request_is_answered_or_refused_by_code(
    ask: Ask, route: str, word: str, query: dict[str, str], headers: dict[str, str]
) -> None:
    path = f"/{route}/{quote(word, safe='')}?{urlencode(query)}"
    for method in ("GET", "POST"):
        answer = ask(method, path, headers=headers, content=b"{}")
        assert is_told_well(answer), (path, headers, answer.text)
