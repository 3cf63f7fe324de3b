import logging
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from comfysnap_schema.workflow.apply import Workflow
from comfysnap_server.backends.protocol import NO_BUDGET, OwnerBudget, SubmitResult
from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.keys import hash_key, new_key
from comfysnap_server.gateway.settings import AuthMode, GatewaySettings
from comfysnap_server.jobs.request import JobRequest
from comfysnap_server.logs import formatter
from tests.server.gateway.fakes import FakeBackend

ALICE, ALICES_NEXT, BOB = new_key(), new_key(), new_key()
KEYS = GatewaySettings(
    auth="keys",
    keys={"alice": [hash_key(ALICE), hash_key(ALICES_NEXT)], "bob": hash_key(BOB)},
)


def client(
    backend: FakeBackend, workflow: Workflow, settings: GatewaySettings
) -> httpx.AsyncClient:
    app = create_app(backend, {workflow.name: workflow}, settings)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000")


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers",
    [{}, bearer("wrong"), {"Authorization": f"Basic {ALICE}"}, {"Authorization": ALICE},
     bearer(""), bearer(hash_key(ALICE))],
)  # fmt: skip
async def test_without_a_valid_key_nothing_is_told(
    backend: FakeBackend, workflow: Workflow, headers: dict[str, str]
) -> None:
    async with client(backend, workflow, KEYS) as http:
        for path in ("/jobs", "/workflows", "/openapi.json", "/nothing", "/check_status/x"):
            answer = await http.get(path, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        answer = await http.post("/infer_async", json={"prompt": "x"}, headers=headers)
        assert answer.status_code == 401
        assert not backend.jobs


async def test_health_and_readiness_need_no_key(backend: FakeBackend, workflow: Workflow) -> None:
    async with client(backend, workflow, KEYS) as http:
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/ready")).status_code == 503
        await backend.start()
        assert (await http.get("/ready")).status_code == 200


async def test_jobs_keys_and_files_of_one_owner_are_invisible_to_another(
    backend: FakeBackend, workflow: Workflow
) -> None:
    async with client(backend, workflow, KEYS) as http:
        headers = {**bearer(ALICE), "Idempotency-Key": "k"}
        job = (await http.post("/infer_async", json={"prompt": "x"}, headers=headers)).json()["id"]
        assert (await http.get(f"/check_status/{job}", headers=bearer(ALICES_NEXT))).is_success
        for method, path in (("GET", "/check_status/"), ("POST", "/cancel/"), ("GET", "/events/")):
            answer = await http.request(method, path + job, headers=bearer(BOB))
            assert answer.json()["code"] == "unknown_job"
        assert (await http.get("/jobs", headers=bearer(BOB))).json()["jobs"] == []
        headers = {**bearer(BOB), "Idempotency-Key": "k"}
        other = await http.post("/infer_async", json={"prompt": "y"}, headers=headers)
        assert other.json()["id"] != job


async def test_behind_a_proxy_there_is_one_owner(backend: FakeBackend, workflow: Workflow) -> None:
    async with client(backend, workflow, GatewaySettings(auth="proxy")) as http:
        job = (await http.post("/infer_async", json={"prompt": "x"})).json()["id"]
        assert backend.requests[job].owner == "proxy"


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"},
     {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
     {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": "text/plain"}],
)  # fmt: skip
async def test_behind_a_proxy_a_foreign_page_cannot_call(
    backend: FakeBackend, workflow: Workflow, headers: dict[str, str]
) -> None:
    settings = GatewaySettings(auth="proxy", origins=("https://app.example",))
    async with client(backend, workflow, settings) as http:
        answer = await http.post("/infer_async", content=b'{"prompt": "x"}', headers=headers)
        assert answer.status_code in (403, 415)
        assert not backend.jobs
        for own in ({}, {"Origin": "https://app.example"}, {"Origin": "http://127.0.0.1:8000"}):
            answer = await http.post("/infer_async", json={"prompt": "x"}, headers=own)
            assert answer.status_code == 202


def test_keys_without_a_key_is_a_mistake(backend: FakeBackend, workflow: Workflow) -> None:
    with pytest.raises(ValueError, match="no key"):
        create_app(backend, {workflow.name: workflow}, GatewaySettings(auth="keys"))


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://["},
     {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"},
     {"Host": "evil.example:8000"}, {"Host": "evil.example:8000", "Origin": "http://evil.example"}],
)  # fmt: skip
async def test_without_auth_a_foreign_page_cannot_call(
    backend: FakeBackend, workflow: Workflow, headers: dict[str, str]
) -> None:
    settings = GatewaySettings(hosts=("127.0.0.1", "localhost"))
    async with client(backend, workflow, settings) as http:
        answer = await http.post("/infer_async", content=b'{"prompt": "x"}', headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert not backend.jobs


@pytest.mark.parametrize(
    "headers",
    [{}, {"Origin": "http://127.0.0.1:8000"}, {"Host": "localhost:1234"},
     {"Origin": "https://app.example"}],
)  # fmt: skip
async def test_the_own_page_and_allowed_pages_may_call(
    backend: FakeBackend, workflow: Workflow, headers: Mapping[str, str]
) -> None:
    settings = GatewaySettings(hosts=("127.0.0.1", "localhost"), origins=("https://app.example",))
    async with client(backend, workflow, settings) as http:
        answer = await http.post("/infer_async", json={"prompt": "x"}, headers=headers)
        assert answer.status_code == 202


async def test_an_allowed_page_passes_its_preflight(
    backend: FakeBackend, workflow: Workflow
) -> None:
    settings = GatewaySettings(auth="keys", keys=KEYS.keys, origins=("https://app.example",))
    preflight = {"Access-Control-Request-Method": "POST", "Origin": "https://app.example"}
    async with client(backend, workflow, settings) as http:
        answer = await http.options("/infer_async", headers=preflight)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"


@pytest.mark.parametrize("origins", [(), ("https://app.example",)])
@pytest.mark.parametrize("auth", ["none", "keys", "proxy"])
async def test_another_page_fails_its_preflight_with_the_setting_that_would_allow_it(
    backend: FakeBackend, workflow: Workflow, auth: AuthMode, origins: tuple[str, ...]
) -> None:
    settings = GatewaySettings(auth=auth, keys=KEYS.keys, origins=origins)
    preflight = {"Access-Control-Request-Method": "POST", "Origin": "https://evil.example"}
    async with client(backend, workflow, settings) as http:
        answer = await http.options("/infer_async", headers=preflight)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert "[serve] origins" in answer.json()["detail"]
        assert "access-control-allow-origin" not in answer.headers


async def test_an_allowed_page_reads_what_is_refused_it(
    backend: FakeBackend, workflow: Workflow
) -> None:
    settings = GatewaySettings(auth="keys", keys=KEYS.keys, origins=("https://app.example",))
    async with client(backend, workflow, settings) as http:
        answer = await http.get("/jobs", headers={"Origin": "https://app.example"})
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
        assert {"location", "etag", "x-request-id", "retry-after", "content-range"} <= set(exposed)


@pytest.mark.parametrize(
    "origin",
    ["https://app.example/", "app.example", "https://app.example/page", "HTTPS://app.example", ""],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError) as caught:
        GatewaySettings(origins=(origin,))
    assert caught.value.errors()[0]["type"] == "invalid_value"


async def test_a_request_id_is_kept_or_made(http: httpx.AsyncClient) -> None:
    given = await http.get("/nothing", headers={"X-Request-Id": "abc-1"})
    assert given.headers["x-request-id"] == given.json()["request_id"] == "abc-1"
    made = await http.get("/nothing", headers={"X-Request-Id": "a\tb" + "x" * 500})
    assert made.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nothing", 404, "not_found"), ("GET", "/jobs/", 404, "not_found"),
     ("DELETE", "/jobs", 405, "method_not_allowed"), ("GET", "/infer_sync", 405,
     "method_not_allowed"), ("GET", "/workflows/paint", 404, "unknown_workflow")],
)  # fmt: skip
async def test_every_error_is_a_problem(
    http: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    answer = await http.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert answer.json()["request_id"]


class BrokenBackend(FakeBackend):
    async def submit(self, request: JobRequest, budget: OwnerBudget = NO_BUDGET) -> SubmitResult:
        raise RuntimeError("secret detail")


async def test_a_failure_of_the_server_is_logged_and_tells_nothing(
    workflow: Workflow, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.setFormatter(formatter("text"))
    async with client(BrokenBackend(), workflow, GatewaySettings()) as http:
        with caplog.at_level(logging.ERROR, "comfysnap.gateway"):
            answer = await http.post("/infer_async", json={"prompt": "x"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert answer.json()["request_id"] in caplog.text
    assert "secret detail" in caplog.text


async def test_workflows_are_described_with_their_contracts(
    http: httpx.AsyncClient, workflow: Workflow
) -> None:
    summary = (await http.get("/workflows")).json()
    assert [(entry["name"], entry["default"]) for entry in summary] == [("draw", True)]
    detail = (await http.get("/workflows/draw")).json()
    assert detail["contract"] == workflow.contract.hash
    assert detail["input_schema"] == workflow.contract.input_schema


async def test_a_generated_client_gets_names_bodies_and_every_answer(
    http: httpx.AsyncClient,
) -> None:
    paths: dict[str, Any] = (await http.get("/openapi.json")).json()["paths"]
    named = {op["operationId"] for path in paths.values() for op in path.values()}
    assert {"infer_sync_draw", "infer_async_draw", "check_status", "upload", "ready"} <= named
    infer = paths["/infer_sync/draw"]["post"]
    assert set(infer["responses"]) == {"200", "202", "default"}
    assert all(p.get("description") for p in infer["parameters"])
    content = paths["/files/{sha256}"]["put"]["requestBody"]["content"]
    assert "application/octet-stream" in content


async def test_the_example_of_each_workflow_is_taken(http: httpx.AsyncClient) -> None:
    paths: dict[str, Any] = (await http.get("/openapi.json")).json()["paths"]
    for path in [path for path in paths if path.startswith("/infer_async/")]:
        body = paths[path]["post"]["requestBody"]["content"]["application/json"]["example"]
        answer = await http.post(path, json=body)
        assert answer.status_code == 202, answer.text


async def test_openapi_describes_the_inputs_of_each_workflow(http: httpx.AsyncClient) -> None:
    document: dict[str, Any] = (await http.get("/openapi.json")).json()
    operation = document["paths"]["/infer_sync/draw"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/draw_Input"}
    assert "prompt" in document["components"]["schemas"]["draw_Input"]["properties"]
    assert {entry["name"] for entry in operation["parameters"]} >= {"timeout", "label"}
    assert "/infer_sync/{workflow}" not in document["paths"]
    assert (await http.get("/docs")).status_code == 200


async def test_several_workflows_need_a_name_or_a_default(
    backend: FakeBackend, workflow: Workflow
) -> None:
    workflows = {"draw": workflow, "other": workflow}
    with pytest.raises(ValueError, match="default"):
        create_app(backend, workflows, GatewaySettings(), default="paint")
    app = create_app(backend, workflows, GatewaySettings())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        answer = await http.post("/infer_async", json={"prompt": "x"})
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_workflow")
        assert (await http.post("/infer_async/draw", json={"prompt": "x"})).is_success
