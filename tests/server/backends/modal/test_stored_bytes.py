"""The bytes that the owner of a key may keep in a deployment."""

import asyncio
import hashlib
from datetime import timedelta
from pathlib import Path

import pytest

from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_server.backends.modal.backend import ModalBackend
from comfysnap_server.backends.protocol import NO_BUDGET, OwnerBudget, PurgeRequest
from comfysnap_server.errors import BackendError
from tests.server.backends.modal.memory import START, Cloud, end, put_output, request
from tests.server.backends.suite import once

pytestmark = pytest.mark.modal
BUDGET = OwnerBudget(max_stored_bytes=100)


@pytest.fixture
def backend(cloud: Cloud, tmp_path: Path) -> ModalBackend:
    return ModalBackend(cloud.platform, tmp_path / "local", retention=timedelta(hours=2))


async def put(backend: ModalBackend, content: bytes, budget: OwnerBudget = BUDGET) -> None:
    await backend.put_file("someone", hashlib.sha256(content).hexdigest(), once(content), budget)


async def refused(call: object) -> None:
    with pytest.raises(BackendError) as caught:
        await call  # type: ignore[misc]
    error = caught.value
    assert error.code is ErrorCode.QUOTA_EXCEEDED
    assert (error.budget, error.limit) == ("max_stored_bytes", 100)
    assert error.retry_after


async def test_uploads_and_outputs_count_together_until_they_are_deleted(
    cloud: Cloud, backend: ModalBackend, tmp_path: Path
) -> None:
    await put(backend, b"a" * 60)
    await put(backend, b"a" * 60)  # the same file takes no more
    await refused(put(backend, b"b" * 41))
    job = request(idempotency_key="once")
    await backend.submit(job, BUDGET)
    end(cloud, job.job_id, outputs={"images": [put_output(cloud, job.job_id, b"c" * 50)]})
    await backend.list_jobs("someone")  # what lists the end

    fresh = ModalBackend(cloud.platform, tmp_path / "other", retention=timedelta(hours=2))
    usage = await fresh.usage("someone", BUDGET)
    assert (usage.stored_bytes, usage.max_stored_bytes) == (110, 100)
    await refused(fresh.submit(request(2), BUDGET))
    assert (await fresh.submit(job, BUDGET)).replayed
    await fresh.submit(request(3), NO_BUDGET)
    await put(fresh, b"d" * 500, NO_BUDGET)

    cloud.now = START + timedelta(hours=3)
    last = ModalBackend(cloud.platform, tmp_path / "last", retention=timedelta(hours=2))
    assert (await last.usage("someone", BUDGET)).stored_bytes == 560


async def test_parallel_uploads_do_not_exceed_the_budget_together(backend: ModalBackend) -> None:
    contents = [bytes([number]) * 30 for number in range(6)]
    results = await asyncio.gather(
        *(put(backend, content) for content in contents), return_exceptions=True
    )
    assert sum(result is None for result in results) == 3
    await put(backend, b"x" * 10)
    assert (await backend.usage("someone", BUDGET)).stored_bytes == 100


async def test_what_a_purge_deletes_counts_no_longer(cloud: Cloud, backend: ModalBackend) -> None:
    job = request()
    await backend.submit(job, BUDGET)
    end(cloud, job.job_id, outputs={"images": [put_output(cloud, job.job_id, b"c" * 100)]})
    await backend.list_jobs("someone")
    fresh = ModalBackend(cloud.platform, cloud.root / "fresh", retention=timedelta(hours=2))
    await refused(put(fresh, b"a"))
    await fresh.purge(PurgeRequest(older_than=0, files=False))
    await put(fresh, b"a" * 100)


async def test_without_such_a_budget_nothing_is_read(cloud: Cloud, backend: ModalBackend) -> None:
    await put(backend, b"a" * 60, NO_BUDGET)
    await backend.submit(request(), NO_BUDGET)
    asked = cloud.listings["someone"].asked
    usage = await backend.usage("someone", NO_BUDGET)
    assert (usage.stored_bytes, usage.max_stored_bytes) == (None, None)
    assert cloud.listings["someone"].asked == asked
