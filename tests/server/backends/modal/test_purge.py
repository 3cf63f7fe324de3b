"""A purge of a deployment, whose gateways remember what they read."""

import asyncio
import hashlib
import os
from datetime import timedelta
from pathlib import Path

import pytest

from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_schema.wire.files import FileBySha256
from comfysnap_schema.wire.jobs import JobStatus
from comfysnap_server.backends.modal.backend import ModalBackend
from comfysnap_server.backends.modal.platform import CallState
from comfysnap_server.backends.modal.records import job_key
from comfysnap_server.backends.modal.shared_files import OUTPUTS
from comfysnap_server.backends.protocol import PurgeRequest
from comfysnap_server.errors import BackendError
from tests.server.backends.modal.memory import START, Cloud, end, put_output, request
from tests.server.backends.suite import once

pytestmark = pytest.mark.modal
JOB = request().job_id
ALL = PurgeRequest(older_than=0)


@pytest.fixture
def backend(cloud: Cloud, tmp_path: Path) -> ModalBackend:
    return ModalBackend(cloud.platform, tmp_path / "local")


async def test_a_gateway_that_remembers_a_purged_job_does_not_run_it_again(
    cloud: Cloud, backend: ModalBackend, other: ModalBackend
) -> None:
    await backend.submit(request(idempotency_key="once"))
    await backend.get("someone", JOB)
    end(cloud, JOB, outputs={"images": [put_output(cloud, JOB)]})
    report = await other.purge(ALL)
    assert (report.jobs, report.job_bytes) == (1, 4)
    assert not [path for path in (cloud.root / OUTPUTS).rglob("*") if path.is_file()]
    kept = cloud.records.entries
    assert [*kept] == [job_key(JOB, "final")]
    assert "a.png" not in kept[job_key(JOB, "final")]
    assert JOB not in cloud.listings["someone"].entries

    cloud.pass_time(3600)
    cloud.calls.states["fc-1"] = CallState.GONE
    assert (await backend.get("someone", JOB)).status is JobStatus.SUCCEEDED
    await backend.sweep()
    assert len(cloud.calls.spawned) == 1
    with pytest.raises(BackendError) as caught:
        await other.get("someone", JOB)
    assert caught.value.code is ErrorCode.UNKNOWN_JOB
    assert (await backend.purge(ALL)).jobs == 0


async def test_of_very_many_jobs_some_hundred_are_deleted_at_once(
    cloud: Cloud, backend: ModalBackend
) -> None:
    for number in range(1, 603):
        await backend.submit(request(number))
        if number > 1:
            end(cloud, request(number).job_id)
    counted = await backend.purge(PurgeRequest(older_than=0, dry_run=True))
    assert (counted.jobs, counted.complete) == (601, True)
    reports = [await backend.purge(ALL), await backend.purge(ALL)]
    assert [report.complete for report in reports] == [False, True]
    assert sum(report.jobs for report in reports) == 601
    assert [job.id for job in (await backend.list_jobs("someone")).jobs] == [JOB]


async def test_uploads_go_that_no_unfinished_job_reads_and_nobody_used_just_now(
    cloud: Cloud, backend: ModalBackend
) -> None:
    contents = (b"needed", b"fresh", b"old")
    needed, fresh, old = (hashlib.sha256(content).hexdigest() for content in contents)
    for digest, content in zip((needed, fresh, old), contents, strict=True):
        await backend.put_file("someone", digest, once(content))
        await backend.put_file("else", digest, once(content))
    await backend.submit(request(files={"a.png": FileBySha256(sha256=needed)}))
    for path in cloud.root.rglob("*"):
        if path.name != fresh:
            os.utime(path, (0, 0))
    report = await backend.purge(PurgeRequest(older_than=0, owner="someone"))
    assert (report.files, report.file_bytes) == (1, len(b"old"))
    assert not await backend.has_file("someone", old)
    assert await backend.has_file("else", old)
    assert await backend.has_file("someone", fresh)
    assert await backend.has_file("someone", needed)


async def test_only_jobs_that_ended_long_enough_ago_go(cloud: Cloud, backend: ModalBackend) -> None:
    early, late = request(1), request(2)
    await asyncio.gather(backend.submit(early), backend.submit(late))
    end(cloud, early.job_id)
    end(cloud, late.job_id, at=START + timedelta(seconds=50))
    cloud.pass_time(100)
    assert (await backend.purge(PurgeRequest(older_than=70))).jobs == 1
    assert [job.id for job in (await backend.list_jobs("someone")).jobs] == [late.job_id]
