"""What the gateway does with the records of a job, whichever container wrote them."""

import asyncio
import dataclasses
import hashlib
import os
from pathlib import Path

import pytest

from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_schema.wire.files import FileBySha256
from comfysnap_schema.wire.jobs import JobStatus
from comfysnap_server.backends.modal.backend import ModalBackend
from comfysnap_server.backends.modal.platform import CallEnd, CallState, Pools
from comfysnap_server.backends.modal.records import Claim, End, claim_key, job_key
from comfysnap_server.backends.modal.reporting import FeedReporter
from comfysnap_server.backends.modal.states import Policy
from comfysnap_server.backends.protocol import NO_BUDGET, OwnerBudget
from comfysnap_server.engine.protocol import PreviewFrame
from comfysnap_server.errors import BackendError
from tests.server.backends.modal.memory import START, Cloud, request
from tests.server.backends.suite import once

pytestmark = pytest.mark.modal
JOB = request().job_id


@pytest.fixture
def backend(cloud: Cloud, tmp_path: Path) -> ModalBackend:
    return ModalBackend(cloud.platform, tmp_path / "local")


def claim(call_id: str = "fc-1") -> str:
    return Claim(
        call_id=call_id,
        at=START,
        start_kind="warm",
        start_seconds=0,
        load_seconds=0,
        attach_seconds=0,
    ).model_dump_json()


async def test_a_job_is_written_before_it_is_spawned(cloud: Cloud, backend: ModalBackend) -> None:
    cloud.calls.failing = True
    submitted = await backend.submit(request())
    assert submitted.job.status is JobStatus.QUEUED
    assert not cloud.calls.spawned


async def test_a_job_that_was_never_spawned_is_spawned_by_whoever_looks(
    cloud: Cloud, backend: ModalBackend, other: ModalBackend
) -> None:
    cloud.calls.failing = True
    await backend.submit(request())
    cloud.calls.failing = False
    await other.get("someone", JOB)
    assert not cloud.calls.spawned
    cloud.pass_time(Policy().respawn_after + 1)
    await other.get("someone", JOB)
    await other.get("someone", JOB)
    assert [job_id for job_id, _ in cloud.calls.spawned] == [JOB]


async def test_a_job_whose_pool_is_gone_moves_once_and_another_gateway_finds_its_call(
    cloud: Cloud, backend: ModalBackend, tmp_path: Path
) -> None:
    now = dataclasses.replace(cloud.platform, pools=Pools({"hello": "new"}, {"new": 60.0}))
    then = dataclasses.replace(cloud.platform, pools=Pools({"hello": "old"}, {"old": 60.0}))
    await ModalBackend(then, tmp_path / "then").submit(request())
    later = [ModalBackend(now, tmp_path / name) for name in ("one", "two")]
    for gateway in (*later, *later):
        assert (await gateway.get("someone", JOB)).status is JobStatus.QUEUED
    assert cloud.calls.pools == ["old", "new"]
    await later[1].cancel("someone", JOB)
    assert cloud.calls.cancelled == [("fc-2", False)]


async def test_a_job_that_runs_in_a_pool_that_is_gone_stays_there(
    cloud: Cloud, tmp_path: Path
) -> None:
    then = dataclasses.replace(cloud.platform, pools=Pools({"hello": "old"}, {"old": 60.0}))
    await ModalBackend(then, tmp_path / "then").submit(request())
    cloud.records.entries[claim_key(JOB, 1)] = claim()
    now = dataclasses.replace(cloud.platform, pools=Pools({"hello": "new"}, {"new": 60.0}))
    job = await ModalBackend(now, tmp_path / "now").get("someone", JOB)
    assert job.status is JobStatus.RUNNING
    assert cloud.calls.pools == ["old"]


async def test_the_sweep_spawns_what_was_left(cloud: Cloud, backend: ModalBackend) -> None:
    cloud.calls.failing = True
    await backend.submit(request())
    cloud.calls.failing = False
    cloud.pass_time(60)
    await backend.sweep()
    assert len(cloud.calls.spawned) == 1


