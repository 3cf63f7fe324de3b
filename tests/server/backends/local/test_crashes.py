"""Processes that die at the worst moment: nothing is lost, nothing runs twice."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_schema.wire.files import Kind
from comfysnap_schema.wire.jobs import JobStatus
from comfysnap_schema.workflow.map import OutputSpec
from comfysnap_server.backends.local import LocalBackend, LocalLimits
from comfysnap_server.backends.protocol import Backend
from tests.paths import ROOT
from tests.server.backends.local.conftest import StartBackend
from tests.server.backends.suite import FOREVER, finish, request, run, sampling, until_sampling

ENGINES = "tests.server.backends.local.engines"


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def fork_server_of(worker: int) -> int:
    """The process that a worker was forked from: the parent of its keeper."""
    return parent_of(parent_of(worker))


async def until_dead(*pids: int) -> None:
    """Processes that are not our children can only be looked at."""
    async with asyncio.timeout(60):
        while any(is_alive(pid) for pid in pids):  # noqa: ASYNC110 -- the kernel sets no event
            await asyncio.sleep(0.005)


async def test_a_worker_killed_in_a_job_fails_that_job_and_the_next_one_runs(
    start_backend: StartBackend,
) -> None:
    backend: LocalBackend = await start_backend()
    lost = (await backend.submit(request(sampling(FOREVER)))).job
    following = (await backend.submit(request())).job
    await until_sampling(backend, lost)
    os.kill(await backend.worker_pid(), signal.SIGKILL)
    ended = await finish(backend, lost)
    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert ended.error.code is ErrorCode.WORKER_LOST
    assert (await finish(backend, following)).status is JobStatus.SUCCEEDED


async def test_a_worker_that_dies_while_idle_is_replaced(backend: LocalBackend) -> None:
    await run(backend, request())
    first = await backend.worker_pid()
    os.kill(first, signal.SIGKILL)
    await until_dead(first)
    job = await run(backend, request())
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)
    assert await backend.worker_pid() != first


async def test_a_lost_job_runs_again_while_attempts_are_left(
    start_backend: StartBackend, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    backend = await start_backend(
        engine=f"{ENGINES}:CrashingEngine",
        engine_options={"log": str(log), "times": 2},
        python_path=[ROOT],
    )
    job = await run(backend, request(max_attempts=3))
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 3)
    assert len(log.read_text().splitlines()) == 3


async def test_a_job_whose_workers_keep_dying_fails_after_its_last_attempt(
    start_backend: StartBackend, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    backend = await start_backend(
        engine=f"{ENGINES}:CrashingEngine",
        engine_options={"log": str(log), "times": 99},
        python_path=[ROOT],
    )
    job = await run(backend, request(max_attempts=2))
    assert job.error is not None
    assert (job.error.code, job.attempt) == (ErrorCode.WORKER_LOST, 2)
    assert len(log.read_text().splitlines()) == 2


async def test_the_death_of_the_warm_parent_costs_one_job_at_most(
    start_backend: StartBackend,
) -> None:
    backend: LocalBackend = await start_backend()
    lost = (await backend.submit(request(sampling(FOREVER)))).job
    following = (await backend.submit(request())).job
    await until_sampling(backend, lost)
    worker = await backend.worker_pid()
    os.kill(fork_server_of(worker), signal.SIGKILL)
    await until_dead(worker)
    ended = await finish(backend, lost)
    assert ended.error is not None
    assert ended.error.code is ErrorCode.WORKER_LOST
    assert (await finish(backend, following)).status is JobStatus.SUCCEEDED


async def test_a_killed_server_forgets_nothing_and_nothing_runs_twice(
    start_backend: StartBackend, data: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.server.backends.local.server_process", str(data), str(log),
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout is not None
    async with asyncio.timeout(60):
        ids: dict[str, Any] = json.loads(await server.stdout.readline())
    server.kill()
    await server.wait()
    backend = await start_backend(
        engine=f"{ENGINES}:LoggingEngine",
        engine_options={"log": str(log), "step_seconds": 0.001},
        python_path=[ROOT],
    )
    assert not is_alive(ids["worker"])
    for job_id in ids["finished"]:
        job = await backend.get("anna", job_id)
        assert job.status is JobStatus.SUCCEEDED
        file = await backend.open_output("anna", job_id, job.outputs["image"]["name"])
        assert file.path.stat().st_size == file.size
    lost = await backend.get("anna", ids["running"])
    assert lost.error is not None
    assert (lost.status, lost.error.code) == (JobStatus.FAILED, ErrorCode.WORKER_LOST)
    for job_id in ids["queued"]:
        job = await finish(backend, await backend.get("anna", job_id))
        assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)
    runs = Counter(log.read_text().split())
    everything = [*ids["finished"], ids["running"], *ids["queued"]]
    assert runs == Counter(everything)
    assert list(runs) == everything


async def test_an_end_that_cannot_be_told_fails_the_job(start_backend: StartBackend) -> None:
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:UnspeakableEngine",
        engine_options={"step_seconds": 0},
        python_path=[ROOT],
    )
    told = {"image": OutputSpec(node="9", kind=Kind.JSON)}
    ended = await run(backend, request(outputs=told, timeout=30))
    assert ended.error is not None
    assert (ended.status, ended.error.code) == (JobStatus.FAILED, ErrorCode.ENGINE_FAILED)


async def test_progress_that_cannot_be_written_does_not_end_the_runner(
    start_backend: StartBackend,
) -> None:
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:MumblingEngine", engine_options={"step_seconds": 0}, python_path=[ROOT]
    )
    for _ in range(2):
        async with asyncio.timeout(60):
            assert (await run(backend, request())).is_final


async def test_a_queued_job_is_newer_after_a_restart_than_any_version_told_before(
    start_backend: StartBackend, data: Path, tmp_path: Path
) -> None:
    first: LocalBackend = await start_backend()
    running = (await first.submit(request(sampling(FOREVER)))).job
    ahead = (await first.submit(request(sampling(FOREVER)))).job
    behind = (await first.submit(request())).job
    await until_sampling(first, running)
    await first.cancel("anna", running.id)
    async with asyncio.timeout(60):  # until told of its new place, which is kept in memory only
        behind = await first.wait("anna", behind.id, after=behind.version, timeout=25)
    assert behind.status is JobStatus.QUEUED
    copied = tmp_path / "copy"
    await asyncio.to_thread(copy_store, data, copied)
    second = LocalBackend(copied, engine_options={"step_seconds": 0})
    await second.start()
    try:
        assert (await second.get("anna", behind.id)).version > behind.version
    finally:
        await second.stop()
    await first.cancel("anna", ahead.id)


async def test_a_job_that_ran_when_the_server_was_killed_runs_again_if_attempts_are_left(
    start_backend: StartBackend, data: Path, tmp_path: Path
) -> None:
    first: LocalBackend = await start_backend()
    job = (await first.submit(request(sampling(FOREVER), max_attempts=2))).job
    seen = await until_sampling(first, job)
    copied = tmp_path / "copy"
    await asyncio.to_thread(copy_store, data, copied)
    second = LocalBackend(copied, engine_options={"step_seconds": 0})
    await second.start()
    try:
        ended = await finish(second, await second.get("anna", job.id))
    finally:
        await second.stop()
    assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 2)
    assert ended.version > seen.version


def copy_store(data: Path, target: Path) -> None:
    """What a kill at this moment would leave."""
    target.mkdir()
    for path in data.glob("jobs.sqlite3*"):
        (target / path.name).write_bytes(path.read_bytes())


async def test_a_clean_stop_queues_the_running_job_again_without_counting_it(
    start_backend: StartBackend,
) -> None:
    first: LocalBackend = await start_backend(engine_options={"step_seconds": 0.01})
    running = (await first.submit(request(sampling(FOREVER)))).job
    waiting = (await first.submit(request())).job
    await until_sampling(first, running)
    await first.stop()
    second = await start_backend(engine_options={"step_seconds": 0})
    for job in (running, waiting):
        ended = await finish(second, await second.get("anna", job.id))
        assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 1)


async def test_a_second_server_on_the_same_folder_is_refused(
    start_backend: StartBackend, backend: Backend
) -> None:
    with pytest.raises(Exception, match=str(os.getpid())) as caught:
        await start_backend()
    assert getattr(caught.value, "code", None) is ErrorCode.UNAVAILABLE
    assert (await run(backend, request())).status is JobStatus.SUCCEEDED


async def test_a_stopped_server_leaves_no_process(start_backend: StartBackend) -> None:
    backend: LocalBackend = await start_backend()
    running = (await backend.submit(request(sampling(FOREVER)))).job
    await until_sampling(backend, running)
    worker = await backend.worker_pid()
    parent = fork_server_of(worker)
    await backend.stop()
    assert not is_alive(worker)
    assert not is_alive(parent)


async def test_what_a_node_started_ends_with_its_worker(
    start_backend: StartBackend, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pid_file = tmp_path / "pid"
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:PrintingEngine",
        engine_options={"pid_file": str(pid_file)},
        python_path=[ROOT],
        limits=LocalLimits(interrupt_grace=0.0),
    )
    job = await until_in_sampler(backend)
    await backend.cancel("anna", job)
    started = int(pid_file.read_text())
    await backend.wait("anna", job, after=None, timeout=60)
    await until_dead(started)
    assert capfd.readouterr().out == ""


async def until_in_sampler(backend: LocalBackend) -> str:
    job = (await backend.submit(request(sampling(FOREVER)))).job
    async with asyncio.timeout(60):
        while job.progress.node != "5":
            job = await backend.wait("anna", job.id, after=job.version, timeout=25)
    return job.id
