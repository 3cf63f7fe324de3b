"""Lists of files and LoRAs: how they are checked, stored and named in errors."""

import base64
import hashlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from comfysnap_schema.workflow import Workflow
from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.settings import GatewaySettings
from tests.server.gateway.fakes import FakeBackend
from tests.server.gateway.test_input_urls import CONTENT, DIGEST, LOOPBACK, Site, site

__all__ = ["site"]

NODES: dict[str, Any] = {
    "Loader": {"input": {"required": {}}, "output": ["MODEL", "CLIP"]},
    "Read": {"input": {"required": {"image": [[], {"image_upload": True}]}}, "output": ["IMAGE"]},
    "Draw": {
        "input": {
            "required": {"model": ["MODEL"], "steps": ["INT", {"min": 1, "max": 9}]},
            "optional": {"one": ["IMAGE"], "two": ["IMAGE"], "three": ["IMAGE"]},
        },
        "output": ["IMAGE"],
    },
    "Save": {"input": {"required": {"images": ["IMAGE"]}}, "output": [], "output_node": True},
    "LoraLoader": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "clip": ["CLIP"],
                "lora_name": [["ink.safetensors", "oil.safetensors", "inks.safetensors"]],
                "strength_model": ["FLOAT"],
                "strength_clip": ["FLOAT"],
            }
        },
        "output": ["MODEL", "CLIP"],
    },
}
GRAPH: dict[str, Any] = {
    "4": {"class_type": "Loader", "inputs": {}},
    "10": {"class_type": "Read", "inputs": {"image": "a.png"}},
    "11": {"class_type": "Read", "inputs": {"image": "b.png"}},
    "12": {"class_type": "Read", "inputs": {"image": "c.png"}},
    "20": {
        "class_type": "Draw",
        "inputs": {
            "model": ["4", 0], "steps": 4, "one": ["10", 0], "two": ["11", 0], "three": ["12", 0],
        },
    },
    "30": {"class_type": "Save", "inputs": {"images": ["20", 0]}},
}  # fmt: skip
SPEC = """
name = "draw"
[inputs.images]
each = ["10.inputs.image", "11.inputs.image", "12.inputs.image"]
[inputs.steps]
each = ["20.inputs.steps"]
min_items = 1
[inputs.loras]
type = "loras"
after = "4"
maximum = 2
max_items = 2
[outputs.images]
node = "30"
"""


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    folder = tmp_path / "draw"
    folder.mkdir()
    (folder / "graph.json").write_text(json.dumps(GRAPH))
    (folder / "nodes.json").write_text(json.dumps(NODES))
    (folder / "workflow.toml").write_text(SPEC)
    return Workflow.load(folder)


@pytest.fixture
async def http(backend: FakeBackend, workflow: Workflow) -> AsyncGenerator[httpx.AsyncClient]:
    app = create_app(backend, {workflow.name: workflow}, GatewaySettings(), fetch=LOOPBACK)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        yield client