async def test_the_sweep_keeps_the_input_files_of_jobs_that_did_not_end(
    cloud: Cloud, backend: ModalBackend
) -> None:
    needed, forgotten = (hashlib.sha256(data).hexdigest() for data in (b"needed", b"forgotten"))
    await backend.put_file("someone", needed, once(b"needed"))
    await backend.put_file("someone", forgotten, once(b"forgotten"))
    await backend.submit(request(files={"a.png": FileBySha256(sha256=needed)}))
    for path in cloud.platform.files.root.rglob("*"):
        os.utime(path, (0, 0))
    await backend.sweep()
    assert await backend.has_file("someone", needed)
    assert not await backend.has_file("someone", forgotten)


async def test_a_look_at_a_job_reads_no_preview_and_a_stream_shows_each_once(
    cloud: Cloud, backend: ModalBackend
) -> None:
    await backend.submit(request(previews=True))
    cloud.records.entries[claim_key(JOB, 1)] = claim()
    reporter = FeedReporter(cloud.feed, JOB, 1)
    reporter.report(PreviewFrame(data=b"picture", content_type="image/jpeg", node="3"))
    shown: list[str] = []
    async for event in backend.events("someone", JOB, after=None):
        if event.preview is not None:
            shown.append(event.preview.data)
            async with asyncio.timeout(60):
                read = cloud.feed.reads
                while cloud.feed.reads < read + 2:  # noqa: ASYNC110 -- again, from its start
                    await asyncio.sleep(0.01)
            await reporter.close(ended=True)
            await end(cloud, 1)
    assert len(shown) == 1
    assert not [text for place, text in cloud.feed.entries if place == JOB and "preview" in text]
    await backend.stop()


