"""The data folder: older tables, newer tables, disks that refuse."""

import asyncio
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_schema.wire.jobs import JobRecord, JobStatus
from comfysnap_server.backends.local import DataFolderError, LocalBackend, LocalLimits, store
from comfysnap_server.backends.local.migrations import MIGRATIONS, migrate, open_database
from comfysnap_server.backends.local.writer import StorageError, Writer
from comfysnap_server.errors import BackendError
from tests.paths import ROOT
from tests.server.backends.local.conftest import StartBackend
from tests.server.backends.suite import finish, request, run


async def test_a_store_of_the_first_version_is_brought_up_to_date(
    start_backend: StartBackend, data: Path
) -> None:
    asked = request()
    record = JobRecord(
        id=asked.job_id,
        workflow=asked.workflow,
        status=JobStatus.QUEUED,
        version=1,
        created_at=asked.created_at,
    )
    old = sqlite3.connect(data / "jobs.sqlite3")
    old.executescript(f"{MIGRATIONS[0]} PRAGMA user_version = 1;")
    old.execute(
        "INSERT INTO jobs (id, owner, workflow, status, request, record) VALUES (?, ?, ?, ?, ?, ?)",
        (record.id, "anna", "draw", "queued", asked.model_dump_json(), record.model_dump_json()),
    )
    old.commit()
    old.close()
    backend: LocalBackend = await start_backend()
    job = await finish(backend, await backend.get("anna", record.id))
    assert job.status is JobStatus.SUCCEEDED


def test_each_migration_is_whole_or_not_at_all(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "jobs.sqlite3", isolation_level=None)
    connection.execute("CREATE TABLE labels (taken TEXT)")
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection)
    connection.close()
    again = sqlite3.connect(tmp_path / "jobs.sqlite3")
    assert again.execute("PRAGMA user_version").fetchone() == (0,)
    tables = {name for (name,) in again.execute("SELECT name FROM sqlite_schema")}
    assert tables == {"labels"}
    again.close()


async def test_a_store_of_a_newer_version_is_refused(
    start_backend: StartBackend, data: Path
) -> None:
    newer = sqlite3.connect(data / "jobs.sqlite3")
    newer.execute("PRAGMA user_version = 999")
    newer.close()
    with pytest.raises(DataFolderError) as caught:
        await start_backend()
    assert caught.value.code is ErrorCode.UNAVAILABLE


async def test_a_file_that_is_no_database_is_refused(
    start_backend: StartBackend, data: Path
) -> None:
    (data / "jobs.sqlite3").write_bytes(b"this is not a database at all" * 100)
    with pytest.raises(DataFolderError):
        await start_backend()


async def test_a_data_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataFolderError):
        await LocalBackend(tmp_path / "file" / "data").start()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_data_folder_is_refused(data: Path) -> None:
    data.chmod(0o500)
    with pytest.raises(DataFolderError):
        asyncio.run(LocalBackend(data).start())


async def test_after_a_refused_start_another_can_succeed(
    start_backend: StartBackend, data: Path
) -> None:
    (data / "jobs.sqlite3").write_bytes(b"this is not a database at all" * 100)
    with pytest.raises(DataFolderError):
        await start_backend()
    (data / "jobs.sqlite3").unlink()
    backend: LocalBackend = await start_backend()
    assert (await run(backend, request())).status is JobStatus.SUCCEEDED


def limit_file_size() -> None:
    """What a full disk does, for this process alone: no file grows above 400 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))


def python(script: str, before: Callable[[], None], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        check=True, capture_output=True, text=True, timeout=60, preexec_fn=before,
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done.stdout.strip()


def test_a_full_disk_refuses_jobs_and_keeps_those_it_took(data: Path) -> None:
    script = """
import asyncio, sys
from pathlib import Path
from comfysnap_server.backends.local import LocalBackend
from comfysnap_server.errors import BackendError
from tests.server.backends.suite import request

async def main():
    backend = LocalBackend(
        Path(sys.argv[1]), engine="tests.server.backends.local.engines:UnloadableEngine",
        engine_options={"blocker": "/"},
    )
    await backend.start()
    taken = []
    while True:
        try:
            taken.append((await backend.submit(request(inputs={"x": "y" * 20_000}))).job.id)
        except BackendError as error:
            print(error.code, *taken)
            break
    await backend.stop()

asyncio.run(main())
"""
    code, *taken = python(script, limit_file_size, str(data)).split()
    assert code == ErrorCode.UNAVAILABLE
    assert len(taken) >= 2
    connection = open_database(data / "jobs.sqlite3")
    kept = [job_id for (job_id,) in connection.execute("SELECT id FROM jobs ORDER BY seq")]
    connection.close()
    assert kept == taken


async def test_an_id_is_given_once(backend: LocalBackend) -> None:
    asked = request()
    await backend.submit(asked)
    with pytest.raises(BackendError) as caught:
        await backend.submit(asked)
    assert caught.value.code is ErrorCode.INTERNAL


def test_a_submit_reads_nothing_of_the_history(tmp_path: Path) -> None:
    connection = open_database(tmp_path / "jobs.sqlite3")
    asked = request()
    record = JobRecord(
        id=asked.job_id,
        workflow=asked.workflow,
        status=JobStatus.QUEUED,
        version=1,
        created_at=asked.created_at,
    )
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    limits = LocalLimits(
        max_unfinished_per_owner=10, max_queued_bytes_per_owner=10**6,
        max_stored_bytes_per_owner=10**6,
    )  # fmt: skip
    store.submit(connection, asked, record, limits)
    connection.set_trace_callback(None)
    plans = [
        step[3]
        for statement in statements
        if statement.startswith("SELECT")
        for step in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
    ]
    connection.close()
    assert plans
    assert [plan for plan in plans if plan.startswith("SCAN")] == []


COUNTED: Final = """
SELECT owner, sum(kept), sum(status IN ('queued', 'running')), sum(status = 'queued'),
    sum(kept * (status IN ('queued', 'running')))
