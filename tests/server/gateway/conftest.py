"""A gateway in front of a backend in memory."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import pytest

from comfysnap_schema.workflow.apply import Workflow
from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.settings import GatewaySettings
from tests.server.gateway.fakes import FakeBackend

GRAPH = {
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": 1, "steps": 4, "noise": 7, "latent_image": ["5", 0]},
    },
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
    "10": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
}
SPEC = """
name = "draw"
title = "Draws"
[inputs.prompt]
path = "6.inputs.text"
required = true
max_length = 100
[inputs.steps]
path = "3.inputs.steps"
minimum = 1
maximum = 50
[inputs.width]
path = "5.inputs.width"
multiple_of = 16
[inputs.seed]
path = "3.inputs.seed"
random = true
[inputs.noise]
path = "3.inputs.noise"
maximum = 18446744073709551615
minimum = 0
[inputs.image]
path = "10.inputs.image"
kind = "image"
required = false
[outputs.images]
node = "9"
many = true
"""


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    folder = tmp_path / "workflows" / "draw"
    folder.mkdir(parents=True)
    (folder / "graph.json").write_text(json.dumps(GRAPH))
    (folder / "workflow.toml").write_text(SPEC)
    return Workflow.load(folder)


@pytest.fixture
def settings() -> GatewaySettings:
    return GatewaySettings(max_body_bytes=64 * 1024, max_file_bytes=1024 * 1024)


@pytest.fixture
async def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
async def http(
    backend: FakeBackend, workflow: Workflow, settings: GatewaySettings
) -> AsyncGenerator[httpx.AsyncClient]:
    app = create_app(backend, {workflow.name: workflow}, settings)
    await backend.start()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        yield client
