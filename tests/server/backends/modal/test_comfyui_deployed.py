"""The deployment with the ComfyUI engine: on the trees of our own, and on a real ComfyUI."""

import asyncio
import io
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from comfysnap_client.client import Client
from comfysnap_client.errors import JobCancelled, JobFailed
from comfysnap_schema.base import WorkflowInput, WorkflowOutput
from comfysnap_schema.comfy.graph import canonical_json
from comfysnap_schema.wire.jobs import JobRecord
from comfysnap_schema.workflows.hello import HelloInput
from tests.control_plane import ControlPlane
from tests.paths import ROOT
from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import REAL, checkpoints, real_comfyui
from tests.server.engine.comfyui.trees import LATEST, RELEASES, build_tree

pytestmark = pytest.mark.modal

WORKER = "Worker.*"
SOURCES = os.pathsep.join(str(ROOT / "packages" / name / "src") for name in ("schema", "server"))

DRAW = """
name = "draw"
title = "Many steps"

[inputs.steps]
path = "3.inputs.steps"
minimum = 1
maximum = 9000

[outputs.images]
node = "9"
kind = "image"
many = true
"""


class DrawOutput(WorkflowOutput):
    pass


class DrawInput(WorkflowInput[DrawOutput]):
    __workflow__ = "draw"
    __contract__ = ""
    steps: int


LONG = DrawInput(steps=9000)
HAS_PAGE_MAP = Path("/proc/self/pagemap").exists()


@dataclass
class Deployment:
    plane: ControlPlane
    url: str


on_every_release = pytest.mark.parametrize("deployment", [*RELEASES, REAL], indirect=True)
on_one_release = pytest.mark.parametrize("deployment", [LATEST, REAL], indirect=True)


@pytest.fixture(scope="module")
def deployment(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """A control plane of its own with the engine deployed on it."""
    kind: str = request.param
    folder = tmp_path_factory.mktemp(kind)
    if kind == "real":
        python, path = real_comfyui()
    else:
        python, path = sys.executable, build_tree(kind, folder / "ComfyUI")
    shutil.copytree(ROOT / "workflows" / "hello", folder / "workflows" / "hello")
    draw = folder / "workflows" / "draw"
    draw.mkdir()
    (draw / "graph.json").write_bytes(canonical_json(graphs.diffusion()))
    (draw / "workflow.toml").write_text(DRAW)
    models = folder / "models.yaml"
    models.write_text(f"test:\n  checkpoints: {checkpoints(kind, folder)}\n")
    (folder / "comfysnap.toml").write_text(f"""
name = "comfy"
[deploy]
auth = "none"
snapshot = "cpu"
gpu = ["L40S", "A100"]
max_containers = 2
scaledown_window = 60
timeout = 100
[deploy.engine_options]
extra_model_paths = [{str(models)!r}]
custom_nodes = false
device = "cpu"
read_ahead_libraries = "on"
""")
    with ControlPlane() as plane:
        variables = {
            "COMFYSNAP_PROJECT": str(folder / "comfysnap.toml"),
            "COMFYSNAP_FILES_DIR": str(plane.mounts / "files"),
            "COMFYUI_PATH": str(path),
        }
        plane.add_container_environment({**variables, "PYTHONPATH": SOURCES})
        plane.use_python(WORKER, python)
        plane.deploy("-m", "comfysnap_server.deploy.app", environment=variables)
        yield Deployment(plane, plane.function("gateway").web_url)


@pytest.fixture
async def client(deployment: Deployment) -> AsyncIterator[Client]:
    async with Client(deployment.url, timeout=100) as client:
        yield client


async def sampling(client: Client, job_id: str) -> JobRecord:
    """The job once its sampler has made a step."""
    async with asyncio.timeout(60):
        async for event in client.job(job_id).events():
            record = await client.check_status(job_id)
            if event.progress and record.progress.step:
                return record
    raise AssertionError("the job ended first")


@on_every_release
async def test_comfyui_runs_in_a_restored_container(deployment: Deployment, client: Client) -> None:
    (frozen,) = deployment.plane.freeze(WORKER, 1)
    job = await client.infer_async(HelloInput(color=0xFF0000, width=32, height=16))
    (image,) = (await job.result()).images
    with Image.open(io.BytesIO(await image.read())) as picture:
        assert picture.size == (32, 16)
        assert picture.convert("RGB").tobytes()[:3] == b"\xff\x00\x00"
    assert frozen.served == 1
    record = await job.status()
    assert record.timings.start_kind == "restored"
    assert set(record.timings.nodes) == {"1", "2", "3"}
    if HAS_PAGE_MAP:  # the search for library pages forked beside the threads of Modal's client
        assert "MiB of libraries" in deployment.plane.logs()


@on_one_release
async def test_a_running_comfyui_job_tells_progress_and_stops(
    deployment: Deployment, client: Client
) -> None:
    job = await client.infer_async(LONG)
    record = await sampling(client, job.id)
    assert record.progress.node_class == "KSampler"
    assert record.progress.steps == 9000
    (container,) = [c for c in deployment.plane.pool(WORKER).containers if c.running]
    await job.cancel()
    with pytest.raises(JobCancelled):
        await job.result()
    assert container.alive
    await client.infer_sync(HelloInput())


@on_one_release
async def test_a_killed_comfyui_container_loses_its_job_alone(
    deployment: Deployment, client: Client
) -> None:
    job = await client.infer_async(LONG)
    await sampling(client, job.id)
    (container,) = [c for c in deployment.plane.pool(WORKER).containers if c.running]
    deployment.plane.kill(container)
    with pytest.raises(JobFailed) as caught:
        await job.result()
    assert caught.value.code == "worker_lost"
    await client.infer_sync(HelloInput())


@on_one_release
async def test_comfyui_boots_where_a_restore_fails(deployment: Deployment, client: Client) -> None:
    deployment.plane.scale_to_zero(WORKER)
    deployment.plane.freeze(WORKER, 1)
    deployment.plane.fail_restores(WORKER)
    job = await client.infer_async(HelloInput())
    await job.result()
    assert (await job.status()).timings.start_kind == "cold"
