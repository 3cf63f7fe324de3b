"""Processes that nodes start, and processes that hang: nothing outlives its job or its server."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from comfysnap_schema.wire.jobs import JobStatus
from comfysnap_server.backends.local import LocalBackend, LocalLimits, fork_client, worker_process
from tests.paths import ROOT
from tests.server.backends.local.conftest import StartBackend
from tests.server.backends.local.test_crashes import (
    ENGINES,
    fork_server_of,
    is_alive,
    until_dead,
)
from tests.server.backends.suite import FOREVER, finish, request, run, sampling, until_sampling

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper")

SERVER = """
import asyncio, sys
from pathlib import Path
from comfysnap_server.backends.local import LocalBackend
from tests.server.backends.local.test_crashes import until_in_sampler

async def main():
    backend = LocalBackend(
        Path(sys.argv[1]), engine=sys.argv[2], engine_options={"pid_file": sys.argv[3]}
    )
    await backend.start()
    await until_in_sampler(backend)
    print(await backend.worker_pid(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def pid_file(tmp_path: Path) -> Path:
    return tmp_path / "pid"


def pid_in(file: Path) -> int:
    return int(file.read_text())


def exists(pid: int) -> bool:
    """Whether the process runs, or was not reaped."""
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("engine", ["StrayEngine", "ThreadedStrayEngine"])
@pytest.mark.parametrize("end", ["cancel", "timeout", "worker killed", "stop"])
async def test_nothing_that_a_node_started_outlives_its_job(
    start_backend: StartBackend, pid_file: Path, engine: str, end: str
) -> None:
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:{engine}",
        engine_options={"pid_file": str(pid_file)},
        python_path=[ROOT],
        limits=LocalLimits(interrupt_grace=0.2),
    )
    timeout = 3.0 if end == "timeout" else 60.0
    job = (await backend.submit(request(sampling(FOREVER), timeout=timeout))).job
    async with asyncio.timeout(60):
        while job.progress.node != "5":
            job = await backend.wait("anna", job.id, after=job.version, timeout=25)
    stray = pid_in(pid_file)
    assert is_alive(stray)
    match end:
        case "cancel":
            await backend.cancel("anna", job.id)
        case "worker killed":
            os.kill(await backend.worker_pid(), signal.SIGKILL)
        case "stop":
            await backend.stop()
        case _:
            pass
    if end != "stop":
        assert (await finish(backend, job)).is_final
    assert not is_alive(stray)
    if end != "stop":
        again = (await backend.submit(request())).job
        assert not again.is_final


async def test_an_orphan_that_ends_by_itself_is_reaped_while_its_worker_lives(
    start_backend: StartBackend, pid_file: Path
) -> None:
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:ShortStrayEngine",
        engine_options={"pid_file": str(pid_file)},
        python_path=[ROOT],
    )
    assert (await run(backend, request())).status is JobStatus.SUCCEEDED
    worker = await backend.worker_pid()
    orphan = pid_in(pid_file)
    async with asyncio.timeout(60):
        while exists(orphan):  # noqa: ASYNC110 -- the kernel sets no event
            await asyncio.sleep(0.01)
    assert await backend.worker_pid() == worker


@pytest.mark.parametrize("engine", ["StrayEngine", "ThreadedStrayEngine"])
async def test_nothing_outlives_a_killed_server(
    start_backend: StartBackend, data: Path, pid_file: Path, engine: str
) -> None:
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, str(data), f"{ENGINES}:{engine}", str(pid_file),
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout is not None
    async with asyncio.timeout(60):
        worker = int(await server.stdout.readline())
    stray, parent = pid_in(pid_file), fork_server_of(worker)
    server.kill()
    await server.wait()
    await start_backend()  # waits for what the killed one left
    assert [pid for pid in (worker, parent, stray) if is_alive(pid)] == []


async def test_a_fork_server_that_hangs_is_replaced(
    start_backend: StartBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend: LocalBackend = await start_backend()
    await run(backend, request())
    worker = await backend.worker_pid()
    monkeypatch.setattr(fork_client, "FORK_PATIENCE_S", 1.0)
    parent = fork_server_of(worker)
    os.kill(parent, signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    async with asyncio.timeout(60):
        job = await run(backend, request())
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)
    await until_dead(parent)
    assert await backend.ready()


async def test_a_worker_that_does_not_take_its_job_is_replaced(
    start_backend: StartBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend: LocalBackend = await start_backend()
    await run(backend, request())
    worker = await backend.worker_pid()
    monkeypatch.setattr(worker_process, "TAKE_PATIENCE_S", 1.0)
    os.kill(worker, signal.SIGSTOP)
    async with asyncio.timeout(60):
        job = await run(backend, request())
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)
    assert not is_alive(worker)


async def test_a_cancel_that_is_heeded_keeps_the_worker(backend: LocalBackend) -> None:
    job = (await backend.submit(request(sampling(FOREVER)))).job
    await until_sampling(backend, job)
    worker = await backend.worker_pid()
    await backend.cancel("anna", job.id)
    assert (await finish(backend, job)).status is JobStatus.CANCELLED
    assert await backend.worker_pid() == worker
