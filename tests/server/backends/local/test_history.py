"""A long history: lists that an index answers, beside statuses; and rows that are damaged."""

import asyncio
import hashlib
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comfysnap_schema.cli import build_app
from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_schema.wire.jobs import JobRecord, JobStatus
from comfysnap_server.backends.local import (
    DATABASE,
    DataFolderError,
    LocalBackend,
    LocalLimits,
    back_up,
    store,
)
from comfysnap_server.backends.local.migrations import open_database
from comfysnap_server.errors import BackendError
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

filtered = pytest.mark.parametrize(
    "filters",
    [
        {},
        {"status": JobStatus.FAILED},
        {"workflow": "draw"},
        {"status": JobStatus.FAILED, "workflow": "draw"},
        {"labels": {"team": "red"}},
        {"labels": {"team": "red"}, "status": JobStatus.FAILED},
    ],
)


@filtered
def test_an_index_leads_to_every_page_in_its_order(tmp_path: Path, filters: dict[str, str]) -> None:
    connection = open_database(tmp_path / DATABASE)
    fill(connection, 2000)
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    found, more = store.page(
        connection,
        "anna",
        **{"status": None, "workflow": None, "labels": {}, **filters},  # pyright: ignore[reportArgumentType]
        before=1500,
        limit=5,
    )
    connection.set_trace_callback(None)
    steps = [step[3] for step in connection.execute(f"EXPLAIN QUERY PLAN {statements[0]}")]
    connection.close()
    assert (len(found), more is not None) == (5, True)
    assert [step for step in steps if "SCAN" in step or "TEMP B-TREE" in step] == []


@filtered
def test_a_page_of_all_owners_reads_little_more_than_it_shows(
    tmp_path: Path, filters: dict[str, str]
) -> None:
    connection = open_database(tmp_path / DATABASE)
    for owner in ("anna", "ben"):
        fill(connection, 1000, owner)
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 100

    connection.set_progress_handler(count, 100)
    found, more = store.page(
        connection,
        None,
        **{"status": None, "workflow": None, "labels": {}, **filters},  # pyright: ignore[reportArgumentType]
        before=1050,
        limit=60,
    )
    connection.set_progress_handler(None, 0)
    connection.close()
    owners = [owner for owner, _ in found]
    assert owners == sorted(owners, reverse=True)  # those of ben were submitted later
    assert set(owners) == {"anna", "ben"}
    assert (len(found), more is not None) == (60, True)
    assert steps < 3_000


@pytest.mark.parametrize("owner", ["anna", None])
def test_pages_go_through_jobs_of_every_status_in_the_order_of_their_submits(
    tmp_path: Path, owner: str | None
) -> None:
    connection = open_database(tmp_path / DATABASE)
    ids: list[str] = []
    for number in range(50):
        asked = request(owner="anna" if owner or number % 3 else "ben")
        status = [*JobStatus][number * 3 % len(JobStatus)]
        store.submit(connection, asked, asked.record(status=status, version=1), LocalLimits())
        ids.append(asked.job_id)
    listed: list[str] = []
    before = None
    while before or not listed:
        found, before = store.page(
            connection, owner, status=None, workflow=None, labels={}, before=before, limit=7
        )
        listed += [record.id for _, record in found]
    connection.close()
    assert listed == ids[::-1]


def fill(connection: sqlite3.Connection, count: int, owner: str = "anna") -> None:
    """Jobs of an owner: one in ten failed, one in five of team red."""
    connection.execute("BEGIN")
    for number in range(count):
        asked = request(owner=owner, labels={"team": "red" if number % 5 == 0 else "blue"})
        status = JobStatus.FAILED if number % 10 == 0 else JobStatus.SUCCEEDED
        store.submit(connection, asked, asked.record(status=status, version=1), LocalLimits())
    connection.execute("COMMIT")


