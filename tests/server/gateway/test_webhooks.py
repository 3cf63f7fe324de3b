"""``webhook=`` at submit: which URLs are taken, and what travels with the job."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from comfysnap_schema.workflow.apply import Workflow
from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.keys import KeyRecord, Keys, hash_key
from comfysnap_server.gateway.settings import GatewaySettings
from comfysnap_server.jobs import WebhookSettings
from tests.server.gateway.fakes import FakeBackend

URL = "https://hooks.example.com/jobs?source=test"


@pytest.fixture
def settings() -> GatewaySettings:
    return GatewaySettings(webhooks=WebhookSettings(hosts=("hooks.example.com",)))


async def submit(http: httpx.AsyncClient, webhook: str | None = URL) -> httpx.Response:
    params = {} if webhook is None else {"webhook": webhook}
    return await http.post("/infer_async", params=params, json={"prompt": "x"})


async def test_an_allowed_url_travels_with_the_job_and_is_in_no_answer(
    http: httpx.AsyncClient, backend: FakeBackend
) -> None:
    response = await submit(http)
    assert response.status_code == 202
    assert "hooks.example" not in response.text
    request = backend.requests[response.json()["id"]]
    assert (request.webhook, request.webhook_events) == (URL, None)
    assert request.delivery is not None
    assert request.delivery.owner == "local"
    assert backend.requests[(await submit(http, None)).json()["id"]].delivery is None


@pytest.mark.parametrize(
    "url", ["https://evil.example/", "http://hooks.example.com/", "nowhere", "", "https://[::1"]
)
async def test_another_url_is_refused_by_name_and_nothing_is_queued(
    http: httpx.AsyncClient, backend: FakeBackend, url: str
) -> None:
    response = await submit(http, url)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert [entry["field"] for entry in response.json()["fields"]] == ["webhook"]
    assert backend.requests == {}


async def test_another_webhook_with_the_same_key_is_another_request(
    http: httpx.AsyncClient,
) -> None:
    headers = {"Idempotency-Key": "k"}
    for url, status in ((URL, 202), (URL, 202), (f"{URL}&b", 422)):
        response = await http.post(
            "/infer_async", params={"webhook": url}, json={"prompt": "x"}, headers=headers
        )
        assert response.status_code == status
    assert response.json()["code"] == "idempotency_mismatch"


@pytest.fixture
async def with_default(workflow: Workflow, backend: FakeBackend) -> AsyncIterator[Any]:
    table = {"url": URL, "events": ["job.failed"], "hosts": ["mine.example.com"]}
    settings = GatewaySettings(webhooks=WebhookSettings.model_validate(table))
    transport = httpx.ASGITransport(create_app(backend, {"draw": workflow}, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        yield http


async def test_a_job_that_names_none_has_the_one_of_the_deployment(
    with_default: httpx.AsyncClient, backend: FakeBackend
) -> None:
    own = "https://mine.example.com/"
    for given, expected in ((None, URL), (own, own)):
        job_id = (await submit(with_default, given)).json()["id"]
        request = backend.requests[job_id]
        assert (request.webhook, request.webhook_events) == (expected, {"job.failed"})


async def test_openapi_describes_the_webhook_of_a_server_that_sends_them(
    http: httpx.AsyncClient, workflow: Workflow, backend: FakeBackend
) -> None:
    document = (await http.get("/openapi.json")).json()
    operation = document["webhooks"]["job"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/WebhookPayload"}
    assert {entry["name"] for entry in operation["parameters"]} == {
        "webhook-id", "webhook-timestamp", "webhook-signature",
    }  # fmt: skip
    assert "WebhookPayload" in document["components"]["schemas"]
    transport = httpx.ASGITransport(create_app(backend, {"draw": workflow}, GatewaySettings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as other:
        assert "webhooks" not in (await other.get("/openapi.json")).json()


@pytest.mark.parametrize(("given", "expected"), [(None, f"{URL}&key"), (URL, URL)])
async def test_a_key_may_have_a_webhook_of_its_own(
    workflow: Workflow, backend: FakeBackend, given: str | None, expected: str
) -> None:
    record = KeyRecord(name="a", owner="a", hash=hash_key("secret"), webhook=f"{URL}&key")
    webhooks = WebhookSettings(hosts=("hooks.example.com",), url="https://all.example.com/")
    settings = GatewaySettings(auth="keys", webhooks=webhooks)
    app = create_app(backend, {"draw": workflow}, settings, keys=Keys([record]))
    headers = {"Authorization": "Bearer secret"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://127.0.0.1", headers=headers
    ) as http:
        job_id = (await submit(http, given)).json()["id"]
    assert backend.requests[job_id].webhook == expected