async def test_a_job_that_cannot_be_asked_for_holds_up_no_other(
    cloud: Cloud, backend: ModalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = cloud.calls.end

    async def broken(call_id: str, *, wait: float) -> CallEnd | None:
        if call_id == "fc-1":
            raise ConnectionError("Modal is away")
        return await ask(call_id, wait=wait)

    monkeypatch.setattr(cloud.calls, "end", broken)
    needed = hashlib.sha256(b"needed").hexdigest()
    await backend.put_file("someone", needed, once(b"needed"))
    await backend.submit(request(1, files={"a.png": FileBySha256(sha256=needed)}))
    await backend.submit(request(2))
    cloud.calls.states["fc-2"] = CallState.LOST
    for path in cloud.platform.files.root.rglob("*"):
        os.utime(path, (0, 0))
    assert await backend.sweep() == 0
    assert job_key(request(2).job_id, "final") in cloud.records.entries
    assert await backend.has_file("someone", needed)


async def test_a_small_request_travels_inline_and_a_large_one_does_not(
    cloud: Cloud, backend: ModalBackend
) -> None:
    await backend.submit(request(1))
    await backend.submit(request(2, inputs={"prompt": "x" * 9000}))
    await backend.submit(request(3, inputs={"prompt": "\u72d0" * 3000}))  # 9,000 bytes
    (_, small), (_, large), (_, wide) = cloud.calls.spawned
    assert small is not None
    assert large is None
    assert wide is None


async def test_a_key_whose_gateway_died_before_the_job_was_written_makes_that_job(
    cloud: Cloud, backend: ModalBackend, other: ModalBackend
) -> None:
    keyed = request(1, idempotency_key="k", fingerprint="f")
    await backend.submit(keyed)
    del cloud.records.entries[job_key(JOB, "request")]
    assert await other.replay("someone", "k", "f") is None
    again = await other.submit(request(2, idempotency_key="k", fingerprint="f"))
    assert again.job.id == JOB


async def test_a_key_is_free_again_after_a_day(cloud: Cloud, backend: ModalBackend) -> None:
    await backend.submit(request(1, idempotency_key="k", fingerprint="f"))
    cloud.pass_time(25 * 3600)
    assert await backend.replay("someone", "k", "other") is None
    later = await backend.submit(
        request(2, idempotency_key="k", fingerprint="other", created_at=cloud.now)
    )
    assert later.job.id != JOB
    replayed = await backend.replay("someone", "k", "other")
    assert replayed is not None
    assert replayed.id == later.job.id


async def test_a_key_with_another_body_is_refused(backend: ModalBackend) -> None:
    await backend.submit(request(1, idempotency_key="k", fingerprint="f"))
    with pytest.raises(BackendError) as caught:
        await backend.submit(request(2, idempotency_key="k", fingerprint="other"))
    assert caught.value.code is ErrorCode.IDEMPOTENCY_MISMATCH


@pytest.fixture
def strict(cloud: Cloud, tmp_path: Path) -> ModalBackend:
    """A gateway container that lets an owner have two unfinished jobs."""
    return ModalBackend(cloud.platform, tmp_path / "strict", max_unfinished_per_owner=2)


async def end(cloud: Cloud, number: int) -> None:
    final = End(status=JobStatus.SUCCEEDED, at=START, outputs={}).model_dump_json()
    await cloud.records.put(job_key(request(number).job_id, "final"), final)


async def test_of_many_jobs_at_once_the_quota_lets_so_many_pass(strict: ModalBackend) -> None:
    answers = await asyncio.gather(
        *(strict.submit(request(number)) for number in range(1, 7)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, BackendError)]
    assert [error.code for error in refused] == [ErrorCode.QUOTA_EXCEEDED] * 4
    assert all(error.retry_after for error in refused)
    await strict.submit(request(7, owner="berta"))


async def test_a_key_s_own_quota_replaces_that_of_the_deployment(
    cloud: Cloud, strict: ModalBackend
) -> None:
    wide, narrow = OwnerBudget(max_unfinished_jobs=3), OwnerBudget(max_unfinished_jobs=1)
    for number in (1, 2, 3):
        await strict.submit(request(number), wide)
    for budget in (wide, narrow, NO_BUDGET):
        with pytest.raises(BackendError) as caught:
            await strict.submit(request(4), budget)
        limit = budget.max_unfinished_jobs or 2
        assert (caught.value.budget, caught.value.limit) == ("max_unfinished_jobs", limit)
    assert (await strict.usage(request(1).owner)).unfinished_jobs == 3
    assert (await strict.usage("nobody")).unfinished_jobs == 0


async def test_without_a_quota_nothing_is_counted(backend: ModalBackend) -> None:
    await backend.submit(request(1))
    assert (await backend.usage(request(1).owner)).unfinished_jobs is None


async def test_an_owner_at_the_quota_may_go_on_when_a_job_ended(
    cloud: Cloud, strict: ModalBackend
) -> None:
    for number in (1, 2):
        await strict.submit(request(number))
    await end(cloud, 1)
    await strict.submit(request(3))
    with pytest.raises(BackendError) as caught:
        await strict.submit(request(4))
    assert caught.value.code is ErrorCode.QUOTA_EXCEEDED


async def test_jobs_submitted_at_once_pass_when_all_earlier_ones_ended(
    cloud: Cloud, strict: ModalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = cloud.records.get

    async def slow(key: str) -> str | None:
        await asyncio.sleep(0.01)
        return await get(key)

    monkeypatch.setattr(cloud.records, "get", slow)
    for number in (1, 2):
        await strict.submit(request(number))
        await end(cloud, number)
    await asyncio.gather(strict.submit(request(3)), strict.submit(request(4)))


async def test_jobs_one_after_the_other_pass_however_short_they_are(
    cloud: Cloud, strict: ModalBackend
) -> None:
    for number in range(1, 6):
        await strict.submit(request(number))
        await end(cloud, number)


async def test_jobs_whose_records_are_gone_count_for_no_quota(
    cloud: Cloud, strict: ModalBackend
) -> None:
    for number in (1, 2):
        await strict.submit(request(number))
    cloud.pass_time(8 * 24 * 3600)
    cloud.records.entries.clear()
    await strict.submit(request(3, created_at=cloud.now))


async def test_a_replay_counts_for_no_quota(cloud: Cloud, strict: ModalBackend) -> None:
    await strict.submit(request(1, idempotency_key="k", fingerprint="f"))
    again = await strict.submit(request(2, idempotency_key="k", fingerprint="f"))
    assert (again.replayed, again.job.id) == (True, request(1).job_id)
    await strict.submit(request(3))
    full = await strict.submit(request(4, idempotency_key="k", fingerprint="f"))
    assert (full.replayed, full.job.id) == (True, request(1).job_id)


async def test_a_submit_that_failed_counts_for_no_quota(
    cloud: Cloud, strict: ModalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_key: str, _value: str) -> bool:
        raise ConnectionError("Modal is away")

    with monkeypatch.context() as patch:
        patch.setattr(cloud.records, "add", fail)
        for number in (1, 2, 3):
            with pytest.raises(ConnectionError):
                await strict.submit(request(number))
    assert not (await strict.submit(request(4))).replayed


async def test_a_claim_that_came_too_late_changes_no_finished_job(
    cloud: Cloud, backend: ModalBackend
) -> None:
    await backend.submit(request())
    cancelled = await backend.cancel("someone", JOB)
    cloud.records.entries[claim_key(JOB, 1)] = claim()
    assert await backend.get("someone", JOB) == cancelled


async def test_owners_and_keys_with_colons_do_not_meet(backend: ModalBackend) -> None:
    one = request(1, owner="a", idempotency_key="b:c", fingerprint="f")
    two = request(2, owner="a:b", idempotency_key="c", fingerprint="f")
    await backend.submit(one)
    assert (await backend.submit(two)).job.id == two.job_id
    assert [job.id for job in (await backend.list_jobs("a")).jobs] == [one.job_id]
    assert [job.id for job in (await backend.list_jobs("a:b")).jobs] == [two.job_id]


async def test_a_cancelled_job_is_followed_until_it_stopped(cloud: Cloud, tmp_path: Path) -> None:
    policy = Policy(cancel_grace=5, refresh=0.01)
    backend = ModalBackend(cloud.platform, tmp_path / "local", policy=policy)
    await backend.submit(request())
    cloud.records.entries[claim_key(JOB, 1)] = claim()
    await backend.cancel("someone", JOB)
    cloud.pass_time(6)  # and nobody asks
    async with asyncio.timeout(60):
        await cloud.calls.killed.wait()
    assert ("fc-1", True) in cloud.calls.cancelled
    await backend.stop()


async def test_a_job_of_another_owner_is_unknown(backend: ModalBackend) -> None:
    await backend.submit(request())
    for attempt in (backend.get("else", JOB), backend.cancel("else", JOB)):
        with pytest.raises(BackendError) as caught:
            await attempt
        assert caught.value.code is ErrorCode.UNKNOWN_JOB


async def test_a_job_that_did_not_start_in_time_expires(
    cloud: Cloud, backend: ModalBackend
) -> None:
    await backend.submit(request(queue_timeout=5))
    assert (await backend.get("someone", JOB)).status is JobStatus.QUEUED
    cloud.pass_time(6)
    job = await backend.get("someone", JOB)
    assert job.status is JobStatus.EXPIRED
    assert cloud.calls.cancelled == [("fc-1", False)]


@pytest.mark.parametrize(
    ("state", "cancelled", "status", "code"),
    [
        (CallState.RETURNED, False, JobStatus.FAILED, ErrorCode.WORKER_LOST),
        (CallState.RAISED, False, JobStatus.FAILED, ErrorCode.ENGINE_FAILED),
        (CallState.STOPPED, False, JobStatus.FAILED, ErrorCode.WORKER_LOST),
        (CallState.STOPPED, True, JobStatus.CANCELLED, ErrorCode.JOB_CANCELLED),
        (CallState.TIMED_OUT, False, JobStatus.TIMED_OUT, ErrorCode.JOB_TIMED_OUT),
        (CallState.GONE, False, JobStatus.FAILED, ErrorCode.WORKER_LOST),
        (CallState.LOST, False, JobStatus.FAILED, ErrorCode.WORKER_LOST),
    ],
)
async def test_each_end_of_a_call_without_a_word_of_the_worker_is_told_apart(
    cloud: Cloud,
    backend: ModalBackend,
    state: CallState,
    cancelled: bool,
    status: JobStatus,
    code: ErrorCode,
) -> None:
    await backend.submit(request())
    cloud.records.entries[claim_key(JOB, 1)] = claim()
    if cancelled:
        await backend.cancel("someone", JOB)
    cloud.calls.states["fc-1"] = state
    job = await backend.get("someone", JOB)
    assert job.status is status
    assert job.error is not None
    assert job.error.code is code
    assert await backend.get("someone", JOB) == job


async def test_the_end_of_a_call_that_lost_its_claim_is_not_the_end_of_the_job(
    cloud: Cloud, backend: ModalBackend
) -> None:
    await backend.submit(request())
    cloud.records.entries[claim_key(JOB, 1)] = claim("fc-2")
    cloud.calls.states["fc-1"] = CallState.RETURNED
    assert (await backend.get("someone", JOB)).status is JobStatus.RUNNING


async def test_an_engine_that_does_not_stop_costs_its_container(
    cloud: Cloud, backend: ModalBackend, other: ModalBackend
) -> None:
    await backend.submit(request())
    cloud.records.entries[claim_key(JOB, 1)] = claim()
    job = await backend.cancel("someone", JOB)
    assert job.status is JobStatus.RUNNING
    assert job.cancel_requested_at == cloud.now
    cloud.pass_time(Policy().cancel_grace + 1)
    await other.get("someone", JOB)
    assert cloud.calls.cancelled == [("fc-1", False), ("fc-1", True)]
    cloud.calls.states["fc-1"] = CallState.STOPPED
    assert (await other.get("someone", JOB)).status is JobStatus.CANCELLED


async def test_the_first_final_record_stands(
    cloud: Cloud, backend: ModalBackend, other: ModalBackend
) -> None:
    await backend.submit(request())
    cloud.records.entries[claim_key(JOB, 1)] = claim()
    finished = End(status=JobStatus.SUCCEEDED, at=cloud.now, attempt=1, outputs={})
    cloud.records.entries[job_key(JOB, "final")] = finished.model_dump_json()
    cloud.calls.states["fc-1"] = CallState.STOPPED
    job = await backend.cancel("someone", JOB)
    assert job.status is JobStatus.SUCCEEDED
    assert await other.get("someone", JOB) == job


async def test_the_version_grows_with_each_record_and_is_the_same_everywhere(
    cloud: Cloud, backend: ModalBackend, other: ModalBackend
) -> None:
    versions = [(await backend.submit(request())).job.version]

    async def look() -> None:
        one, two = await backend.get("someone", JOB), await other.get("someone", JOB)
        assert one == two
        versions.append(one.version)

    cloud.records.entries[claim_key(JOB, 1)] = claim()
    await look()
    entry = '{"attempt": 1, "number": %d, "progress": {"fraction": %g}}'
    await cloud.feed.append(JOB, entry % (1, 0.1))
    await look()
    await cloud.feed.append(JOB, entry % (2, 0.2))
    await look()
    await backend.cancel("someone", JOB)
    await look()
    await cloud.feed.append(JOB, entry % (3, 0.3))
    await look()
    cloud.records.entries[job_key(JOB, "final")] = End(
        status=JobStatus.CANCELLED, at=cloud.now
    ).model_dump_json()
    await look()
    assert versions == sorted(set(versions))


async def test_a_listing_goes_page_by_page_and_filters(cloud: Cloud, backend: ModalBackend) -> None:
    for number in range(1, 8):
        labels = {"odd": str(number % 2)}
        await backend.submit(request(number, labels=labels))
    await backend.submit(request(9, owner="else"))
    for number in (2, 3, 4):
        cloud.records.entries[job_key(request(number).job_id, "final")] = End(
            status=JobStatus.FAILED, at=cloud.now
        ).model_dump_json()
    first = await backend.list_jobs("someone", limit=4)
    rest = await backend.list_jobs("someone", limit=4, cursor=first.cursor)
    assert [int(job.id[4:]) for job in first.jobs + rest.jobs] == [7, 6, 5, 4, 3, 2, 1]
    assert rest.cursor is None
    failed = await backend.list_jobs(
        "someone", status=JobStatus.FAILED, labels={"odd": "0"}, limit=1
    )
    assert [int(job.id[4:]) for job in failed.jobs] == [4]
    more = await backend.list_jobs(
        "someone", status=JobStatus.FAILED, labels={"odd": "0"}, cursor=failed.cursor
    )
    assert [int(job.id[4:]) for job in more.jobs] == [2]
    assert (await backend.list_jobs("someone", workflow="flux")).jobs == []


async def test_ready_says_whether_modal_answers(
    cloud: Cloud, backend: ModalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await backend.ready()

    async def away(_: str) -> str | None:
        raise ConnectionError("away")

    monkeypatch.setattr(cloud.records, "get", away)
    assert not await backend.ready()
