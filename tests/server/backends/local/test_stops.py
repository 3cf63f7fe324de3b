"""Stops that come at a bad moment: between two steps of a job, or while the store is locked."""

import asyncio
import os
import signal
import sqlite3
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest

from comfysnap_schema.wire.jobs import JobStatus
from comfysnap_server.backends.local import LocalBackend, LocalLimits, migrations
from comfysnap_server.backends.local import backend as local
from tests.paths import ROOT
from tests.server.backends.local.conftest import StartBackend
from tests.server.backends.suite import finish, request

ENGINE = "tests.server.backends.local.engines:GatedEngine"


class Lock:
    """Keeps others from writing a store, as a backup or a shell on it does."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def take(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def release(self) -> None:
        self._connection.execute("ROLLBACK")


@pytest.fixture
def lock(data: Path) -> Generator[Lock]:
    with closing(sqlite3.connect(data / "jobs.sqlite3", isolation_level=None)) as connection:
        yield Lock(connection)


async def test_a_job_that_is_being_taken_when_the_server_stops_is_queued_again(
    start_backend: StartBackend, tmp_path: Path, lock: Lock
) -> None:
    gate = tmp_path / "gate"
    options = {"engine": ENGINE, "engine_options": {"gate": str(gate)}, "python_path": [ROOT]}
    backend: LocalBackend = await start_backend(**options)
    job = (await backend.submit(request())).job
    lock.take()
    gate.touch()
    await backend.worker_pid()
    for _ in range(5):  # the runner takes the job, and waits for the store
        await asyncio.sleep(0)
    stopping = asyncio.create_task(backend.stop())
    await asyncio.sleep(0)  # it begins, and waits for the store too
    lock.release()
    await stopping
    again: LocalBackend = await start_backend(**options)
    ended = await finish(again, await again.get("anna", job.id))
    assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 1)


async def has_worker(backend: LocalBackend) -> bool:
    try:
        async with asyncio.timeout(0):
            await backend.worker_pid()
    except TimeoutError:
        return False
    return True


async def test_a_stop_does_not_wait_for_ever_for_a_store_that_cannot_be_written(
    start_backend: StartBackend, tmp_path: Path, lock: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "BUSY_TIMEOUT_S", 3.0)
    monkeypatch.setattr(local, "_WRITE_PATIENCE_S", 0.1, raising=False)
    gate = tmp_path / "gate"
    gate.touch()
    backend: LocalBackend = await start_backend(
        engine=ENGINE,
        engine_options={"gate": str(gate)},
        python_path=[ROOT],
        limits=LocalLimits(interrupt_grace=0),
    )
    worker = await backend.worker_pid()
    gate.unlink()
    lock.take()
    os.kill(worker, signal.SIGKILL)
    accepting = asyncio.create_task(backend.submit(request()))
    async with asyncio.timeout(60):
        while await has_worker(backend):  # noqa: ASYNC110 -- the kernel sets no event
            await asyncio.sleep(0)
    lock.release()
    assert (await accepting).job.status is JobStatus.RUNNING  # and no worker to run it
    lock.take()
    async with asyncio.timeout(60):
        await backend.stop()
    lock.release()
