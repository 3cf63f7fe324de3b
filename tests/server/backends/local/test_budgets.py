"""What one owner, and all of them, may have on this machine; and what is forgotten when."""

import asyncio
import gc
import hashlib
import os
import shutil
import sqlite3
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_schema.wire.files import FileBySha256
from comfysnap_schema.wire.jobs import JobRecord, JobStatus
from comfysnap_server.backends.local import DATABASE, LocalBackend, LocalLimits, store
from comfysnap_server.backends.local.migrations import open_database
from comfysnap_server.backends.local.sweep import Sweeper
from comfysnap_server.backends.local.uploads import Uploads
from comfysnap_server.backends.protocol import NO_BUDGET, OwnerBudget, PurgeRequest
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs import FileStore
from tests.server.backends.local.conftest import StartBackend
from tests.server.backends.suite import (
    FOREVER,
    finish,
    once,
    request,
    run,
    sampling,
    until_sampling,
)

MIB = 1024 * 1024


def rows(data: Path, table: str = "jobs") -> int:
    connection = sqlite3.connect(data / "jobs.sqlite3")
    (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 -- ours
    connection.close()
    return count


def large(size: int = MIB, **options: Any) -> Any:
    return request(inputs={"prompt": "x" * size}, **options)


async def busy(backend: LocalBackend) -> JobRecord:
    """Keep the worker busy, so that the next jobs wait."""
    return await until_sampling(backend, (await backend.submit(request(sampling(FOREVER)))).job)


async def put(backend: LocalBackend, content: bytes, owner: str = "anna") -> None:
    await backend.put_file(owner, hashlib.sha256(content).hexdigest(), once(content))


def age(data: Path, *, besides: str) -> None:
    """Make uploads old."""
    for path in data.glob("files/*/*/*"):
        if path.name != besides:
            os.utime(path, (0, 0))


def free_pages(data: Path) -> int:
    connection = sqlite3.connect(data / "jobs.sqlite3")
    (count,) = connection.execute("PRAGMA freelist_count").fetchone()
    connection.close()
    return count


async def refusal(refused: Any) -> BackendError:
    with pytest.raises(BackendError) as caught:
        await refused
    return caught.value


async def test_an_owner_s_unfinished_jobs_hold_bounded_bytes(start_backend: StartBackend) -> None:
    limits = LocalLimits(max_queued_bytes_per_owner=6 * MIB, max_queued_bytes=9 * MIB)
    backend: LocalBackend = await start_backend(limits=limits)
    running = await busy(backend)
    await backend.submit(large())
    queued = (await backend.submit(large())).job
    error = await refusal(backend.submit(large(2 * MIB)))
    assert error.code is ErrorCode.QUOTA_EXCEEDED
    assert "max_queued_bytes_per_owner" in error.detail
    assert (error.budget, error.limit) == ("max_queued_bytes", 6 * MIB)
    assert error.retry_after
    usage = await backend.usage("anna")
    assert usage.max_queued_bytes == 6 * MIB
    assert 2 * MIB < (usage.queued_bytes or 0) < 6 * MIB
    await backend.submit(large(2 * MIB, owner="ben"))
    error = await refusal(backend.submit(large(2 * MIB, owner="eve")))
    assert error.code is ErrorCode.QUEUE_FULL
    assert "max_queued_bytes)" in error.detail
    await backend.cancel("anna", queued.id)
    await backend.submit(large())
    await backend.cancel("anna", running.id)


async def test_uploads_and_jobs_of_an_owner_count_to_one_limit(start_backend: StartBackend) -> None:
    limits = LocalLimits(max_stored_bytes_per_owner=4 * MIB)
    backend: LocalBackend = await start_backend(limits=limits)
    await put(backend, b"a" * MIB)
    await put(backend, b"a" * MIB)  # the same file takes no more
    error = await refusal(put(backend, b"b" * 4 * MIB))
    assert error.code is ErrorCode.QUOTA_EXCEEDED
    assert error.retry_after
    await run(backend, large())
    error = await refusal(put(backend, b"b" * 2 * MIB))
    assert error.code is ErrorCode.QUOTA_EXCEEDED
    error = await refusal(backend.submit(large(2 * MIB)))
    assert error.code is ErrorCode.QUOTA_EXCEEDED
    assert "max_stored_bytes_per_owner" in error.detail
    await put(backend, b"b" * 2 * MIB, owner="ben")


async def test_a_key_may_keep_less_or_more_than_the_server_lets_owners(
    start_backend: StartBackend,
) -> None:
    limits = LocalLimits(max_stored_bytes_per_owner=2 * MIB)
    backend: LocalBackend = await start_backend(limits=limits)
    small, big = (OwnerBudget(max_stored_bytes=size * MIB) for size in (1, 8))
    content = b"a" * (MIB + 1)
    digest = hashlib.sha256(content).hexdigest()
    for budget, limit in ((small, MIB), (NO_BUDGET, 2 * MIB), (big, 8 * MIB)):
        assert (await backend.usage("anna", budget)).max_stored_bytes == limit
    error = await refusal(backend.put_file("anna", digest, once(content), small))
    assert (error.code, error.budget, error.limit) == (
        ErrorCode.QUOTA_EXCEEDED, "max_stored_bytes", MIB,
    )  # fmt: skip
    assert (await backend.usage("anna")).stored_bytes == 0
    await put(backend, content)
    assert (await backend.usage("anna")).stored_bytes == MIB + 1
    error = await refusal(backend.submit(large(), NO_BUDGET))
    assert (error.budget, error.limit) == ("max_stored_bytes", 2 * MIB)
    job = (await backend.submit(large(), big)).job
    await finish(backend, job)
    assert ((await backend.usage("anna")).stored_bytes or 0) > 2 * MIB


async def test_an_upload_during_a_sweep_is_counted(tmp_path: Path) -> None:
    files = FileStore(tmp_path)

    async def sweep_meanwhile(_: str) -> int:
        await uploads.sweep(older_than=3600, keep=())
        return 0

    uploads = Uploads(files, job_bytes=sweep_meanwhile)
    await uploads.put("anna", hashlib.sha256(b"abc").hexdigest(), once(b"abc"), 100)
    assert await uploads.bytes_of("anna") == 3


async def test_an_upload_that_a_sweep_meets_on_its_way_counts_when_it_is_stored(
    tmp_path: Path,
) -> None:
    async def no_jobs(_: str) -> int:
        return 0

    uploads = Uploads(FileStore(tmp_path), job_bytes=no_jobs)

    async def swept_on_the_way() -> AsyncIterator[bytes]:
        yield b"abc"
        await uploads.sweep(older_than=3600, keep=())
        assert await uploads.bytes_of("anna") == 3
        yield b"def"

    digest = hashlib.sha256(b"abcdef").hexdigest()
    await uploads.put("anna", digest, swept_on_the_way(), 100)
    assert await uploads.bytes_of("anna") == 6
    with pytest.raises(BackendError):
        await uploads.put("anna", "0" * 64, once(b"x" * 95), 100)
    assert await uploads.bytes_of("anna") == 6


async def test_parallel_uploads_do_not_exceed_the_limit_together(
    start_backend: StartBackend,
) -> None:
    limits = LocalLimits(max_stored_bytes_per_owner=3 * MIB)
    backend: LocalBackend = await start_backend(limits=limits)
    contents = [bytes([number]) * MIB for number in range(6)]
    results = await asyncio.gather(
        *(put(backend, content) for content in contents), return_exceptions=True
    )
    assert sum(result is None for result in results) == 3


async def test_outputs_count_until_they_are_deleted(
    start_backend: StartBackend, data: Path
) -> None:
    backend: LocalBackend = await start_backend()
    job = await run(backend, request())
    outputs: Any = job.outputs
    connection = sqlite3.connect(data / "jobs.sqlite3")
    (kept,) = connection.execute("SELECT kept FROM usage WHERE owner = 'anna'").fetchone()
    assert kept > outputs["image"]["size"]
    await backend.stop()
    await start_backend(limits=LocalLimits(keep_outputs=0, sweep_interval=0.01))
    async with asyncio.timeout(60):
        while kept > 100:
            await asyncio.sleep(0.01)
            (kept,) = connection.execute("SELECT kept FROM usage WHERE owner = 'anna'").fetchone()
    connection.close()


async def test_jobs_are_forgotten_and_the_database_shrinks(
    start_backend: StartBackend, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept, sweep = asyncio.Event(), Sweeper.sweep

    async def sweep_and_say(sweeper: Sweeper) -> None:
        await sweep(sweeper)
        swept.set()

    monkeypatch.setattr(Sweeper, "sweep", sweep_and_say)
    backend: LocalBackend = await start_backend()
    running = await busy(backend)
    jobs = [(await backend.submit(large(labels={"team": "red"}))).job for _ in range(8)]
    for job in jobs:
        await backend.cancel("anna", job.id)
    await backend.cancel("anna", running.id)
    await backend.wait("anna", running.id, after=None, timeout=60)
    await backend.stop()
    before = (data / "jobs.sqlite3").stat().st_size
    assert before > 8 * MIB
    swept.clear()
    backend = await start_backend(limits=LocalLimits(keep_jobs=0))
    async with asyncio.timeout(60):
        await swept.wait()
    assert (rows(data), free_pages(data)) == (0, 0)
    error = await refusal(backend.get("anna", jobs[0].id))
    assert error.code is ErrorCode.UNKNOWN_JOB
    await backend.stop()
    assert (rows(data, "payloads"), rows(data, "job_labels")) == (0, 0)
    assert (data / "jobs.sqlite3").stat().st_size < before / 4


async def test_a_database_of_an_older_version_shrinks_too(
    start_backend: StartBackend, data: Path
) -> None:
    from comfysnap_server.backends.local.migrations import MIGRATIONS

    old = sqlite3.connect(data / "jobs.sqlite3")
    old.executescript(f"{MIGRATIONS[0]} {MIGRATIONS[1]} PRAGMA user_version = 2;")
    old.close()
    await start_backend()
    connection = sqlite3.connect(data / "jobs.sqlite3")
    assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    connection.close()


async def test_large_queued_jobs_wait_on_the_disk(start_backend: StartBackend) -> None:
    backend: LocalBackend = await start_backend()
    running = await busy(backend)
    first = (await backend.submit(large())).job  # what the first one brings is not counted
    gc.collect()
    tracemalloc.start()
    jobs = [(await backend.submit(large())).job.id for _ in range(10)]
    await backend.get("anna", jobs[0])
    async with asyncio.timeout(60):  # the last of them may still be on their way
        while tracemalloc.get_traced_memory()[0] >= 3 * MIB:
            await asyncio.sleep(0.01)
            gc.collect()
    tracemalloc.stop()
    job = await backend.get("anna", jobs[0])
    assert (job.status, job.inputs) == (JobStatus.QUEUED, first.inputs)
    cancelled = await backend.cancel("anna", jobs[0])
    assert cancelled.inputs == first.inputs
    await backend.cancel("anna", running.id)


async def test_a_job_that_waited_with_large_inputs_runs_after_a_restart(
    start_backend: StartBackend,
) -> None:
    backend: LocalBackend = await start_backend()
    await busy(backend)
    waiting = (await backend.submit(large())).job
    await backend.stop()
    backend = await start_backend(engine_options={"step_seconds": 0})
    job = await backend.get("anna", waiting.id)
    assert job.inputs == waiting.inputs
    page = await backend.list_jobs("anna")
    assert waiting.inputs in [job.inputs for job in page.jobs]


async def test_a_full_disk_takes_no_further_job(start_backend: StartBackend) -> None:
    backend: LocalBackend = await start_backend(limits=LocalLimits(keep_free_bytes=2**60))
    error = await refusal(backend.submit(request()))
    assert (error.code, error.retry_after) == (ErrorCode.UNAVAILABLE, 60)


async def test_jobs_wait_while_the_disk_is_full_and_run_when_there_is_room(
    start_backend: StartBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend: LocalBackend = await start_backend()
    running = await busy(backend)
    waiting = (await backend.submit(request())).job
    usage = shutil.disk_usage
    asked = asyncio.Event()

    def full(path: Path) -> Any:
        asked.set()
        return usage(path)._replace(free=0)

    monkeypatch.setattr(shutil, "disk_usage", full)
    await backend.cancel("anna", running.id)
    async with asyncio.timeout(60):
        await asked.wait()
    assert (await backend.get("anna", waiting.id)).status is JobStatus.QUEUED
    assert not await backend.ready()
    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert (await finish(backend, waiting)).status is JobStatus.SUCCEEDED


async def test_a_purge_of_very_many_jobs_goes_on_at_the_next_request(
    start_backend: StartBackend, data: Path
) -> None:
    backend: LocalBackend = await start_backend()
    kept = await run(backend, request(owner="ben"))
    await backend.stop()
    with closing(open_database(data / DATABASE)) as connection:
        connection.execute("BEGIN")
        for _ in range(1100):
            asked = request(idempotency_key=None)
            record = asked.record(status=JobStatus.FAILED, version=1)
            store.submit(connection, asked, record, LocalLimits())
        connection.execute("COMMIT")
    backend = await start_backend()
    wanted = PurgeRequest(older_than=0, owner="anna")
    assert (await backend.purge(replace(wanted, dry_run=True))).jobs == 1100
    reports = [await backend.purge(wanted), await backend.purge(wanted)]
    assert [report.complete for report in reports] == [False, True]
    assert sum(report.jobs for report in reports) == 1100
    assert (await backend.list_jobs("anna")).jobs == []
    assert (await backend.usage("anna")).stored_bytes == 0
    assert [job.id for job in (await backend.list_jobs("ben")).jobs] == [kept.id]
    assert free_pages(data) < 20


async def test_a_purge_leaves_uploads_that_are_needed_or_were_used_just_now(
    start_backend: StartBackend, data: Path
) -> None:
    backend: LocalBackend = await start_backend()
    running = await busy(backend)
    contents = (b"needed", b"fresh", b"old")
    needed, fresh, old = (hashlib.sha256(content).hexdigest() for content in contents)
    for content in contents:
        await put(backend, content)
        await put(backend, content, owner="ben")
    await backend.submit(request(files={"a.png": FileBySha256(sha256=needed)}))
    age(data, besides=fresh)
    report = await backend.purge(PurgeRequest(older_than=0, owner="anna"))
    assert (report.files, report.file_bytes) == (1, len(b"old"))
    assert not await backend.has_file("anna", old)
    assert await backend.has_file("ben", old)
    assert await backend.has_file("anna", fresh)
    assert await backend.has_file("anna", needed)
    await backend.cancel("anna", running.id)
