"""The queue: order, places, limits, expiry, cancels and retention."""

import asyncio
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_schema.wire.jobs import JobStatus
from comfysnap_server.backends.local import LocalBackend, LocalLimits
from comfysnap_server.backends.local.live import LiveJob
from comfysnap_server.errors import BackendError
from tests.paths import ROOT
from tests.server.backends.local.conftest import StartBackend
from tests.server.backends.suite import (
    FOREVER,
    finish,
    loading,
    request,
    run,
    sampling,
    until_sampling,
)

ENGINES = "tests.server.backends.local.engines"


async def test_a_queued_job_that_is_cancelled_never_starts(
    start_backend: StartBackend, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:LoggingEngine",
        engine_options={"log": str(log), "step_seconds": 0.01},
        python_path=[ROOT],
    )
    first = (await backend.submit(request(sampling(FOREVER)))).job
    second = (await backend.submit(request())).job
    third = (await backend.submit(request())).job
    await until_sampling(backend, first)
    cancelled = await backend.cancel("anna", second.id)
    assert cancelled.status is JobStatus.CANCELLED
    assert (cancelled.attempt, cancelled.started_at) == (0, None)
    assert cancelled.cancel_requested_at is not None
    assert await backend.cancel("anna", second.id) == cancelled
    await backend.cancel("anna", first.id)
    assert (await finish(backend, third)).status is JobStatus.SUCCEEDED
    assert log.read_text().split() == [first.id, third.id]


async def test_places_in_the_queue_are_told_and_move_up(backend: LocalBackend) -> None:
    running = (await backend.submit(request(sampling(FOREVER)))).job
    await until_sampling(backend, running)
    waiting = [(await backend.submit(request(sampling(FOREVER)))).job for _ in range(3)]
    assert [job.progress.queue_position for job in waiting] == [1, 2, 3]
    await backend.cancel("anna", waiting[0].id)
    last = await backend.get("anna", waiting[2].id)
    assert last.progress.queue_position == 2
    await backend.cancel("anna", running.id)
    async with asyncio.timeout(60):
        while last.progress.queue_position != 1:
            last = await backend.wait("anna", last.id, after=last.version, timeout=20)
    assert last.status is JobStatus.QUEUED


async def test_events_of_a_waiting_job_tell_its_place(backend: LocalBackend) -> None:
    running = (await backend.submit(request(sampling(FOREVER)))).job
    await until_sampling(backend, running)
    await backend.submit(request(sampling(FOREVER)))
    last = (await backend.submit(request(sampling(FOREVER)))).job
    events = backend.events("anna", last.id, after=None)
    async with asyncio.timeout(60):
        first = await anext(events)
        assert first.job is not None
        assert first.job.progress.queue_position == 2
        await backend.cancel("anna", running.id)
        moved = await anext(events)
    assert moved.progress is not None
    assert moved.progress.queue_position == 1


async def test_a_place_in_a_long_queue_is_found_without_going_through_it(
    backend: LocalBackend,
) -> None:
    running = (await backend.submit(request(sampling(FOREVER)))).job
    await until_sampling(backend, running)
    waiting = [(await backend.submit(request())).job for _ in range(400)]
    for job in waiting[10:200]:
        await backend.cancel("anna", job.id)
    looked_at = 0

    class Counting:
        def __get__(self, live: Any, _: object) -> int:
            nonlocal looked_at
            looked_at += 1
            return live.__dict__["seq"]

        def __set__(self, live: Any, value: int) -> None:
            live.__dict__["seq"] = value

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LiveJob, "seq", Counting(), raising=False)
        found = [await backend.get("anna", waiting[-1].id) for _ in range(50)]
    assert {job.progress.queue_position for job in found} == {210}
    assert looked_at < 400


async def test_a_job_that_does_not_start_in_time_expires(
    start_backend: StartBackend, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:LoggingEngine",
        engine_options={"log": str(log), "step_seconds": 0.01},
        python_path=[ROOT],
    )
    running = (await backend.submit(request(sampling(FOREVER)))).job
    await until_sampling(backend, running)
    waiting = (await backend.submit(request(queue_timeout=0.05))).job
    expired = await finish(backend, waiting)
    assert expired.status is JobStatus.EXPIRED
    assert expired.error is not None
    assert expired.error.code is ErrorCode.JOB_EXPIRED
    await backend.cancel("anna", running.id)
    await run(backend, request())
    assert expired.id not in log.read_text()


async def test_a_job_that_started_in_time_does_not_expire(backend: LocalBackend) -> None:
    job = await run(backend, request(sampling(20), queue_timeout=30))
    assert job.status is JobStatus.SUCCEEDED


