"""Pages of jobs: what they cost, and how the lists are kept."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from comfysnap_schema.wire.files import Kind
from comfysnap_schema.wire.jobs import JobRecord, JobStatus
from comfysnap_server.backends.modal import listing
from comfysnap_server.backends.modal.backend import ModalBackend
from comfysnap_server.backends.modal.listing import MAX_LISTED_BYTES
from comfysnap_server.backends.modal.records import (
    Listed,
    index_key,
    job_key,
)
from comfysnap_server.backends.modal.runner import JobRunner
from comfysnap_server.engine.protocol import EngineJob, EngineResult, ProducedFile, Report
from tests.server.backends.modal.memory import START, Cloud, request

pytestmark = pytest.mark.modal
OWNER = "someone"


class Engine:
    """Writes a small file."""

    name = "writer"

    def load(self) -> None: ...

    def attach(self) -> None: ...

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        path = job.output_dir / "made.txt"
        path.write_text("made")
        return EngineResult(outputs={"images": [ProducedFile(path=path, kind=Kind.IMAGE)]})

    def interrupt(self, job_id: str) -> None: ...


@pytest.fixture
def backend(cloud: Cloud, tmp_path: Path) -> ModalBackend:
    return ModalBackend(cloud.platform, tmp_path / "local")


def fresh(cloud: Cloud) -> ModalBackend:
    """A gateway container that just started."""
    return ModalBackend(cloud.platform, cloud.root / "local")


@pytest.fixture
def worker(cloud: Cloud) -> JobRunner:
    runner = JobRunner(Engine(), cloud.platform)
    runner.load()
    runner.attach(restored=False)
    return runner


async def finish(backend: ModalBackend, worker: JobRunner, number: int, **changes: object) -> str:
    job = request(number, **changes)
    await backend.submit(job)
    await worker.run(job.job_id, job.model_dump_json(), f"fc-{number}")
    return job.job_id


async def page(backend: ModalBackend) -> list[JobRecord]:
    return (await backend.list_jobs(OWNER)).jobs


def requests(cloud: Cloud) -> int:
    lists = sum(entries.asked for entries in cloud.listings.values())
    return cloud.records.asked + cloud.index.asked + lists


def old_layout(cloud: Cloud) -> None:
    """Forget what earlier versions did not write: they kept all jobs in the index."""
    for owner, entries in cloud.listings.items():
        for job_id, text in entries.entries.items():
            listed = Listed.model_validate_json(text).model_copy(update={"job": None})
            cloud.index.entries[index_key(owner, job_id)] = listed.model_dump_json()
    cloud.listings.clear()
    for key in [key for key in cloud.index.entries if ":" not in key]:
        del cloud.index.entries[key]


async def test_a_page_of_a_fresh_gateway_takes_five_requests_however_many_jobs_others_have(
    cloud: Cloud, backend: ModalBackend, worker: JobRunner
) -> None:
    for number in range(1, 51):
        await finish(backend, worker, number, created_at=START + timedelta(seconds=number))
    others = {
        index_key("else", request(number).job_id): Listed(
            created_at=START, workflow="hello"
        ).model_dump_json()
        for number in range(100, 10_100)
    }
    cloud.index.entries.update(others)
    await fresh(cloud).list_jobs("else", limit=1)  # the lists are complete once anyone listed
    before = requests(cloud)
    gateway = fresh(cloud)
    jobs = await page(gateway)
    assert requests(cloud) - before <= 5
    assert [job.id for job in jobs] == [request(number).job_id for number in range(50, 0, -1)]
    assert jobs == [await fresh(cloud).get(OWNER, job.id) for job in jobs]


async def test_jobs_of_an_earlier_version_are_listed_and_read_once(
    cloud: Cloud, backend: ModalBackend, worker: JobRunner
) -> None:
    ids = [await finish(backend, worker, number) for number in range(1, 21)]
    await backend.submit(request(21))
    known = await page(backend)
    old_layout(cloud)
    assert await page(fresh(cloud)) == known
    assert {job.id for job in known} == {*ids, request(21).job_id}
    before = requests(cloud)
    jobs = await fresh(cloud).list_jobs(OWNER, limit=20, status=JobStatus.SUCCEEDED)
    assert {job.id for job in jobs.jobs} == set(ids)
    assert requests(cloud) - before <= 5 + 5  # and those of the one that has not ended


async def test_a_sweep_leaves_unfinished_jobs_alone_in_the_index(
    cloud: Cloud, backend: ModalBackend, worker: JobRunner
) -> None:
    await finish(backend, worker, 1)
    await backend.submit(request(2))
    await backend.submit(request(3))
    await backend.cancel(OWNER, request(3).job_id)
    asked = cloud.records.asked
    await fresh(cloud).sweep()
    assert cloud.records.asked - asked < 10  # of the ended ones it reads the list alone
    assert [key for key in cloud.index.entries if ":" in key] == [
        index_key(OWNER, request(2).job_id)
    ]


async def test_the_sweep_empties_the_index_of_an_earlier_version(
    cloud: Cloud, backend: ModalBackend, worker: JobRunner
) -> None:
    ended = await finish(backend, worker, 1)
    await backend.submit(request(2))
    old_layout(cloud)
    await fresh(cloud).sweep()
    assert [key for key in cloud.index.entries if ":" in key] == [
        index_key(OWNER, request(2).job_id)
    ]
    listed = Listed.model_validate_json(cloud.listings[OWNER].entries[ended])
    assert listed.job == await backend.get(OWNER, ended)
    assert request(2).job_id in cloud.listings[OWNER].entries


async def test_an_end_that_could_not_be_listed_is_listed_by_the_sweep(
    cloud: Cloud, backend: ModalBackend, worker: JobRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: object) -> None:
        raise ConnectionError("Modal is away")

    with monkeypatch.context() as patch:
        patch.setattr(cloud.listings[OWNER], "update", fail)
        job_id = await finish(backend, worker, 1)
    assert (await backend.get(OWNER, job_id)).status is JobStatus.SUCCEEDED
    await fresh(cloud).sweep()
    assert Listed.model_validate_json(cloud.listings[OWNER].entries[job_id]).job
    assert not [key for key in cloud.index.entries if ":" in key]


async def test_lists_are_pruned_after_seven_days(
    cloud: Cloud, backend: ModalBackend, worker: JobRunner
) -> None:
    await finish(backend, worker, 1)
    cloud.pass_time(8 * 86400)
    later = await finish(backend, worker, 2, created_at=cloud.now)
    assert [job.id for job in await page(backend)] == [later]
    await fresh(cloud).sweep()
    assert list(cloud.listings[OWNER].entries) == [later]


async def test_a_list_keeps_the_newest_ended_jobs(
    cloud: Cloud, backend: ModalBackend, worker: JobRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_LISTED", 3)
    made = [START + timedelta(seconds=number) for number in range(6)]
    await backend.submit(request(9, created_at=START))
    for number in (1, 5, 2, 4, 3):
        await finish(backend, worker, number, created_at=made[number])
    await fresh(cloud).sweep()
    numbers = (5, 4, 3, 9)
    assert [job.id for job in await page(backend)] == [request(n).job_id for n in numbers]


async def test_an_entry_whose_job_was_never_written_is_dropped_in_time(
    cloud: Cloud, backend: ModalBackend
) -> None:
    await backend.submit(request())
    cloud.records.entries.clear()
    await fresh(cloud).sweep()
    assert index_key(OWNER, request().job_id) in cloud.index.entries  # it may just be written
    cloud.pass_time(4 * 86400)
    await fresh(cloud).sweep()
    assert index_key(OWNER, request().job_id) not in cloud.index.entries


async def test_a_large_job_is_read_from_its_records(
    cloud: Cloud, backend: ModalBackend, worker: JobRunner
) -> None:
    job_id = await finish(backend, worker, 1, inputs={"prompt": "x" * MAX_LISTED_BYTES})
    assert len(cloud.listings[OWNER].entries[job_id]) < 1000
    assert await page(fresh(cloud)) == [await backend.get(OWNER, job_id)]


async def test_a_cancel_that_came_too_late_is_listed_as_the_status_says_it(
    cloud: Cloud, backend: ModalBackend, worker: JobRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = request()
    await backend.submit(job)
    get, asked, go = cloud.records.get, asyncio.Event(), asyncio.Event()

    async def held(key: str) -> str | None:
        found = await get(key)
        if key == job_key(job.job_id, "cancel") and job_key(job.job_id, "final") in (
            cloud.records.entries
        ):
            asked.set()
            await go.wait()
        return found

    monkeypatch.setattr(cloud.records, "get", held)
    running = asyncio.create_task(worker.run(job.job_id, job.model_dump_json(), "fc-1"))
    await asked.wait()
    monkeypatch.setattr(cloud.records, "get", get)
    final = cloud.records.entries.pop(job_key(job.job_id, "final"))
    add = cloud.records.add

    async def late(key: str, value: str) -> bool:
        if key == job_key(job.job_id, "cancel"):  # raised after the worker looked for it
            cloud.records.entries[job_key(job.job_id, "final")] = final
            added = await add(key, value)
            go.set()
            await running
            return added
        return await add(key, value)

    monkeypatch.setattr(cloud.records, "add", late)
    cancelled = await backend.cancel(OWNER, job.job_id)
    assert cancelled.cancel_requested_at == cloud.now
    assert await page(fresh(cloud)) == [cancelled]
