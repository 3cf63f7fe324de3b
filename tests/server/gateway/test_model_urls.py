"""Models that a caller names by URL: what the gateway accepts, and what it hands to the backend."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from comfysnap_schema.workflow.apply import Workflow
from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.settings import GatewaySettings
from comfysnap_server.jobs import JobRequest
from comfysnap_server.models import RemoteModelSettings
from tests.server.gateway.fakes import FakeBackend

URL = "https://models.example.com/a.safetensors"
SHA256 = "0" * 64
SETTINGS = GatewaySettings(remote_models=RemoteModelSettings(hosts=("models.example.com",)))
GRAPH: dict[str, Any] = {
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "base.safetensors"}},
    "5": {"class_type": "UNETLoader", "inputs": {"unet_name": "unet.safetensors"}},
    "6": {"class_type": "UNETLoader", "inputs": {"unet_name": "unet.safetensors"}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["4", 0]}},
}
SPEC = """
name = "draw"
[inputs.checkpoint]
path = "4.inputs.ckpt_name"
type = "model"
[inputs.parts]
each = ["5.inputs.unet_name", "6.inputs.unet_name"]
type = "model"
required = false
min_items = 2
[inputs.loras]
type = "loras"
after = "4"
[outputs.images]
node = "9"
"""
NODES: dict[str, Any] = {
    "CheckpointLoaderSimple": {
        "input": {"required": {"ckpt_name": [["base.safetensors"]]}},
        "output": ["MODEL", "CLIP", "VAE"],
        "python_module": "nodes",
    },
    "UNETLoader": {
        "input": {"required": {"unet_name": [["unet.safetensors"]]}},
        "output": ["MODEL"],
        "python_module": "nodes",
    },
    "SaveImage": {
        "input": {"required": {"images": ["*"]}},
        "output": [],
        "output_node": True,
        "python_module": "nodes",
    },
}


def load(folder: Path, **files: str) -> Workflow:
    (folder / "graph.json").write_text(json.dumps(GRAPH))
    (folder / "workflow.toml").write_text(SPEC)
    (folder / "nodes.json").write_text(json.dumps(NODES))
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return Workflow.load(folder)


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    return load(tmp_path)


async def submit(
    backend: FakeBackend,
    workflow: Workflow,
    inputs: dict[str, Any],
    settings: GatewaySettings = SETTINGS,
) -> httpx.Response:
    await backend.start()
    transport = httpx.ASGITransport(create_app(backend, {workflow.name: workflow}, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as http:
        return await http.post("/infer_async/draw", json=inputs)


async def accepted(backend: FakeBackend, workflow: Workflow, inputs: dict[str, Any]) -> JobRequest:
    response = await submit(backend, workflow, inputs)
    assert response.status_code == 202, response.text
    return list(backend.requests.values())[-1]


async def test_a_url_becomes_a_placeholder_that_the_download_replaces(
    backend: FakeBackend, workflow: Workflow
) -> None:
    request = await accepted(backend, workflow, {"checkpoint": {"url": URL}})
    ((placeholder, model),) = request.models.items()
    assert (model.url, model.sha256) == (URL, None)
    assert (model.folder, model.field) == ("checkpoints", "checkpoint")
    assert request.graph["4"]["inputs"]["ckpt_name"] == placeholder
    assert request.inputs["checkpoint"] == {"url": URL}
    ready = request.with_models({placeholder: SHA256})
    assert ready.graph["4"]["inputs"]["ckpt_name"] == f"remote/{SHA256}.safetensors"


async def test_a_url_may_be_a_plain_text_too(backend: FakeBackend, workflow: Workflow) -> None:
    request = await accepted(backend, workflow, {"checkpoint": URL})
    (model,) = request.models.values()
    assert model.url == URL


async def test_a_file_name_is_handed_on_as_before(backend: FakeBackend, workflow: Workflow) -> None:
    request = await accepted(backend, workflow, {"checkpoint": "other.safetensors"})
    assert request.graph["4"]["inputs"]["ckpt_name"] == "other.safetensors"
    assert request.models == {}
    assert request.with_models({}) is request


async def test_lists_of_models_and_loras_mix_names_and_urls(
    backend: FakeBackend, workflow: Workflow
) -> None:
    inputs = {
        "parts": ["unet.safetensors", {"url": URL, "sha256": SHA256}],
        "loras": [
            {"name": "ink.safetensors"},
            {"url": URL, "strength": 0.5},
            {"url": URL, "sha256": SHA256},
        ],
    }
    request = await accepted(backend, workflow, inputs)
    by_field = {model.field: (name, model) for name, model in request.models.items()}
    assert set(by_field) == {"parts[1]", "loras[1].url", "loras[2].url"}
    assert by_field["parts[1]"][1].folder == "diffusion_models"
    assert by_field["loras[1].url"][1].folder == "loras"
    assert by_field["loras[2].url"][1].sha256 == SHA256
    assert request.graph["5"]["inputs"]["unet_name"] == "unet.safetensors"
    assert request.graph["6"]["inputs"]["unet_name"] == by_field["parts[1]"][0]
    loaders = [node["inputs"] for key, node in request.graph.items() if key.startswith("loras:")]
    assert [loader["lora_name"] for loader in loaders] == [
        "ink.safetensors", by_field["loras[1].url"][0], by_field["loras[2].url"][0],
    ]  # fmt: skip
    assert [loader["strength_model"] for loader in loaders] == [1.0, 0.5, 1.0]


async def test_what_prepare_puts_elsewhere_is_replaced_too(
    backend: FakeBackend, tmp_path: Path
) -> None:
    prepare = (
        "def prepare(graph, inputs):\n"
        "    name = inputs['checkpoint']\n"
        "    graph['5']['inputs']['rows'] = {'lora_1': {'on': True, 'lora': name}, 'all': [name]}\n"
        "    return graph\n"
    )
    request = await accepted(
        backend, load(tmp_path, prepare__py=prepare), {"checkpoint": {"url": URL}}
    )
    (placeholder,) = request.models
    name = f"remote/{SHA256}.safetensors"
    rows = request.with_models({placeholder: SHA256}).graph["5"]["inputs"]["rows"]
    assert rows == {"lora_1": {"on": True, "lora": name}, "all": [name]}


async def test_urls_are_refused_unless_their_host_is_allowed(
    backend: FakeBackend, workflow: Workflow
) -> None:
    response = await submit(
        backend, workflow, {"checkpoint": {"url": URL}, "loras": [{"url": URL}]}, GatewaySettings()
    )
    assert response.status_code == 422
    problem = response.json()
    assert problem["code"] == "model_refused"
    assert [entry["field"] for entry in problem["fields"]] == ["checkpoint", "loras[0].url"]
    assert backend.requests == {}


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        ({"url": "https://evil.com/a"}, "checkpoint", "'evil.com' is not allowed"),
        ({"url": "http://models.example.com/a"}, "checkpoint", "must start with https://"),
        ({"url": "https://u:p@models.example.com/a"}, "checkpoint", "user name"),
        ({"url": "file:///etc/passwd"}, "checkpoint.url", "must match"),
        ({"url": URL, "sha256": "abc"}, "checkpoint.sha256", "must match"),
        ({"sha256": SHA256}, "checkpoint.url", "is required"),
        (5, "checkpoint", "must be a file name or"),
    ],
)
async def test_what_is_wrong_with_a_url_is_said_at_its_field(
    backend: FakeBackend, workflow: Workflow, value: Any, field: str, message: str
) -> None:
    response = await submit(backend, workflow, {"checkpoint": value})
    assert response.status_code == 422
    (entry,) = response.json()["fields"]
    assert entry["field"] == field
    assert message in entry["message"]


@pytest.mark.parametrize("lora", [{}, {"name": "a.safetensors", "url": URL}, {"strength": 1}])
async def test_a_lora_has_a_name_or_a_url(
    backend: FakeBackend, workflow: Workflow, lora: Any
) -> None:
    response = await submit(backend, workflow, {"loras": [lora]})
    assert response.status_code == 422
    assert "either a name or a url" in response.text