async def test_a_full_queue_refuses_and_says_when_to_come_back(
    start_backend: StartBackend,
) -> None:
    backend: LocalBackend = await start_backend(limits=LocalLimits(max_queued=2))
    running = (await backend.submit(request(sampling(FOREVER)))).job
    await until_sampling(backend, running)
    for _ in range(2):
        await backend.submit(request(idempotency_key="k", fingerprint="f") if _ else request())
    with pytest.raises(BackendError) as caught:
        await backend.submit(request())
    assert caught.value.code is ErrorCode.QUEUE_FULL
    assert caught.value.retry_after is not None
    replayed = await backend.submit(request(idempotency_key="k", fingerprint="f"))
    assert replayed.replayed


async def test_an_owner_at_the_quota_is_refused_and_others_are_not(
    start_backend: StartBackend,
) -> None:
    backend: LocalBackend = await start_backend(limits=LocalLimits(max_unfinished_per_owner=2))
    answers = await asyncio.gather(
        *(backend.submit(request(sampling(FOREVER))) for _ in range(6)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, BackendError)]
    assert [error.code for error in refused] == [ErrorCode.QUOTA_EXCEEDED] * 4
    await backend.submit(request(owner="berta"))


async def test_the_load_can_be_read_in_another_thread_while_jobs_come(
    start_backend: StartBackend,
) -> None:
    backend: LocalBackend = await start_backend()
    running = await until_sampling(backend, (await backend.submit(request(sampling(FOREVER)))).job)
    done = threading.Event()
    interval = sys.getswitchinterval()

    def read() -> int:
        count = 0
        while not done.is_set():
            assert backend.load().running == 1
            count += 1
        return count

    jobs = [(await backend.submit(request())).job for _ in range(200)]
    sys.setswitchinterval(1e-6)  # threads take turns within every loop
    try:
        reading = [asyncio.create_task(asyncio.to_thread(read)) for _ in range(3)]
        jobs += [(await backend.submit(request())).job for _ in range(200)]
        done.set()
        assert all(await asyncio.gather(*reading))
    finally:
        done.set()
        sys.setswitchinterval(interval)
    assert backend.load().queued == len(jobs)
    for job in (*jobs, running):
        await backend.cancel("anna", job.id)


async def test_five_hundred_jobs_run_in_order(start_backend: StartBackend, tmp_path: Path) -> None:
    log = tmp_path / "log"
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:LoggingEngine", engine_options={"log": str(log)}, python_path=[ROOT]
    )
    asked = [request() for _ in range(500)]
    submitted = await asyncio.gather(*(backend.submit(entry) for entry in asked))
    jobs = await asyncio.gather(*(finish(backend, entry.job) for entry in submitted))
    assert Counter(job.status for job in jobs) == {JobStatus.SUCCEEDED: 500}
    assert log.read_text().split() == [entry.job_id for entry in asked]


async def test_a_caller_who_hangs_up_does_not_keep_a_job_from_running(
    backend: LocalBackend,
) -> None:
    asked = request()
    submit = asyncio.create_task(backend.submit(asked))
    await asyncio.sleep(0)
    submit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submit
    async with asyncio.timeout(60):
        while True:
            try:
                job = await backend.get("anna", asked.job_id)
                break
            except BackendError:
                await asyncio.sleep(0.01)
    assert (await finish(backend, job)).status is JobStatus.SUCCEEDED


async def test_an_engine_that_ignores_the_interrupt_loses_its_process(
    start_backend: StartBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:StubbornEngine",
        engine_options={"step_seconds": 0.01},
        python_path=[ROOT],
        limits=LocalLimits(interrupt_grace=0.1),
    )
    job = await until_sampling(backend, (await backend.submit(request(sampling(FOREVER)))).job)
    before = await backend.worker_pid()
    asked = await backend.cancel("anna", job.id)
    assert (asked.status, asked.is_final) == (JobStatus.RUNNING, False)
    assert (await finish(backend, job)).status is JobStatus.CANCELLED
    slow = await run(backend, request(sampling(FOREVER), timeout=0.2))
    assert slow.status is JobStatus.TIMED_OUT
    assert (await run(backend, request())).status is JobStatus.SUCCEEDED
    assert await backend.worker_pid() != before
    assert f"worker {before} is lost: the server ended it" in caplog.messages


async def test_a_job_that_finishes_before_the_cancel_reaches_it_has_succeeded(
    start_backend: StartBackend, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:HeldEngine", engine_options={"gate": str(gate)}, python_path=[ROOT]
    )
    job = await until_sampling(backend, (await backend.submit(request())).job)
    asked = await backend.cancel("anna", job.id)
    assert asked.cancel_requested_at is not None
    gate.touch()
    assert (await finish(backend, job)).status is JobStatus.SUCCEEDED


