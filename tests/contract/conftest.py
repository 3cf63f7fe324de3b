"""End to end: uvicorn, the gateway, the local backend, and the client."""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from comfysnap_client import Client
from comfysnap_schema.workflow.apply import load_workflows
from comfysnap_server.backends.local import LocalBackend
from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.settings import GatewaySettings
from tests.paths import WORKFLOWS
from tests.servers import running


def _serve(data: Path, step_seconds: float) -> Generator[str]:
    backend = LocalBackend(data, engine_options={"step_seconds": step_seconds})
    app = create_app(backend, load_workflows(WORKFLOWS), GatewaySettings(), default="flux")
    with running(app) as server:
        yield server.url


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A server whose samplers take no time."""
    yield from _serve(tmp_path_factory.mktemp("data"), 0)


@pytest.fixture(scope="module")
def slow_url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A server whose samplers take 0.2 s a step."""
    yield from _serve(tmp_path_factory.mktemp("data"), 0.2)


@pytest.fixture
async def client(url: str) -> AsyncGenerator[Client]:
    async with Client(url, timeout=30) as client:
        yield client


@pytest.fixture
async def slow(slow_url: str) -> AsyncGenerator[Client]:
    async with Client(slow_url, timeout=60) as client:
        yield client