FROM (SELECT owner, kept, status FROM jobs UNION ALL SELECT '', kept, status FROM jobs)
GROUP BY owner ORDER BY owner
"""


def submitted(connection: sqlite3.Connection, owner: str) -> JobRecord:
    """A queued job."""
    asked = request(owner=owner)
    record = asked.record(status=JobStatus.QUEUED, version=1)
    return store.submit(connection, asked, record, LocalLimits()).job


def test_the_sums_of_owners_follow_every_change_of_a_job(tmp_path: Path) -> None:
    connection = open_database(tmp_path / "jobs.sqlite3")

    def sums() -> list[tuple[object, ...]]:
        found = connection.execute("SELECT * FROM usage WHERE kept > 0 ORDER BY owner").fetchall()
        assert found == connection.execute(COUNTED).fetchall()
        return found

    jobs = [submitted(connection, owner) for owner in ("anna", "anna", "anna", "ben")]
    assert [row[2:4] for row in sums()] == [(4, 4), (3, 3), (1, 1)]
    running = jobs[0].model_copy(update={"status": JobStatus.RUNNING})
    assert store.save(connection, running)
    assert [row[2:4] for row in sums()] == [(4, 3), (3, 2), (1, 1)]
    assert store.save(connection, jobs[0])
    assert [row[2:4] for row in sums()] == [(4, 4), (3, 3), (1, 1)]
    now = datetime.now(UTC)
    for number, job in enumerate(jobs[:2]):
        changes: dict[str, Any] = {"status": JobStatus.SUCCEEDED, "finished_at": now, "outputs": {}}
        assert store.save(connection, job.model_copy(update=changes), output_bytes=100 * number)
    store.set_aside(connection, 4)
    assert [row[2:4] for row in sums()] == [(1, 1), (1, 1), (0, 0)]
    store.mark_outputs_gone(connection, [jobs[0].id])
    sums()
    store.delete(connection, [job.id for job in jobs[:2]])
    connection.execute("DELETE FROM jobs WHERE seq = 3")
    assert [row[2:4] for row in sums()] == [(0, 0), (0, 0)]
    connection.close()


def test_the_sums_of_an_older_store_are_made_anew(tmp_path: Path) -> None:
    connection = open_database(tmp_path / "new.sqlite3")
    old = sqlite3.connect(tmp_path / "old.sqlite3", isolation_level=None)
    old.executescript("".join(MIGRATIONS[:4]) + "PRAGMA user_version = 4;")
    for owner in ("anna", "anna", "ben"):
        job = submitted(connection, owner)
        if owner == "ben":
            ended = {"status": JobStatus.FAILED, "finished_at": datetime.now(UTC)}
            store.save(connection, job.model_copy(update=ended))
    columns = "seq, id, owner, workflow, status, finished_at, request, record, outputs_gone, kept"
    for row in connection.execute(f"SELECT {columns} FROM jobs"):  # noqa: S608 -- ours
        old.execute(f"INSERT INTO jobs ({columns}) VALUES ({', '.join('?' * 10)})", row)  # noqa: S608
    migrate(old)
    sums = "SELECT * FROM usage ORDER BY owner"
    assert old.execute(sums).fetchall() == connection.execute(sums).fetchall()
    old.close()
    connection.close()


@pytest.mark.parametrize("name", ["inputs", "scratch"])
async def test_a_folder_of_somebody_else_is_refused_and_left_as_it_is(
    start_backend: StartBackend, data: Path, name: str
) -> None:
    theirs = data / name / "photo.png"
    theirs.parent.mkdir()
    theirs.touch()
    with pytest.raises(DataFolderError, match=name):
        await start_backend()
    assert theirs.exists()
    theirs.unlink()
    backend: LocalBackend = await start_backend()
    assert (await run(backend, request())).status is JobStatus.SUCCEEDED


class FlakyConnection(sqlite3.Connection):
    """Cannot commit, nor roll back, while the disk is broken."""

    broken = False

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if self.broken and sql in ("COMMIT", "ROLLBACK"):
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *parameters)


async def test_a_disk_that_was_broken_for_a_while_can_be_written_again(tmp_path: Path) -> None:
    connection = sqlite3.connect(
        tmp_path / "store", isolation_level=None, check_same_thread=False, factory=FlakyConnection
    )
    writer = Writer(connection)
    async with asyncio.timeout(60):
        connection.broken = True
        with pytest.raises(StorageError):
            await writer.run(lambda c: c.execute("CREATE TABLE lost (x)"))
        connection.broken = False
        with pytest.raises(StorageError):  # which clears what the broken one left
            await writer.run(lambda c: c.execute("CREATE TABLE lost (x)"))
        await writer.run(lambda c: c.execute("CREATE TABLE kept (x)"))
    await asyncio.to_thread(writer.close)