async def test_an_engine_that_fails_unforeseen_gets_a_new_process(
    start_backend: StartBackend,
) -> None:
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:BrokenEngine",
        engine_options={"step_seconds": 0},
        python_path=[ROOT],
    )
    before = await backend.worker_pid()
    job = await run(backend, request({"9": {"class_type": "SaveImage", "inputs": {}}}))
    assert job.error is not None
    assert job.error.code is ErrorCode.ENGINE_FAILED
    assert "device is gone" not in job.error.model_dump_json()
    assert (await run(backend, request())).status is JobStatus.SUCCEEDED
    assert await backend.worker_pid() != before


async def test_an_engine_that_quits_fails_its_job_and_is_replaced(
    start_backend: StartBackend,
) -> None:
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:QuittingEngine", python_path=[ROOT], engine_options={"step_seconds": 0}
    )
    before = await backend.worker_pid()
    jobs = [await run(backend, request()) for _ in range(2)]
    assert [job.error and job.error.code for job in jobs] == [ErrorCode.ENGINE_FAILED] * 2
    assert await backend.worker_pid() != before


async def test_what_a_job_leaves_in_its_input_folder_no_other_job_finds(
    start_backend: StartBackend,
) -> None:
    littering = {"engine": f"{ENGINES}:LitteringEngine", "python_path": [ROOT]}
    backend: LocalBackend = await start_backend(**littering, engine_options={"step_seconds": 0})
    jobs = [await run(backend, request()) for _ in range(3)]
    assert [job.status for job in jobs] == [JobStatus.SUCCEEDED] * 3
    await backend.stop()
    again: LocalBackend = await start_backend(**littering, engine_options={"step_seconds": 0})
    assert (await run(again, request())).status is JobStatus.SUCCEEDED


async def test_outputs_past_retention_are_gone_and_the_job_stays(
    start_backend: StartBackend, data: Path
) -> None:
    first: LocalBackend = await start_backend()
    job = await run(first, request())
    await run(first, request(loading("none.png")))
    await first.stop()
    second = await start_backend(limits=LocalLimits(keep_outputs=0, sweep_interval=0.02))
    async with asyncio.timeout(60):
        while any((data / "jobs").iterdir()):  # noqa: ASYNC110 -- a folder sets no event
            await asyncio.sleep(0.01)
    told: Any = (job.outputs or {})["image"]
    with pytest.raises(BackendError) as caught:
        await second.open_output("anna", job.id, told["name"])
    assert caught.value.code is ErrorCode.OUTPUT_EXPIRED
    assert await second.get("anna", job.id) == job


async def test_a_page_of_large_jobs_is_shorter_and_none_is_left_out(
    backend: LocalBackend,
) -> None:
    sent = [
        (await backend.submit(request(inputs={"text": "x" * 3_000_000}))).job.id for _ in range(5)
    ]
    pages = [await backend.list_jobs("anna")]
    while pages[-1].cursor is not None:
        pages.append(await backend.list_jobs("anna", cursor=pages[-1].cursor))
    assert [len(page.jobs) for page in pages] == [2, 2, 1]
    assert [job.id for page in pages for job in page.jobs] == sent[::-1]


async def test_a_cursor_of_somebody_else_is_refused(backend: LocalBackend) -> None:
    with pytest.raises(BackendError) as caught:
        await backend.list_jobs("anna", cursor="1; DROP TABLE jobs")
    assert caught.value.code is ErrorCode.INVALID_REQUEST


async def test_nothing_is_accepted_after_a_stop(start_backend: StartBackend) -> None:
    backend: LocalBackend = await start_backend()
    await backend.stop()
    with pytest.raises(BackendError) as caught:
        await backend.submit(request())
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert not await backend.ready()


async def test_of_two_jobs_that_meet_an_idle_worker_one_runs_and_one_waits(
    start_backend: StartBackend, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:HeldEngine", engine_options={"gate": str(gate)}, python_path=[ROOT]
    )
    await backend.worker_pid()
    both = await asyncio.gather(backend.submit(request()), backend.submit(request()))
    assert {told.job.status for told in both} == {JobStatus.RUNNING, JobStatus.QUEUED}
    gate.touch()
    ended = [await finish(backend, told.job) for told in both]
    assert [(job.status, job.attempt) for job in ended] == [(JobStatus.SUCCEEDED, 1)] * 2


async def test_a_job_that_an_idle_worker_was_about_to_take_outlives_a_stop(
    start_backend: StartBackend,
) -> None:
    backend: LocalBackend = await start_backend()
    await backend.worker_pid()
    asked = request(sampling(FOREVER))
    accepting = asyncio.create_task(backend.submit(asked))
    await asyncio.sleep(0)  # it is on its way to the disk
    await backend.stop()
    await accepting
    again: LocalBackend = await start_backend()
    job = await until_sampling(again, await again.get("anna", asked.job_id))
    assert (job.status, job.attempt) == (JobStatus.RUNNING, 1)
    await finish(again, await again.cancel("anna", asked.job_id))
