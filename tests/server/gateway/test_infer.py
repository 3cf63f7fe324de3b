import asyncio
import base64
import difflib
import hashlib
import json
from typing import Any

import httpx
import pytest

from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_schema.wire.jobs import JobRecord, JobStatus
from comfysnap_schema.workflow.apply import Workflow
from comfysnap_server.errors import BackendError
from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.settings import GatewaySettings
from tests.server.gateway.fakes import FakeBackend


def fields_of(answer: httpx.Response) -> dict[str | None, str]:
    return {found["field"]: found["message"] for found in answer.json()["fields"]}


async def test_a_bare_submit_reaches_the_only_workflow(http: httpx.AsyncClient) -> None:
    answer = await http.post("/infer_async", json={"prompt": "a fox"})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/check_status/{job['id']}"
    assert (job["workflow"], job["status"]) == ("draw", "queued")
    assert job["inputs"]["steps"] == 4
    assert isinstance(job["inputs"]["seed"], int)


@pytest.mark.parametrize(
    "content_type", [None, "application/json; charset=utf-8", "application/x-www-form-urlencoded"]
)
async def test_json_is_taken_as_json_also_as_curl_sends_it(
    http: httpx.AsyncClient, content_type: str | None
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = await http.post("/infer_async/draw", content=b'{"prompt": "x"}', headers=headers)
    assert answer.status_code == 202


async def test_of_many_unknown_fields_only_those_that_are_told_are_looked_up(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []

    def look_up(word: str, *_args: object, **_options: object) -> list[str]:
        looked_up.append(word)
        return ["prompt"]

    monkeypatch.setattr(difflib, "get_close_matches", look_up)
    answer = await http.post("/infer_async", json={f"prompt{number}": 1 for number in range(3000)})
    assert answer.status_code == 422
    assert len(answer.json()["fields"]) == 1 + len(looked_up) == 50


async def test_a_wrong_value_is_named_although_very_many_fields_are_unknown(
    http: httpx.AsyncClient,
) -> None:
    unknown = {f"x{number}": 1 for number in range(3000)}
    answer = await http.post("/infer_async", json={**unknown, "prompt": 1})
    found = fields_of(answer)
    assert "prompt" in found
    assert len(found) == 50


async def test_infer_sync_answers_with_the_finished_job(
    http: httpx.AsyncClient, backend: FakeBackend
) -> None:
    call = asyncio.create_task(http.post("/infer_sync", json={"prompt": "x"}))
    await backend.submitted.wait()
    await backend.update(next(iter(backend.jobs)), status=JobStatus.FAILED)
    answer = await call
    assert answer.status_code == 200
    assert answer.json()["status"] == "failed"


async def test_a_job_that_ends_at_once_needs_no_second_request(
    http: httpx.AsyncClient, backend: FakeBackend
) -> None:
    backend.idle_worker = True
    call = asyncio.create_task(http.post("/infer_async", json={"prompt": "x"}))
    await backend.submitted.wait()
    job = await backend.update(next(iter(backend.jobs)), status=JobStatus.SUCCEEDED)
    answer = await call
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/check_status/{job.id}"
    assert answer.json()["status"] == "succeeded"


async def test_a_job_that_goes_on_is_told_as_running(
    http: httpx.AsyncClient, backend: FakeBackend
) -> None:
    backend.idle_worker = True
    answer = await http.post("/infer_async", json={"prompt": "x"})
    assert (answer.status_code, answer.json()["status"]) == (202, "running")


@pytest.mark.parametrize("route", ["/infer_async", "/infer_sync"])
@pytest.mark.parametrize(
    "error",
    [BackendError(ErrorCode.UNAVAILABLE, "the server is stopping"), RuntimeError("unforeseen")],
)
async def test_an_accepted_job_is_returned_although_its_end_cannot_be_waited_for(
    http: httpx.AsyncClient,
    backend: FakeBackend,
    monkeypatch: pytest.MonkeyPatch,
    route: str,
    error: Exception,
) -> None:
    async def fail(*_: object, **__: object) -> JobRecord:
        raise error

    backend.idle_worker = True
    monkeypatch.setattr(backend, "wait", fail)
    answer = await http.post(route, json={"prompt": "x"})
    job = next(iter(backend.jobs))
    assert (answer.status_code, answer.json()["id"]) == (202, job)
    assert answer.headers["location"] == f"/check_status/{job}"
    assert "retry-after" not in answer.headers


async def test_the_graph_is_filled_in_for_the_backend(
    http: httpx.AsyncClient, backend: FakeBackend
) -> None:
    answer = await http.post(
        "/infer_async?timeout=5&label=team:red&label=run:1&previews=true",
        json={"prompt": "a fox", "noise": "18446744073709551615"},
    )
    request = backend.requests[answer.json()["id"]]
    assert request.graph["6"]["inputs"]["text"] == "a fox"
    assert request.graph["3"]["inputs"]["noise"] == 18446744073709551615
    assert (request.timeout, request.previews) == (5, True)
    assert request.labels == {"team": "red", "run": "1"}
    assert request.fields["6.inputs.text"] == "prompt"


async def test_the_editors_workflow_goes_to_the_backend(
    backend: FakeBackend, workflow: Workflow, settings: GatewaySettings
) -> None:
    drawing: dict[str, Any] = {"nodes": [], "links": []}
    (workflow.folder / "drawing.json").write_text(json.dumps(drawing))
    app = create_app(backend, {"draw": Workflow.load(workflow.folder)}, settings)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as http:
        answer = await http.post("/infer_async", json={"prompt": "a fox"})
    assert backend.requests[answer.json()["id"]].drawing == drawing


async def test_every_wrong_field_is_named(http: httpx.AsyncClient, backend: FakeBackend) -> None:
    answer = await http.post(
        "/infer_async", json={"promt": "x", "steps": "many", "width": 17, "noise": -1}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert answer.headers["content-type"] == "application/problem+json"
    found = fields_of(answer)
    assert set(found) == {"promt", "prompt", "steps", "width", "noise"}
    assert "'prompt'" in found["promt"]
    assert "at least 0" in found["noise"]
    assert not backend.jobs


@pytest.mark.parametrize(
    "inputs",
    [{"prompt": "x" * 101}, {"prompt": "x", "steps": 51}, {"prompt": "x", "steps": True},
     {"prompt": None}, {"prompt": "x", "image": "fox.png"}],
)  # fmt: skip
async def test_inputs_outside_the_contract_are_refused(
    http: httpx.AsyncClient, inputs: dict[str, Any]
) -> None:
    answer = await http.post("/infer_async", json=inputs)
    assert answer.status_code == 422
    assert list(fields_of(answer)) == [list(inputs)[-1]]


@pytest.mark.parametrize(
    "body",
    [b"", b"fox", b"[]", b'{"prompt": NaN}', b'{"prompt": 1e999}', b'{"prompt": "\xff"}',
     b'{"prompt": "x", "prompt": "y"}', b'{"steps": ' + b"[" * 5000 + b"]" * 5000 + b"}",
     b'{"steps": ' + b"9" * 5000 + b"}", b'{"prompt": "\\ud800"}'],
)  # fmt: skip
async def test_what_is_no_json_object_is_refused(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await http.post("/infer_async", content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")


async def test_another_content_type_is_refused(http: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "text/xml"}
    answer = await http.post("/infer_async", content=b"<prompt/>", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


async def test_a_body_above_the_limit_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post("/infer_async", json={"prompt": "x" * 70_000})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


async def test_an_unknown_workflow_names_the_known(http: httpx.AsyncClient) -> None:
    answer = await http.post("/infer_async/paint", json={"prompt": "x"})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_workflow")
    assert "draw" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("query", "field"),
    [("timeout=0", "timeout"), ("timeout=nan", "timeout"), ("timeout=inf", "timeout"),
     ("label=nocolon", "label"), ("prompt=fox", "prompt"), ("webhook=http://x/", "webhook"),
     ("&".join(f"label=a{i}:b" for i in range(17)), "label")],
)  # fmt: skip
async def test_a_wrong_option_is_named(http: httpx.AsyncClient, query: str, field: str) -> None:
    answer = await http.post(f"/infer_async?{query}", json={"prompt": "x"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert list(fields_of(answer)) == [field]


async def test_a_timeout_above_the_limit_is_cut(
    http: httpx.AsyncClient, backend: FakeBackend
) -> None:
    answer = await http.post("/infer_async?timeout=1e9", json={"prompt": "x"})
    assert backend.requests[answer.json()["id"]].timeout == 3600


async def test_one_key_makes_one_job_over_both_infer_routes(
    http: httpx.AsyncClient, backend: FakeBackend
) -> None:
    key = {"Idempotency-Key": "k1"}
    first = await http.post("/infer_async", json={"prompt": "x", "steps": 2}, headers=key)
    await backend.update(first.json()["id"], status=JobStatus.SUCCEEDED)
    again = await http.post("/infer_sync/draw", json={"steps": 2, "prompt": "x"}, headers=key)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert len(backend.jobs) == 1


async def test_a_key_with_another_body_is_refused(http: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k1"}
    await http.post("/infer_async", json={"prompt": "x"}, headers=key)
    other = await http.post("/infer_async", json={"prompt": "y"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


async def test_a_replay_holds_although_the_workflow_changed_since(
    http: httpx.AsyncClient, backend: FakeBackend, workflow: Workflow, settings: GatewaySettings
) -> None:
    key = {"Idempotency-Key": "k1", "Comfysnap-Contract": workflow.contract.hash}
    first = await http.post("/infer_async/draw", json={"prompt": "x"}, headers=key)
    spec = (workflow.folder / "workflow.toml").read_text()
    (workflow.folder / "workflow.toml").write_text(spec.replace("[inputs.prompt]", "[inputs.text]"))
    app = create_app(backend, {"draw": Workflow.load(workflow.folder)}, settings)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as changed:
        again = await changed.post("/infer_async/draw", json={"prompt": "x"}, headers=key)
        fresh = await changed.post("/infer_async/draw", json={"prompt": "x"})
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"
    assert fresh.json()["code"] == "invalid_input"


async def test_a_malformed_idempotency_key_is_refused(http: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "x" * 300}
    answer = await http.post("/infer_async", json={"prompt": "x"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_the_contract_of_a_stale_client_is_refused(
    http: httpx.AsyncClient, workflow: Workflow
) -> None:
    stale = await http.post(
        "/infer_async", json={"prompt": "x"}, headers={"Comfysnap-Contract": "0" * 16}
    )
    assert (stale.status_code, stale.json()["code"]) == (409, "contract_mismatch")
    headers = {"Comfysnap-Contract": workflow.contract.hash}
    assert (await http.post("/infer_async", json={"prompt": "x"}, headers=headers)).is_success


async def test_an_inline_file_is_stored_and_leaves_the_inputs(
    http: httpx.AsyncClient, backend: FakeBackend
) -> None:
    content = b"a jpeg"
    digest = hashlib.sha256(content).hexdigest()
    image = {"data": base64.b64encode(content).decode(), "content_type": "image/jpeg"}
    answer = await http.post("/infer_async", json={"prompt": "x", "image": image})
    request = backend.requests[answer.json()["id"]]
    assert answer.json()["inputs"]["image"] == {"sha256": digest}
    assert backend.files == {f"local/{digest}": content}
    assert request.graph["10"]["inputs"]["image"] == f"{digest[:32]}.jpg"
    assert list(request.files) == [f"{digest[:32]}.jpg"]


@pytest.mark.parametrize(
    ("image", "code"),
    [({"data": "no base64!"}, "invalid_input"),
     ({"data": "data:image/png;base64,AAAA"}, "invalid_input"),
     ({"url": "file:///etc/passwd"}, "invalid_input"),
     ({"url": "http://"}, "invalid_input"),
     ({"url": "http://me:secret@example.com/x.png"}, "invalid_input"),
     ({"url": "http://[::1"}, "invalid_input"),
     ({"sha256": "0" * 64}, "unknown_file"),
     ({"sha256": "../../etc/passwd"}, "invalid_input"),
     ({"sha256": "0" * 64, "url": "http://example.com/x.png"}, "invalid_input")],
)  # fmt: skip
async def test_a_wrong_file_input_is_named(
    http: httpx.AsyncClient, image: dict[str, str], code: str
) -> None:
    answer = await http.post("/infer_async", json={"prompt": "x", "image": image})
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert list(fields_of(answer)) == ["image"]


async def test_what_comfyui_would_refuse_is_told_before_anything_is_queued(
    backend: FakeBackend, workflow: Workflow, settings: GatewaySettings
) -> None:
    (workflow.folder / "nodes.json").write_text(json.dumps(NODES))
    (workflow.folder / "prepare.py").write_text(PREPARE)
    prepared = Workflow.load(workflow.folder)
    app = create_app(backend, {"draw": prepared}, settings)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        good = await http.post("/infer_async", json={"prompt": "fine"})
        refused = await http.post("/infer_async", json={"prompt": "refuse"})
        broken = await http.post("/infer_async", json={"prompt": "break"})
        crashed = await http.post("/infer_async", json={"prompt": "crash"})
    assert backend.requests[good.json()["id"]].graph["6"]["inputs"]["text"] == "fine!"
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")
    assert (broken.status_code, broken.json()["code"]) == (422, "graph_invalid")
    assert broken.json()["fields"][0]["node"] == "3"
    assert (crashed.status_code, crashed.json()["code"]) == (500, "internal")
    assert len(backend.jobs) == 1


def node(output: str, *, final: bool = False, **inputs: list[Any]) -> dict[str, Any]:
    return {
        "input": {"required": inputs},
        "output": [output],
        "output_name": [output],
        "output_is_list": [False],
        "output_node": final,
    }


NODES = {
    "KSampler": node("IMAGE", seed=["INT"], steps=["INT"], noise=["INT"], latent_image=["LATENT"]),
    "EmptyLatentImage": node("LATENT", width=["INT", {"min": 16}]),
    "CLIPTextEncode": node("CONDITIONING", text=["STRING"]),
    "SaveImage": node("IMAGE", final=True, images=["IMAGE"]),
    "LoadImage": node("IMAGE", image=[["example.png"]]),
}
PREPARE = """
def prepare(graph, inputs):
    if inputs["prompt"] == "refuse":
        raise ValueError("no")
    if inputs["prompt"] == "break":
        graph["3"]["inputs"]["latent_image"] = ["6", 0]
    if inputs["prompt"] == "crash":
        return 1 / 0
    graph["6"]["inputs"]["text"] += "!"
    return graph
"""
