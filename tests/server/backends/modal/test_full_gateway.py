"""A gateway whose every place is wanted by clients that wait."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from tests.control_plane import ControlPlane
from tests.paths import WORKFLOWS

pytestmark = pytest.mark.modal

MAX_INPUTS = 5
SETTINGS = f"""
name = "full"
workflows = {str(WORKFLOWS)!r}
default = "hello"
[deploy]
engine = "simulated"
workflows = ["hello"]
auth = "none"
[deploy.gateway]
max_inputs = {MAX_INPUTS}
max_containers = 1
"""


@pytest.fixture
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    file = tmp_path_factory.mktemp("full") / "comfysnap.toml"
    file.write_text(SETTINGS)
    with ControlPlane() as plane:
        variables = {
            "COMFYSNAP_PROJECT": str(file),
            "COMFYSNAP_FILES_DIR": str(plane.mounts / "files"),
        }
        plane.add_container_environment(variables)
        plane.deploy("-m", "comfysnap_server.deploy.app", environment=variables)
        yield plane


async def test_clients_that_wait_keep_out_no_submit_and_no_cancel(plane: ControlPlane) -> None:
    plane.hold("Worker.*")
    url = plane.function("gateway").web_url
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as http:
        job = (await http.post("/infer_async", json={})).json()["id"]

        async def wait() -> None:
            for pause in (0.5,) * 100:  # as the client does after an answer that was not held
                answer = await http.get(f"/check_status/{job}?wait=25")
                if answer.json()["status"] != "queued":
                    return
                await asyncio.sleep(pause)

        waiting = [asyncio.create_task(wait()) for _ in range(2 * MAX_INPUTS)]
        streams = [asyncio.create_task(http.get(f"/events/{job}")) for _ in range(MAX_INPUTS)]
        async with asyncio.timeout(20):
            asked = 1 + len(waiting) + len(streams)
            while len(plane.calls("gateway")) < asked:  # noqa: ASYNC110 -- another process
                await asyncio.sleep(0.05)
        async with asyncio.timeout(20):
            other = await http.post("/infer_async", json={"color": 1})
            assert other.status_code == 202
            cancelled = await http.post(f"/cancel/{job}")
            assert cancelled.json()["status"] == "cancelled"
            await asyncio.gather(*waiting, *streams)
