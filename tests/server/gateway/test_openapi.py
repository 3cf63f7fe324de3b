from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from comfysnap_schema.workflow.apply import Workflow
from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.keys import hash_key, new_key
from comfysnap_server.gateway.settings import GatewaySettings
from tests.server.gateway.conftest import SPEC
from tests.server.gateway.fakes import FakeBackend

KEY = new_key()


async def document_of(
    workflows: dict[str, Workflow], settings: GatewaySettings | None = None
) -> dict[str, Any]:
    app = create_app(FakeBackend(), workflows, settings or GatewaySettings())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as http:
        answer = await http.get("/openapi.json", headers={"Authorization": f"Bearer {KEY}"})
    return answer.json()


@pytest.fixture
async def document(workflow: Workflow) -> dict[str, Any]:
    return await document_of({"draw": workflow})


def nodes_of(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield cast("dict[str, Any]", node)
    children = cast("Any", node.values() if isinstance(node, dict) else node)
    for child in children if isinstance(node, (dict, list)) else ():
        yield from nodes_of(child)


async def test_every_workflow_has_an_input_an_output_and_a_job(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert {"draw_Input", "draw_Output", "draw_Job"} <= set(schemas)
    assert schemas["draw_Input"]["required"] == ["prompt"]
    assert schemas["draw_Input"]["properties"]["steps"]["default"] == 4
    images = schemas["draw_Output"]["properties"]["images"]
    assert images["items"]["$ref"] == "#/components/schemas/OutputFile"
    assert schemas["draw_Output"]["required"] == ["images"]
    job = schemas["draw_Job"]
    assert set(job["required"]) == set(job["properties"])
    assert job["properties"]["workflow"]["const"] == "draw"
    assert job["properties"]["status"] == {"$ref": "#/components/schemas/JobStatus"}
    for name in ("infer_sync", "infer_async"):
        responses = document["paths"][f"/{name}/draw"]["post"]["responses"]
        schema = responses["202"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/draw_Job"}


async def test_a_workflow_with_several_outputs_may_have_some_before_it_ends(
    workflow: Workflow,
) -> None:
    more = """
[outputs.caption]
node = "6"
kind = "text"
[outputs.facts]
node = "10"
kind = "json"
"""
    (workflow.folder / "workflow.toml").write_text(SPEC + more)
    document = await document_of({"draw": Workflow.load(workflow.folder)})
    schemas = document["components"]["schemas"]
    output = schemas["draw_Output"]
    assert output["properties"]["caption"] == {"x-kind": "text", "type": "string"}
    assert output["required"] == ["images", "caption", "facts"]
    whole, partial, nothing = schemas["draw_Job"]["properties"]["outputs"]["anyOf"]
    assert whole == {"$ref": "#/components/schemas/draw_Output"}
    assert "required" not in partial
    assert nothing == {"type": "null"}


async def test_every_reference_and_every_discriminator_leads_to_a_component(
    document: dict[str, Any],
) -> None:
    found = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert not [name for name in found if "." in name]
    targets: set[str] = set()
    for node in nodes_of(document):
        if isinstance(node.get("$ref"), str):
            targets.add(node["$ref"])
        targets.update(node.get("discriminator", {}).get("mapping", {}).values())
    assert targets <= found
    assert found - targets == set()


async def test_operations_have_short_names_descriptions_and_a_problem(
    document: dict[str, Any],
) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert "default" in operation["responses"], (method, path)
            assert operation["description"]
            assert len(operation["operationId"]) < 24
    texts = [str(node.get("description", "")) for node in nodes_of(document)]
    assert not [text for text in texts if "``" in text or "None" in text.split()]


async def test_files_are_binary(document: dict[str, Any]) -> None:
    binary = {"type": "string", "format": "binary"}
    upload = document["paths"]["/files/{sha256}"]["put"]["requestBody"]["content"]
    output = document["paths"]["/outputs/{job_id}/{name}"]["get"]["responses"]["200"]["content"]
    for content in (upload, output):
        assert content["application/octet-stream"]["schema"] == binary


async def test_health_needs_no_key_in_the_document_either(workflow: Workflow) -> None:
    settings = GatewaySettings(auth="keys", keys={"anna": hash_key(KEY)})
    document = await document_of({"draw": workflow}, settings)
    paths = document["paths"]
    assert document["security"] == [{"key": []}]
    assert paths["/health"]["get"]["security"] == paths["/ready"]["get"]["security"] == []
    assert paths["/events/{job_id}"]["get"]["security"] == [{"key": []}, {}]
    assert "security" not in paths["/jobs"]["get"]


async def test_a_server_without_workflows_has_a_document(tmp_path: Path) -> None:
    document = await document_of({})
    assert "status" in document["components"]["schemas"]["Job"]["properties"]
