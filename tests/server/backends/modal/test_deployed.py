"""The deployment end to end: client, gateway container, GPU container, files."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from PIL import Image

from comfysnap_client.client import Client
from comfysnap_client.errors import (
    JobCancelled,
    JobFailed,
    JobTimedOut,
    OutputExpired,
)
from comfysnap_client.job import Job
from comfysnap_schema.wire.jobs import JobRecord, JobStatus
from comfysnap_schema.workflows.hello import HelloInput
from comfysnap_schema.workflows.img2img import Img2imgInput
from comfysnap_schema.workflows.sdxl import SdxlInput
from comfysnap_server.backends.modal.backend import ModalBackend
from comfysnap_server.backends.modal.reporting import ENDED_KEPT_S
from comfysnap_server.backends.modal.shared_files import output_folder
from tests.control_plane import Container, ControlPlane

pytestmark = pytest.mark.modal

WORKER = "Worker.*"
GATEWAY = "gateway"
QUICK = HelloInput(color=0x00FF00, width=32, height=16)
LONG = SdxlInput(prompt="a fox", steps=150)  # ended before it ends by itself
MEDIUM = SdxlInput(prompt="a fox", steps=40)


@pytest.fixture
async def client(deployed: ControlPlane) -> AsyncIterator[Client]:
    key, secret = deployed.web.key
    url = deployed.function(GATEWAY).web_url
    async with Client(url, modal_key=key, modal_secret=secret, timeout=60) as client:
        yield client


@pytest.fixture
async def http(deployed: ControlPlane) -> AsyncIterator[httpx.AsyncClient]:
    key, secret = deployed.web.key
    headers = {"Modal-Key": key, "Modal-Secret": secret}
    url = deployed.function(GATEWAY).web_url
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
        yield client


async def seen(job: Job[Any], ready: Callable[[JobRecord], bool]) -> JobRecord:
    """The job once it satisfies ``ready``."""
    async with asyncio.timeout(60):
        async for event in job.events():
            record = event.job or await job.status()
            if ready(record):
                return record
    raise AssertionError(f"the job ended first: {job.record}")


def is_sampling(record: JobRecord) -> bool:
    return record.status is JobStatus.RUNNING and (record.progress.step or 0) > 0


def busy(plane: ControlPlane) -> Container:
    """The one GPU container that runs something."""
    (found,) = [c for c in plane.pool(WORKER).containers if c.running]
    return found


async def test_a_job_runs_in_a_restored_container_and_its_file_comes_back(
    deployed: ControlPlane, client: Client
) -> None:
    deployed.scale_to_zero(WORKER)
    (frozen,) = deployed.freeze(WORKER, 1)
    job = await client.infer_async(QUICK)
    output = await job.result()
    (image,) = output.images
    with Image.open(io.BytesIO(await image.read())) as picture:
        assert picture.size == (32, 16)
    assert frozen.served == 1
    record = await job.status()
    assert record.timings.start_kind == "restored"
    assert record.timings.load is not None
    assert record.attempt == 1
    await client.infer_sync(QUICK)
    again = await client.infer_async(QUICK)
    await again.result()
    assert (await again.status()).timings.start_kind == "warm"


async def test_the_start_that_makes_the_snapshot_is_a_cold_one(
    deployed: ControlPlane, client: Client
) -> None:
    deployed.scale_to_zero(WORKER)
    job = await client.infer_async(QUICK)
    await job.result()
    assert (await job.status()).timings.start_kind == "cold"


async def test_logs_tell_of_jobs_and_of_no_prompt(deployed: ControlPlane, client: Client) -> None:
    deployed.scale_to_zero(WORKER)
    job = await client.infer_async(SdxlInput(prompt="a secret fox", steps=1))
    await job.result()
    (worker,) = [c for c in deployed.pool(WORKER).live if job.id in c.log]
    (start,) = [line for line in worker.log.splitlines() if "worker started" in line]
    assert "load" in start
    lines = [line for line in worker.log.splitlines() if job.id in line]
    assert "job started" in lines[0]
    assert "job ended" in lines[-1]
    assert "workflow=sdxl" in lines[-1]
    assert "status=succeeded" in lines[-1]
    assert "secret fox" not in deployed.logs()
    assert "gateway started" in deployed.logs()


async def test_a_container_that_stops_leaves_no_thread_behind(
    deployed: ControlPlane, client: Client, redeploy: Callable[[], None]
) -> None:
    await client.infer_sync(QUICK)
    old = deployed.pool(WORKER).live
    await asyncio.to_thread(redeploy)
    await client.infer_sync(QUICK)  # and with it the idle ones of the version before stop
    async with asyncio.timeout(60):
        for container in old:
            while container.exit_code is None:  # noqa: ASYNC110 -- another process
                await asyncio.sleep(0.1)
    assert all(container.exit_code == 0 for container in old)
    assert "background thread" not in deployed.logs()


async def test_the_progress_of_an_ended_job_is_not_kept_long(
    deployed: ControlPlane, client: Client
) -> None:
    job = await client.infer_async(QUICK)
    await job.result()
    queue = deployed.stores.queues[deployed.state.named["qu", "snap-progress"]]
    assert queue[job.id.encode()].ttl == ENDED_KEPT_S


async def test_shared_objects_are_looked_up_at_once_after_a_restore(
    deployed: ControlPlane, client: Client
) -> None:
    deployed.scale_to_zero(WORKER)
    deployed.freeze(WORKER, 1)
    before = lookups(deployed)
    slow = deployed.faults.plan("*GetOrCreate", caller="Worker*", delay=3)
    job = await client.infer_async(QUICK)
    await job.result()
    deployed.faults.clear()
    assert slow.applied == lookups(deployed) - before
    assert slow.applied >= 5
    queue, start = (await job.status()).timings.queue, (await job.status()).timings.start
    assert (queue or 0) + (start or 0) < 12  # one after the other they take 15 s


def lookups(plane: ControlPlane) -> int:
    """How often workers looked up a shared object."""
    seen = plane.faults.seen
    return sum(
        n for (caller, rpc), n in seen.items() if caller == WORKER and rpc.endswith("GetOrCreate")
    )


async def test_progress_arrives_while_the_job_runs(client: Client) -> None:
    job = await client.infer_async(MEDIUM)
    events = [event async for event in job.events()]
    fractions = [event.progress.fraction for event in events if event.progress]
    assert len({round(fraction, 3) for fraction in fractions}) >= 2  # quick ones come as one
    assert fractions == sorted(fractions)
    assert events[-1].type == "done"
    statuses = [event.job.status for event in events if event.job]
    assert statuses[-1] is JobStatus.SUCCEEDED
    assert JobStatus.RUNNING in statuses


async def test_a_queued_job_that_is_cancelled_never_starts(
    deployed: ControlPlane, client: Client
) -> None:
    deployed.hold(WORKER)
    served = sum(c.served for c in deployed.pool(WORKER).containers)
    try:
        job = await client.infer_async(QUICK)
        assert (await job.cancel()).status is JobStatus.CANCELLED
    finally:
        deployed.hold(WORKER, held=False)
    with pytest.raises(JobCancelled):
        await job.result()
    assert (await job.status()).attempt == 0
    assert sum(c.served for c in deployed.pool(WORKER).containers) == served


async def test_cancelling_a_running_job_stops_it_and_keeps_the_container(
    deployed: ControlPlane, client: Client
) -> None:
    job = await client.infer_async(LONG)
    await seen(job, is_sampling)
    container = busy(deployed)
    asked = await job.cancel()
    assert asked.cancel_requested_at is not None
    with pytest.raises(JobCancelled):
        await job.result()
    record = await job.status()
    assert record.status is JobStatus.CANCELLED
    assert record.timings.run is not None
    assert record.progress.fraction < 1
    served = container.served
    await client.infer_sync(QUICK)
    assert container.alive
    assert sum(c.served for c in deployed.pool(WORKER).live) > served


async def test_cancelling_twice_or_a_finished_job_changes_nothing(client: Client) -> None:
    job = await client.infer_async(QUICK)
    await job.result()
    before = await job.status()
    assert await job.cancel() == before
    assert await job.cancel() == before


async def test_a_job_whose_container_is_killed_is_lost_and_says_so(
    deployed: ControlPlane, client: Client
) -> None:
    job = await client.infer_async(LONG)
    await seen(job, is_sampling)
    deployed.kill(busy(deployed))
    with pytest.raises(JobFailed) as caught:
        await job.result()
    assert caught.value.code == "worker_lost"
    assert (await job.status()).attempt == 1


async def test_a_preempted_job_runs_again_and_was_cancelled_by_nobody(
    deployed: ControlPlane, client: Client
) -> None:
    job = await client.infer_async(MEDIUM)
    await seen(job, is_sampling)
    first = busy(deployed)
    await asyncio.to_thread(deployed.preempt, first)
    assert (await job.result()).images
    record = await job.status()
    assert record.attempt == 1
    assert record.cancel_requested_at is None
    assert not first.alive


async def test_a_restore_that_fails_costs_a_cold_start_and_no_job(
    deployed: ControlPlane, client: Client
) -> None:
    deployed.scale_to_zero(WORKER)
    deployed.freeze(WORKER, 1)
    deployed.fail_restores(WORKER)
    job = await client.infer_async(QUICK)
    await job.result()
    assert (await job.status()).timings.start_kind == "cold"


async def test_fifty_jobs_run_on_at_most_four_containers(
    deployed: ControlPlane, client: Client
) -> None:
    inputs = [HelloInput(color=n, width=16, height=16) for n in range(50)]
    jobs = await asyncio.gather(*(client.infer_async(one) for one in inputs))
    outputs = await asyncio.gather(*(job.result() for job in jobs))
    assert len(deployed.pool(WORKER).live) <= 4
    colors: set[int] = set()
    for output in outputs[::7]:
        with Image.open(io.BytesIO(await output.images[0].read())) as picture:
            colors.add(int.from_bytes(picture.convert("RGB").tobytes()[:3]))
    assert colors == set(range(0, 50, 7))
    assert len({job.id for job in jobs}) == 50


async def test_a_job_over_its_timeout_is_told_apart(
    client: Client, http: httpx.AsyncClient
) -> None:
    answer = await http.post(
        "/infer_async/sdxl", params={"timeout": 0.5}, json={"prompt": "a slow fox", "steps": 150}
    )
    with pytest.raises(JobTimedOut):
        await client.job(answer.json()["id"]).result()


async def test_an_uploaded_file_reaches_the_gpu_container(client: Client) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((400, 400), 60).save(buffer, "PNG")
    assert len(buffer.getvalue()) > 100_000
    output = await client.infer_sync(Img2imgInput(image=buffer.getvalue(), prompt="x", steps=1))
    assert output.image.size


async def test_an_answer_that_takes_too_long_is_followed_to_its_result(
    deployed: ControlPlane, client: Client
) -> None:
    deployed.web.redirect_after = 0.5
    try:
        output = await client.infer_sync(MEDIUM)
    finally:
        deployed.web.redirect_after = 150.0
    assert output.images


async def test_an_output_answers_ranges_and_is_gone_when_its_file_is(
    deployed: ControlPlane, client: Client, http: httpx.AsyncClient
) -> None:
    job = await client.infer_async(QUICK)
    (image,) = (await job.result()).images
    whole = await http.get(image.url)
    part = await http.get(image.url, headers={"Range": "bytes=1-3"})
    assert part.status_code == 206
    assert part.content == whole.content[1:4]
    assert whole.headers["etag"] == part.headers["etag"]
    volume = deployed.volumes.committed(deployed.state.named["vo", "snap-files"])
    (volume / output_folder(job.id) / image.name).unlink()
    deployed.scale_to_zero(GATEWAY)  # with the copy on its disk
    with pytest.raises(OutputExpired):
        await image.read()
    assert (await job.status()).status is JobStatus.SUCCEEDED


async def test_a_key_makes_one_job_whichever_gateway_container_answers(
    deployed: ControlPlane, http: httpx.AsyncClient
) -> None:
    async def submit(color: int) -> httpx.Response:
        return await http.post(
            "/infer_async/hello", json={"color": color}, headers={"Idempotency-Key": "once"}
        )

    first = await submit(1)
    deployed.scale_to_zero(GATEWAY)
    second = await submit(1)
    other = await submit(2)
    assert first.json()["id"] == second.json()["id"]
    assert second.headers["Idempotency-Replayed"] == "true"
    assert other.status_code == 422
    assert other.json()["code"] == "idempotency_mismatch"


async def test_two_gateways_tell_the_same_of_a_job_and_either_may_cancel_it(
    client: Client, backend: ModalBackend
) -> None:
    job = await client.infer_async(LONG)
    await seen(job, is_sampling)
    await backend.cancel("proxy", job.id)
    with pytest.raises(JobCancelled):
        await job.result()
    assert await backend.get("proxy", job.id) == await job.status()


async def test_a_job_goes_on_through_a_redeploy(
    deployed: ControlPlane, client: Client, redeploy: Callable[[], None]
) -> None:
    job = await client.infer_async(LONG)
    await seen(job, is_sampling)
    old = busy(deployed)
    await asyncio.to_thread(redeploy)
    assert (await job.result()).images
    await client.infer_sync(QUICK)
    assert all(c.version > old.version for c in deployed.pool(WORKER).live)


async def test_a_job_whose_result_is_gone_is_failed(deployed: ControlPlane, client: Client) -> None:
    deployed.hold(WORKER)
    try:
        job = await client.infer_async(QUICK)
        deployed.expire(deployed.calls(WORKER)[-1])
        record = await job.status()
    finally:
        deployed.hold(WORKER, held=False)
    assert record.status is JobStatus.FAILED
    assert record.error is not None
    assert record.error.code == "worker_lost"


async def test_jobs_are_listed_newest_first(client: Client, http: httpx.AsyncClient) -> None:
    answers = [
        await http.post("/infer_async/hello", params={"label": "set:listed"}, json={"color": n})
        for n in range(3)
    ]
    ids = [answer.json()["id"] for answer in answers]
    for job_id in ids:
        await client.job(job_id).wait()
    page = (await http.get("/jobs", params={"label": "set:listed", "limit": 2})).json()
    assert [job["id"] for job in page["jobs"]] == ids[:0:-1]
    rest = await http.get(
        "/jobs", params={"label": "set:listed", "limit": 2, "cursor": page["cursor"]}
    )
    assert [job["id"] for job in rest.json()["jobs"]] == ids[:1]
    assert rest.json()["cursor"] is None
    none = await http.get("/jobs", params={"label": "set:listed", "status": "failed"})
    assert none.json()["jobs"] == []


async def test_without_the_proxy_pair_nothing_is_answered(deployed: ControlPlane) -> None:
    async with httpx.AsyncClient(base_url=deployed.function(GATEWAY).web_url) as client:
        assert (await client.get("/workflows")).status_code == 401