def errors(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    return {found["field"]: found["message"] for found in answer.json()["fields"]}


async def test_the_files_of_a_list_are_stored_one_by_one_in_its_order(
    http: httpx.AsyncClient, backend: FakeBackend, site: Site
) -> None:
    inline = b"a jpeg"
    inlined = hashlib.sha256(inline).hexdigest()
    data = {"data": base64.b64encode(inline).decode(), "content_type": "image/jpeg"}
    uploaded = hashlib.sha256(b"a png").hexdigest()
    await http.put(f"/files/{uploaded}", content=b"a png")
    answer = await http.post(
        "/infer_async", json={"images": [{"sha256": uploaded}, {"url": site.url}, data]}
    )
    request = backend.requests[answer.json()["id"]]
    names = [f"{uploaded[:32]}.png", f"{DIGEST[:32]}.webp", f"{inlined[:32]}.jpg"]
    assert answer.json()["inputs"]["images"] == [
        {"sha256": uploaded}, {"sha256": DIGEST}, {"sha256": inlined},
    ]  # fmt: skip
    assert [request.graph[node]["inputs"]["image"] for node in ("10", "11", "12")] == names
    assert sorted(request.files) == sorted(names)
    assert backend.files[f"local/{DIGEST}"] == CONTENT
    assert request.fields["11.inputs.image"] == "images[1]"


async def test_a_shorter_list_leaves_its_places_out(
    http: httpx.AsyncClient, backend: FakeBackend
) -> None:
    digest = hashlib.sha256(b"a png").hexdigest()
    await http.put(f"/files/{digest}", content=b"a png")
    one = await http.post("/infer_async", json={"images": [{"sha256": digest}]})
    graph = backend.requests[one.json()["id"]].graph
    assert graph["20"]["inputs"] == {"model": ["4", 0], "steps": 4, "one": ["10", 0]}
    assert not {"11", "12"} & graph.keys()
    none = await http.post("/infer_async", json={})
    assert none.json()["inputs"]["images"] == []
    assert "one" not in backend.requests[none.json()["id"]].graph["20"]["inputs"]


async def test_wrong_items_are_named_by_their_place(http: httpx.AsyncClient) -> None:
    file = {"sha256": "0" * 64}
    body = {
        "images": [file, {"path": "/etc/passwd"}],
        "steps": ["many"],
        "loras": [{"name": "oil.safetensors", "strength": 3}, {"strength": 1}],
    }
    found = errors(await http.post("/infer_async", json=body))
    assert found.keys() == {"images[1]", "steps[0]", "loras[0].strength", "loras[1]"}
    assert found["images[1]"].startswith('must be {"sha256": ...}')
    assert found["steps[0]"] == 'must be of type integer, not "many"'
    assert found["loras[0].strength"] == "must be at most 2.0, not 3"
    assert found["loras[1]"] == "needs either a name or a url"


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"images": [{"sha256": "0" * 64}] * 4}, "images", "may have at most 3 items, not 4"),
        ({"steps": []}, "steps", "needs at least 1 item, not 0"),
        ({"images": {"sha256": "0" * 64}}, "images", "must be of type array, not"),
        ({"loras": [{"name": "ink.safetensors", "other": 1}]}, "loras[0]", "other"),
        ({"images": [{"data": "no base64!"}]}, "images[0]", "plain base64"),
        ({"images": [{"sha256": "0" * 64}]}, "images[0]", "was not uploaded"),
        ({"images": [{"url": "http://me:x@example.com/a"}]}, "images[0]", "without user name"),
    ],
)
async def test_a_wrong_list_is_an_error_that_says_what_is_right(
    http: httpx.AsyncClient, body: object, field: str, message: str
) -> None:
    found = errors(await http.post("/infer_async", json=body))
    assert list(found) == [field]
    assert message in found[field]


async def test_a_download_that_fails_is_named_by_its_place(
    http: httpx.AsyncClient, site: Site
) -> None:
    images = [{"url": site.url}, {"url": f"{site.url}gone"}]
    answer = await http.post("/infer_async", json={"images": images})
    assert answer.json()["code"] == "input_unavailable"
    assert list(errors(answer)) == ["images[1]"]


async def test_an_unknown_lora_lists_those_of_a_similar_name(http: httpx.AsyncClient) -> None:
    body = {"loras": [{"name": "ink.safetensor"}]}
    found = errors(await http.post("/infer_async", json=body))
    message = found["loras[0].name"]
    assert "did you mean 'ink.safetensors' or 'inks.safetensors'" in message
    far = errors(await http.post("/infer_async", json={"loras": [{"name": "zzz"}]}))
    assert "did you mean" not in far["loras[0].name"]
    number = errors(await http.post("/infer_async", json={"loras": [{"name": 1}]}))
    assert "did you mean" not in number["loras[0].name"]


async def test_loras_are_in_the_graph_and_the_job_knows_their_fields(
    http: httpx.AsyncClient, backend: FakeBackend
) -> None:
    loras = [{"name": "ink.safetensors", "strength": 0.5}, {"name": "oil.safetensors"}]
    answer = await http.post("/infer_async", json={"loras": loras})
    request = backend.requests[answer.json()["id"]]
    assert request.inputs["loras"] == loras
    assert request.graph["20"]["inputs"]["model"] == ["loras:1", 0]
    assert request.fields["loras:1.inputs.lora_name"] == "loras[1].name"


async def test_the_example_of_a_list_of_files_is_one(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    body = document["paths"]["/infer_sync/draw"]["post"]["requestBody"]
    assert body["content"]["application/json"]["example"] == {}


async def test_a_list_of_files_that_is_required_has_an_example(
    backend: FakeBackend, workflow: Workflow
) -> None:
    spec = SPEC.replace("[inputs.steps]", "min_items = 2\n[inputs.steps]")
    (workflow.folder / "workflow.toml").write_text(spec)
    app = create_app(backend, {"draw": Workflow.load(workflow.folder)}, GatewaySettings())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        document = (await client.get("/openapi.json")).json()
    body = document["paths"]["/infer_sync/draw"]["post"]["requestBody"]
    picture = {"url": "https://example.com/picture.png"}
    assert body["content"]["application/json"]["example"] == {"images": [picture, picture]}