async def test_a_status_does_not_wait_for_a_list(
    start_backend: StartBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend: LocalBackend = await start_backend(limits=LocalLimits(sweep_interval=1000))
    job = await run(backend, request())
    await backend.stop()
    backend = await start_backend()  # the job is on the disk only
    release = threading.Event()
    page = store.page

    def slow(*arguments: object, **options: object) -> object:
        release.wait(200)
        return page(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "page", slow)
    lists = [asyncio.create_task(backend.list_jobs("anna")) for _ in range(4)]
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        assert (await backend.get("anna", job.id)).id == job.id
    release.set()
    assert [len(found.jobs) for found in await asyncio.gather(*lists)] == [1] * 4


async def spoiled(backend: LocalBackend, data: Path, column: str, value: object) -> str:
    """A queued job whose row is spoiled after a stop."""
    await until_sampling(backend, (await backend.submit(request(sampling(FOREVER)))).job)
    job = (await backend.submit(request())).job
    await backend.stop()
    table, name = column.split(".")
    with closing(sqlite3.connect(data / DATABASE)) as connection:
        connection.execute(
            f"UPDATE {table} SET {name} = ?"  # noqa: S608 -- ours
            " WHERE seq = (SELECT seq FROM jobs WHERE id = ?)",
            (value, job.id),
        )
        connection.commit()
    return job.id


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("jobs.record", '{"id": "job_'),
        ("jobs.record", b"\xff\xfe\x00"),
        ("payloads.request", "[]"),
    ],
)
async def test_one_damaged_row_stops_nothing_but_its_job(
    start_backend: StartBackend, data: Path, column: str, value: object
) -> None:
    first: LocalBackend = await start_backend()
    damaged = await spoiled(first, data, column, value)
    backend: LocalBackend = await start_backend()
    if column == "payloads.request":  # what is asked of the job is whole
        job = await finish(backend, await backend.get("anna", damaged))
        assert job.status is JobStatus.FAILED
    else:
        with pytest.raises(BackendError) as caught:
            await backend.get("anna", damaged)
        assert caught.value.code is ErrorCode.INTERNAL
        assert damaged in caught.value.detail
    page = await backend.list_jobs("anna")
    assert len(page.jobs) >= 1
    queued = next(job for job in page.jobs if job.status is not JobStatus.FAILED)
    await backend.cancel("anna", queued.id)
    assert (await run(backend, request())).status is JobStatus.SUCCEEDED


async def test_a_database_cut_in_half_is_refused_with_the_way_out(
    start_backend: StartBackend, data: Path
) -> None:
    with closing(open_database(data / DATABASE)) as connection:
        fill(connection, 300)
    whole = (data / DATABASE).read_bytes()
    (data / DATABASE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataFolderError, match="comfysnap backup"):
        await start_backend()


async def test_a_backup_of_a_running_server_restores_its_jobs(
    start_backend: StartBackend, data: Path, tmp_path: Path
) -> None:
    backend: LocalBackend = await start_backend()
    job = await run(backend, request())
    await asyncio.to_thread(back_up, data / DATABASE, tmp_path / "copy")
    await backend.stop()
    (data / DATABASE).write_bytes(b"this is not a database at all" * 100)
    with pytest.raises(DataFolderError, match="comfysnap backup"):
        await start_backend()
    with pytest.raises(DataFolderError):
        await asyncio.to_thread(back_up, data / DATABASE, tmp_path / "copy")
    (tmp_path / "copy").replace(data / DATABASE)
    backend = await start_backend()
    assert (await backend.get("anna", job.id)).outputs == job.outputs


def test_the_backup_command_copies_the_store_or_says_why_not(tmp_path: Path) -> None:
    with closing(open_database(tmp_path / DATABASE)) as connection:
        fill(connection, 10)
    target = tmp_path / "copy"
    arguments = ["backup", str(target), "--data", str(tmp_path)]
    assert CliRunner().invoke(build_app(), arguments).exit_code == 0
    with closing(sqlite3.connect(target)) as copy:
        assert copy.execute("SELECT count(*) FROM jobs").fetchone() == (10,)
    (tmp_path / DATABASE).unlink()
    refused = CliRunner().invoke(build_app(), arguments)
    assert refused.exit_code == 1
    assert DATABASE in refused.stderr


async def test_a_second_server_is_refused_though_the_lock_files_were_deleted(
    start_backend: StartBackend, data: Path
) -> None:
    await start_backend()
    for name in ("server.lock", "workers.lock"):
        (data / name).unlink()
    with pytest.raises(DataFolderError, match="in use"):
        await start_backend()


async def test_a_start_deletes_what_an_upload_left_when_the_server_was_killed(
    start_backend: StartBackend, data: Path
) -> None:
    backend: LocalBackend = await start_backend()
    await backend.put_file("anna", hashlib.sha256(b"a").hexdigest(), once(b"a"))
    await backend.stop()
    part = data / "files" / "incoming" / "0.part"
    part.touch()
    await start_backend()
    assert not part.exists()


async def test_a_clean_stop_leaves_no_log_of_the_database(
    start_backend: StartBackend, data: Path
) -> None:
    backend: LocalBackend = await start_backend()
    await run(backend, request())
    await backend.list_jobs("anna")
    await backend.stop()
    left = await asyncio.to_thread(lambda: [path.name for path in data.glob("jobs.sqlite3*")])
    assert left == [DATABASE]


async def test_a_job_s_row_is_small_whatever_its_inputs(
    start_backend: StartBackend, data: Path
) -> None:
    backend: LocalBackend = await start_backend()
    job = await run(backend, request(inputs={"prompt": "x" * 100_000}))
    with closing(sqlite3.connect(data / DATABASE)) as connection:
        (size,) = connection.execute("SELECT max(length(record)) FROM jobs").fetchone()
    assert size < 5000
    record: JobRecord = await backend.get("anna", job.id)
    assert len(str(record.inputs)) > 100_000
