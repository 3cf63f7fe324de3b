"""A deployment with two pools: routing, and a redeploy that takes one of them away."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import modal
import pytest

from comfysnap_client.client import Client
from comfysnap_client.job import Job
from comfysnap_schema.wire.jobs import JobRecord, JobStatus
from comfysnap_schema.workflows.hello import HelloInput
from comfysnap_schema.workflows.sdxl import SdxlInput
from tests.control_plane import ControlPlane
from tests.paths import WORKFLOWS

pytestmark = pytest.mark.modal

SETTINGS = f"""
name = "pooled"
workflows = {str(WORKFLOWS)!r}
default = "hello"
[deploy]
engine = "simulated"
workflows = ["hello", "sdxl"]
auth = "none"
scaledown_window = 30
timeout = 60
[deploy.engine_options]
step_seconds = 0.1
"""
POOL = """
[deploy.pools.big]
workflows = ["sdxl"]
cpu = 4
memory = 32768
max_containers = 2
scaledown_window = 20
timeout = 90
"""
QUICK = HelloInput(width=16, height=16)
DRAWN = SdxlInput(prompt="a fox", steps=1)

Deploy = Callable[[str], None]


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with pytest.MonkeyPatch.context() as patch, ControlPlane() as running:
        for name, value in running.client_environment.items():
            patch.setenv(name, value)
        yield running
        modal.Client.from_env().close()


@pytest.fixture
def deploy(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Deploy:
    """Deploys the settings with these pools."""

    def work(pools: str) -> None:
        file = tmp_path_factory.mktemp("pooled") / "comfysnap.toml"
        file.write_text(SETTINGS + pools)
        variables = {
            "COMFYSNAP_PROJECT": str(file),
            "COMFYSNAP_FILES_DIR": str(plane.mounts / "files"),
        }
        plane.add_container_environment(variables)
        plane.deploy("-m", "comfysnap_server.deploy.app", environment=variables)

    return work


async def seen(job: Job[Any], ready: Callable[[JobRecord], bool]) -> JobRecord:
    """The job once it satisfies ``ready``."""
    async with asyncio.timeout(60):
        async for event in job.events():
            record = event.job or await job.status()
            if ready(record):
                return record
    raise AssertionError(f"the job ended first: {job.record}")


def is_sampling(record: JobRecord) -> bool:
    return record.status is JobStatus.RUNNING and bool(record.progress.step)


def client(plane: ControlPlane) -> Client:
    return Client(plane.function("gateway").web_url, timeout=60)


def served(plane: ControlPlane, name: str) -> int:
    return len(plane.calls(name))


async def test_each_workflow_runs_in_its_pool(plane: ControlPlane, deploy: Deploy) -> None:
    await asyncio.to_thread(deploy, POOL)
    default, big = plane.function("Worker.*"), plane.function("Worker_big.*")
    assert (big.definition.resources.milli_cpu, big.definition.resources.memory_mb) == (4000, 32768)
    assert big.definition.autoscaler_settings.max_containers == 2
    assert default.definition.timeout_secs + 30 == big.definition.timeout_secs
    assert big.definition.image_id == default.definition.image_id
    async with client(plane) as api:
        assert (await api.infer_sync(QUICK)).images
        assert (await api.infer_sync(DRAWN)).images
        job = await api.infer_async(DRAWN)
        await job.result()
    assert (served(plane, "Worker.*"), served(plane, "Worker_big.*")) == (1, 2)
    assert job.id in plane.pool("Worker_big.*").containers[0].log


async def test_a_job_is_cancelled_and_preempted_in_its_pool(
    plane: ControlPlane, deploy: Deploy
) -> None:
    await asyncio.to_thread(deploy, POOL)
    async with client(plane) as api:
        long = await api.infer_async(SdxlInput(prompt="a fox", steps=150))
        record = await seen(long, is_sampling)
        (container,) = [c for c in plane.pool("Worker_big.*").containers if c.running]
        await asyncio.to_thread(plane.preempt, container)
        await seen(long, lambda job: is_sampling(job) and job.started_at != record.started_at)
        assert len([c for c in plane.pool("Worker_big.*").containers if c.running]) == 1
        await long.cancel()
        assert (await seen(long, lambda job: job.is_final)).status is JobStatus.CANCELLED


@pytest.mark.parametrize("settings", ["", POOL.replace("pools.big", "pools.bigger")])
async def test_a_job_that_waits_in_a_pool_that_is_gone_runs_in_the_one_of_today(
    plane: ControlPlane, deploy: Deploy, settings: str
) -> None:
    await asyncio.to_thread(deploy, POOL)
    plane.hold("Worker_big.*")
    held = plane.pool("Worker_big.*")
    try:
        async with client(plane) as api:
            waiting = await api.infer_async(DRAWN)
            other = await api.infer_async(DRAWN)
            assert (await waiting.status()).status is JobStatus.QUEUED
            await asyncio.to_thread(deploy, settings)
            assert (await waiting.result()).images
            assert (await waiting.status()).attempt == 1
            # and one that nobody asks for, by the sweep
            plane.run_scheduled("sweep")
            assert (await other.result()).images
    finally:
        held.hold = False  # of a later deployment that has the pool again


async def test_a_running_job_outlives_its_pool(plane: ControlPlane, deploy: Deploy) -> None:
    await asyncio.to_thread(deploy, POOL)
    async with client(plane) as api:
        job = await api.infer_async(SdxlInput(prompt="a fox", steps=60))
        await seen(job, is_sampling)
        await asyncio.to_thread(deploy, "")
        assert (await job.result()).images
        assert (await job.status()).attempt == 1


async def test_a_job_may_run_as_long_as_its_pool_allows(
    plane: ControlPlane, deploy: Deploy
) -> None:
    await asyncio.to_thread(deploy, POOL)
    async with httpx.AsyncClient(base_url=plane.function("gateway").web_url, timeout=60) as http:
        for workflow, longest in {"hello": 60.0, "sdxl": 90.0}.items():
            body = {} if workflow == "hello" else {"prompt": "a fox", "steps": 1}
            job = (await http.post(f"/infer_sync/{workflow}?timeout=600", json=body)).json()
            assert job["status"] == "succeeded"
            records = plane.stores.dicts[plane.state.named["di", "pooled-jobs"]]
            (request,) = [v for k, v in records.items() if f"{job['id']}:request".encode() in k]
            assert f'"timeout":{longest}'.encode() in request
