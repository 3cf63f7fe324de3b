"""Each snapshot mode, run: the hooks of the GPU class are right in all of them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfysnap_client.client import Client
from comfysnap_schema.workflows.hello import HelloInput
from tests.control_plane import ControlPlane
from tests.paths import ROOT

pytestmark = pytest.mark.modal

WORKER = "Worker.*"


@pytest.fixture
def plane(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """A control plane with ComfyUI (the tree of our own) deployed in one snapshot mode."""
    mode: str = request.param
    (tmp_path / "comfysnap.toml").write_text(f"""
name = "mode"
workflows = {str(ROOT / "workflows")!r}
[deploy]
workflows = ["hello"]
auth = "none"
snapshot = "{mode}"
warm_up = "hello"
max_containers = 1
[deploy.gateway]
snapshot = false
""")
    variables = {
        "COMFYSNAP_PROJECT": str(tmp_path / "comfysnap.toml"),
        "COMFYUI_PATH": str(ROOT / "tests" / "comfyui_tree"),
    }
    with ControlPlane() as plane:
        variables["COMFYSNAP_FILES_DIR"] = str(plane.mounts / "files")
        plane.add_container_environment({**variables, "TREE_CUDA": "1"})
        plane.deploy("-m", "comfysnap_server.deploy.app", environment=variables)
        yield plane


async def start_kind(plane: ControlPlane) -> str | None:
    """Run a job; how its container had started."""
    async with Client(plane.function("gateway").web_url, timeout=60) as client:
        job = await client.infer_async(HelloInput(width=16, height=16))
        assert (await job.result()).images
        return (await job.status()).timings.start_kind


@pytest.mark.parametrize("plane", ["off"], indirect=True)
async def test_without_snapshots_each_container_loads_for_itself(plane: ControlPlane) -> None:
    assert await start_kind(plane) == "cold"


@pytest.mark.parametrize("plane", ["gpu"], indirect=True)
async def test_a_gpu_snapshot_is_restored_and_does_without_when_that_fails(
    plane: ControlPlane,
) -> None:
    (frozen,) = plane.freeze(WORKER, 1)
    assert await start_kind(plane) == "restored"
    assert frozen.served == 1
    while frozen.running:  # noqa: ASYNC110 -- another process; a lost input comes again
        await asyncio.sleep(0.05)
    plane.scale_to_zero(WORKER)
    (frozen,) = plane.freeze(WORKER, 1)
    plane.fail_restores(WORKER)
    assert await start_kind(plane) == "cold"
    assert frozen.exit_code == 222
