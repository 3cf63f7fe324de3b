"""The deployment end to end: client, gateway container, GPU container, files."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.control_plane import ControlPlane

pytestmark = [pytest.mark.modal, pytest.mark.timeout(60)]


@pytest.fixture
async def http(deployed: ControlPlane) -> AsyncIterator[httpx.AsyncClient]:
    key, secret = deployed.web.key
    async with httpx.AsyncClient(
        base_url=deployed.function("gateway").web_url,
        headers={"Modal-Key": key, "Modal-Secret": secret},
        timeout=40,
    ) as client:
        yield client


async def test_a_job_goes_from_the_client_to_the_gpu_container_and_back(
    deployed: ControlPlane, http: httpx.AsyncClient
) -> None:
    answer = await http.post("/infer_sync", json={"color": 255, "width": 32, "height": 32})
    assert answer.status_code == 200
    job = answer.json()
    assert job["status"] == "succeeded"
    (image,) = job["outputs"]["images"]
    content = await http.get(image["url"])
    assert len(content.content) == image["size"]
