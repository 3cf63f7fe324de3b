"""Measures starts of a deployment: one job after the other, each with a container of its own."""

# modal's stubs leave some types of its objects unknown
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import modal
from modal.config import config
from pydantic import JsonValue

from comfysnap_schema.comfy import graph_hash
from comfysnap_schema.wire import ErrorCode
from comfysnap_schema.workflow import Workflow
from comfysnap_server.backends.modal import JobHistory, ModalBackend
from comfysnap_server.deploy import (
    BASELINE_VARIABLE,
    PROJECT_VARIABLE,
    Deployment,
    Rate,
    worker_rate,
)
from comfysnap_server.errors import BackendError
from comfysnap_server.gateway import new_job_id
from comfysnap_server.jobs import JobRequest
from comfysnap_server.operations.deployed import (
    DeployedApp,
    delete_objects,
    find_deployed,
    object_names,
)
from comfysnap_server.operations.starts import Sample, median_job_seconds, sample_of

OWNER: Final = "comfysnap measure"
"""Of the jobs that are submitted; no API key has this owner."""
WINDOW_S: Final = 2
"""Idle seconds of containers while starts are measured; Modal's least."""
GUESSED_START_S: Final = 60.0
"""Of one start and its job, where no job of the deployment ended yet."""
MODAL_URL: Final = "https://api.modal.com"
_POLL_S: Final = 0.5


@dataclass(frozen=True)
class Estimate:
    """What the starts will cost, roughly."""

    starts: int
    seconds: float
    """Of each: the start, the job, the idle tail."""
    dollars: float | None
    """None: the price of the GPU is not known."""


def estimate(deployed: DeployedApp, pool: Deployment, starts: int) -> Estimate:
    """From the deployment's own jobs, if there are any."""
    jobs = asyncio.run(deployed.jobs.newest(20))
    known = median_job_seconds(
        job for job in jobs if job.pool == pool.pool and job.record.timings.start_kind != "warm"
    )
    seconds = (GUESSED_START_S if known is None else known) + WINDOW_S
    rate: Rate | None = worker_rate(pool)
    return Estimate(starts, seconds, rate and rate.of(starts * seconds))


def make_request(pool: Deployment, workflow: Workflow, inputs: dict[str, JsonValue]) -> JobRequest:
    """A job of a workflow; random seeds are drawn anew.

    Raises:
        SchemaError: The inputs are not valid.
    """
    complete = workflow.complete(inputs)
    return JobRequest(
        job_id=new_job_id(),
        owner=OWNER,
        workflow=workflow.name,
        inputs=complete,
        graph=workflow.build(complete),
        graph_hash=graph_hash(workflow.graph),
        outputs=dict(workflow.outputs),
        fields=dict(workflow.fields),
        drawing=workflow.drawing,
        labels={"measured": "start"},
        timeout=float(pool.settings.longest_run),
        created_at=datetime.now(UTC),
    )


async def measure_starts(
    deployed: DeployedApp,
    pool: Deployment,
    make: Callable[[], JobRequest],
    starts: int,
    on_start: Callable[[Sample], object],
) -> list[Sample]:
    """Submit jobs one by one, each when no container of the pool runs.

    The time to the first picture is taken here, from the submit until the end of the job is seen;
    the phases before are the worker's, whose clock may differ from this one.

    Raises:
        BackendError: A job did not succeed, or containers keep running.
    """
    function = deployed.function(pool.class_name)
    if function is None:
        raise modal.exception.NotFoundError(f"{pool.class_name} is not deployed")
    found: list[Sample] = []
    history = JobHistory(deployed.platform)
    async with _scaling_to_zero(function, pool), _backend(deployed) as backend:
        for _ in range(starts):
            await _until_zero(function, pool)
            request, began = make(), time.monotonic()
            await backend.submit(request)
            limit = pool.settings.startup_timeout + request.timeout
            try:
                record = await backend.wait(OWNER, request.job_id, after=None, timeout=limit)
            except asyncio.CancelledError:
                await backend.cancel(OWNER, request.job_id)  # else it costs money unseen
                raise
            passed = time.monotonic() - began
            if not record.is_final:
                record = await backend.cancel(OWNER, request.job_id)
            if record.status != "succeeded":
                detail = record.error.detail if record.error else "it did not end"
                raise BackendError(
                    ErrorCode.ENGINE_FAILED, f"job {record.id} is {record.status}: {detail}"
                )
            known = sample_of(await history.find(request.job_id))
            found.append(replace(known, seconds=known.seconds | {"to first picture": passed}))
            on_start(found[-1])
    return found


@asynccontextmanager
async def _backend(deployed: DeployedApp) -> AsyncGenerator[ModalBackend]:
    with tempfile.TemporaryDirectory(prefix="comfysnap-") as folder:
        backend = ModalBackend(deployed.platform, Path(folder))
        await backend.start()
        try:
            yield backend
        finally:
            await backend.stop()


@asynccontextmanager
async def _scaling_to_zero(function: Any, pool: Deployment) -> AsyncGenerator[None]:
    """Containers stop soon after their job meanwhile; then the settings are those of before."""
    before = await function.autoscaler.settings.aio()
    update = function.autoscaler.update.aio
    await update(min_containers=0, buffer_containers=0, scaledown_window=WINDOW_S)
    try:
        yield
    finally:
        await update(
            min_containers=before.min_containers,
            buffer_containers=before.buffer_containers,
            scaledown_window=before.scaledown_window or pool.settings.scaledown_window,
        )


async def _until_zero(function: Any, pool: Deployment) -> None:
    """Wait until no container runs: those of before still have their idle time."""
    limit = pool.settings.scaledown_window + pool.settings.longest_run
    deadline = time.monotonic() + limit
    while (await function.get_current_stats.aio()).num_total_runners:
        if time.monotonic() > deadline:
            message = f"containers of {pool.class_name} did not stop in {limit} s"
            raise BackendError(ErrorCode.UNAVAILABLE, message)
        await asyncio.sleep(_POLL_S)


@contextmanager
def baseline(deployment: Deployment) -> Generator[DeployedApp]:
    """A deployment of the same project without snapshots, beside it; deleted at the end.

    It has the same models volume, and a files volume and records of its own.
    """
    twin = deployment.without_snapshots()
    variables = {BASELINE_VARIABLE: "1", PROJECT_VARIABLE: str(deployment.file)}
    command = [sys.executable, "-m", "modal", "deploy", "-m", "comfysnap_server.deploy.app"]
    try:
        done = subprocess.run(
            command, env=os.environ | variables, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise modal.exception.ExecutionError(f"{twin.name} was not deployed:\n{done.stderr}")
        yield DeployedApp(twin)
    finally:
        left = find_deployed(twin)
        if left is not None:
            left.stop()
        delete_objects(object_names(twin), [twin.files_volume])


def server_url() -> str:
    """What Modal's client talks to: ``MODAL_URL``, unless it is a stand-in."""
    return str(config.get("server_url"))
