"""Several workers on one machine: each runs its own job, and what befalls one leaves the others."""

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_schema.wire.jobs import JobRecord, JobStatus
from comfysnap_server.backends.local import LocalBackend, LocalLimits, fork_client
from comfysnap_server.backends.local.live import LiveJob
from comfysnap_server.backends.local.queue import JobQueue
from comfysnap_server.backends.local.slots import spread
from comfysnap_server.backends.local.worker_main import show_one_gpu
from comfysnap_server.engine.protocol import EngineStartError
from tests.paths import ROOT
from tests.server.backends.local.conftest import StartBackend
from tests.server.backends.local.test_crashes import (
    ENGINES,
    copy_store,
    fork_server_of,
    is_alive,
    until_dead,
)
from tests.server.backends.suite import FOREVER, finish, request, run, sampling, until_sampling

DEVICES = ["simulated (GPU 0)", "simulated (GPU 1)"]


async def two_running(backend: LocalBackend, **options: object) -> list[JobRecord]:
    """Two jobs that do not end, one on each worker, in the order of the workers."""
    jobs = [(await backend.submit(request(sampling(FOREVER), **options))).job for _ in range(2)]
    running = [await until_sampling(backend, job) for job in jobs]
    return sorted(running, key=lambda job: job.timings.device or "")


async def taken(backend: LocalBackend, job: JobRecord, owner: str = "anna") -> JobRecord:
    """The job once a worker has it."""
    async with asyncio.timeout(60):
        while job.status is JobStatus.QUEUED:
            job = await backend.wait(owner, job.id, after=job.version, timeout=25)
    return job


async def test_a_hundred_jobs_keep_both_devices_busy_and_owners_take_turns(
    start_backend: StartBackend, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:LoggingEngine",
        engine_options={"log": str(log), "step_seconds": 0.01},
        python_path=[ROOT],
        gpus=[0, 1],
    )
    holding = await two_running(backend)
    submitted = [
        (await backend.submit(request(owner=owner))).job
        for owner in ("anna", "ben")
        for _ in range(50)
    ]
    for job in holding:
        await backend.cancel("anna", job.id)
    owners = ["anna"] * 50 + ["ben"] * 50
    ended = [
        await finish(backend, job, owner) for job, owner in zip(submitted, owners, strict=True)
    ]
    assert {job.status for job in ended} == {JobStatus.SUCCEEDED}
    ids = [*(job.id for job in holding), *(job.id for job in submitted)]
    assert Counter(log.read_text().split()) == Counter(ids)
    used = Counter(job.timings.device for job in ended)
    assert set(used) == set(DEVICES)
    assert min(used.values()) > 20
    owner_of = dict(zip([job.id for job in submitted], owners, strict=True))
    by_start = sorted(ended, key=lambda job: job.started_at or job.created_at)
    assert [owner_of[job.id] for job in by_start] == ["anna", "ben"] * 50
    assert [job.id for job in by_start if owner_of[job.id] == "ben"] == [
        job.id for job in submitted[50:]
    ]


async def test_a_long_queue_of_one_owner_does_not_hold_up_the_only_job_of_another(
    backend: LocalBackend,
) -> None:
    running = (await backend.submit(request(sampling(FOREVER)))).job
    await until_sampling(backend, running)
    mine = [(await backend.submit(request())).job for _ in range(20)]
    other = (await backend.submit(request(owner="ben"))).job
    assert other.progress.queue_position == 2
    assert (await backend.get("anna", mine[1].id)).progress.queue_position == 3
    assert (await backend.get("anna", mine[0].id)).progress.queue_position == 1
    await backend.cancel("anna", running.id)
    ended = await finish(backend, other, "ben")
    later = await finish(backend, mine[1])
    assert ended.started_at is not None
    assert later.started_at is not None
    assert ended.started_at < later.started_at


def test_places_are_the_order_in_which_jobs_are_taken() -> None:
    rand = random.Random(7)
    for _ in range(50):
        queue = JobQueue()
        lives: list[LiveJob] = []
        for seq in range(rand.randrange(1, 30)):
            asked = request(owner=rand.choice(["anna", "ben", "carl", "dora"]))
            record = asked.record(status=JobStatus.QUEUED, version=1)
            lives.append(LiveJob.of(seq, asked, record))
        waiting = dict(enumerate(lives))
        for live in lives:
            queue.add(live)
        for seq in rand.sample(sorted(waiting), len(waiting) // 3):
            queue.drop(waiting.pop(seq))
        for _ in range(len(waiting) // 4):
            again = queue.take()
            assert again is not None
            if rand.random() < 0.5:
                queue.put_back(again)
                assert queue.position(again) == 0
            else:
                del waiting[again.seq]
        places = {live.seq: queue.position(live) for live in waiting.values()}
        order: list[int] = []
        while (live := queue.take()) is not None:
            order.append(live.seq)
        assert [places[seq] for seq in order] == list(range(len(waiting)))


async def test_a_worker_that_is_killed_takes_only_its_job_with_it_and_comes_back(
    start_backend: StartBackend,
) -> None:
    backend: LocalBackend = await start_backend(gpus=[0, 1])
    lost, kept = await two_running(backend)
    pids = [await backend.worker_pid(slot) for slot in (0, 1)]
    waiting = (await backend.submit(request())).job
    os.kill(pids[0], signal.SIGKILL)
    ended = await finish(backend, lost)
    assert ended.error is not None
    assert ended.error.code is ErrorCode.WORKER_LOST
    following = await finish(backend, waiting)
    assert (following.status, following.timings.device) == (JobStatus.SUCCEEDED, DEVICES[0])
    assert await backend.worker_pid(0) != pids[0]
    assert await backend.worker_pid(1) == pids[1]
    assert (await backend.get("anna", kept.id)).status is JobStatus.RUNNING
    assert await backend.ready()


async def test_a_cancel_reaches_only_its_worker(start_backend: StartBackend) -> None:
    backend: LocalBackend = await start_backend(gpus=[0, 1])
    cancelled, kept = await two_running(backend)
    pids = [await backend.worker_pid(slot) for slot in (0, 1)]
    await backend.cancel("anna", cancelled.id)
    assert (await finish(backend, cancelled)).status is JobStatus.CANCELLED
    going_on = await backend.wait("anna", kept.id, after=kept.version, timeout=60)
    assert going_on.status is JobStatus.RUNNING
    assert [await backend.worker_pid(slot) for slot in (0, 1)] == pids


@pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper")
@pytest.mark.parametrize("end", ["cancel", "worker killed"])
async def test_what_another_job_started_lives_on_when_one_is_ended(
    start_backend: StartBackend, tmp_path: Path, end: str
) -> None:
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:StrayOfEachJobEngine",
        engine_options={"pid_file": str(tmp_path / "pid")},
        python_path=[ROOT],
        gpus=[0, 1],
        limits=LocalLimits(interrupt_grace=0.2),
    )
    jobs = [(await backend.submit(request(sampling(FOREVER)))).job for _ in range(2)]
    strays: list[int] = []
    for number, job in enumerate(jobs):
        async with asyncio.timeout(60):
            while job.progress.node != "5":
                job = await backend.wait("anna", job.id, after=job.version, timeout=25)
        jobs[number] = job
        strays.append(int((tmp_path / job.id).read_text()))
    slot = DEVICES.index(jobs[0].timings.device or "")
    if end == "cancel":
        await backend.cancel("anna", jobs[0].id)
    else:
        os.kill(await backend.worker_pid(slot), signal.SIGKILL)
    await finish(backend, jobs[0])
    assert [is_alive(stray) for stray in strays] == [False, True]
    await backend.stop()
    await until_dead(strays[1])


async def test_a_fork_server_that_hangs_does_not_end_the_jobs_of_other_workers(
    start_backend: StartBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend: LocalBackend = await start_backend(gpus=[0, 1])
    lost, kept = await two_running(backend)
    monkeypatch.setattr(fork_client, "FORK_PATIENCE_S", 1.0)
    workers = [await backend.worker_pid(slot) for slot in (0, 1)]
    fork_server = fork_server_of(workers[0])
    os.kill(fork_server, signal.SIGSTOP)
    os.kill(workers[0], signal.SIGKILL)
    await finish(backend, lost)
    following = await run(backend, request())
    assert (following.status, following.timings.device) == (JobStatus.SUCCEEDED, DEVICES[0])
    assert (await backend.get("anna", kept.id)).status is JobStatus.RUNNING
    assert fork_server_of(await backend.worker_pid(0)) != fork_server
    os.kill(workers[1], signal.SIGKILL)
    await finish(backend, kept)
    await until_dead(fork_server)


async def test_workers_that_cannot_be_forked_are_processes_of_their_own(
    start_backend: StartBackend,
) -> None:
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:ThreadedEngine",
        engine_options={"step_seconds": 0.01},
        python_path=[ROOT],
        workers=2,
    )
    workers = [await backend.worker_pid(slot) for slot in (0, 1)]
    jobs = [(await backend.submit(request(sampling(FOREVER)))).job for _ in range(2)]
    for job in jobs:
        await until_sampling(backend, job)
    os.kill(workers[0], signal.SIGKILL)
    await finish(backend, jobs[0])
    assert (await run(backend, request())).status is JobStatus.SUCCEEDED
    assert (await backend.get("anna", jobs[1].id)).status is JobStatus.RUNNING
    assert await backend.worker_pid(1) == workers[1]
    await backend.stop()
    assert not any(map(is_alive, workers))


async def test_a_device_that_fails_leaves_the_jobs_to_the_others(
    start_backend: StartBackend,
) -> None:
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:SecondDeviceBrokenEngine",
        engine_options={"step_seconds": 0},
        python_path=[ROOT],
        gpus=[0, 1],
    )
    jobs = [await run(backend, request()) for _ in range(4)]
    assert {job.timings.device for job in jobs} == {DEVICES[0]}
    assert await backend.ready()
    assert backend.engine_failure is None
    assert backend.start_failure is None


async def test_jobs_that_ran_when_the_server_died_run_again_or_fail(
    start_backend: StartBackend, data: Path, tmp_path: Path
) -> None:
    first: LocalBackend = await start_backend(gpus=[0, 1])
    again = (await first.submit(request(sampling(FOREVER), max_attempts=2))).job
    lost = (await first.submit(request(sampling(FOREVER)))).job
    for job in (again, lost):
        await until_sampling(first, job)
    copied = tmp_path / "copy"
    await asyncio.to_thread(copy_store, data, copied)
    second = LocalBackend(copied, engine_options={"step_seconds": 0}, gpus=[0, 1])
    await second.start()
    try:
        ended = [await finish(second, await second.get("anna", job.id)) for job in (again, lost)]
    finally:
        await second.stop()
    assert [(job.status, job.attempt) for job in ended] == [
        (JobStatus.SUCCEEDED, 2),
        (JobStatus.FAILED, 1),
    ]


async def test_a_stop_queues_all_running_jobs_again_and_leaves_no_process(
    start_backend: StartBackend,
) -> None:
    first: LocalBackend = await start_backend(gpus=[0, 1])
    running = await two_running(first)
    workers = [await first.worker_pid(slot) for slot in (0, 1)]
    fork_server = fork_server_of(workers[0])
    assert fork_server == fork_server_of(workers[1])
    await first.stop()
    assert not any(map(is_alive, [*workers, fork_server]))
    second: LocalBackend = await start_backend(gpus=[0, 1], engine_options={"step_seconds": 0})
    for job in running:
        ended = await finish(second, await second.get("anna", job.id))
        assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 1)


async def test_submits_that_find_all_workers_idle_are_taken_by_one_each(
    start_backend: StartBackend,
) -> None:
    backend: LocalBackend = await start_backend(workers=3)
    for slot in range(3):
        await backend.worker_pid(slot)
    asked = [request(sampling(FOREVER)) for _ in range(4)]
    submitted = await asyncio.gather(*(backend.submit(one) for one in asked))
    statuses = Counter(result.job.status for result in submitted)
    assert statuses == {JobStatus.RUNNING: 3, JobStatus.QUEUED: 1}
    for result in submitted:
        await backend.cancel("anna", result.job.id)
    ended = [await finish(backend, result.job) for result in submitted]
    assert {job.status for job in ended} == {JobStatus.CANCELLED}


@pytest.mark.parametrize(
    ("gpus", "workers", "found"),
    [
        ([], None, [None]),
        ([], 2, [None, None]),
        ([0, 1], None, [0, 1]),
        ([3, 1], 5, [3, 1, 3, 1, 3]),
    ],
)
def test_workers_are_spread_over_the_devices(
    gpus: list[int], workers: int | None, found: list[int | None]
) -> None:
    assert spread(gpus, workers) == found


@pytest.mark.parametrize(("gpus", "workers"), [([0, 1], 1), ([], 0)])
def test_fewer_workers_than_devices_are_refused(gpus: list[int], workers: int) -> None:
    with pytest.raises(ValueError, match="workers must be at least"):
        spread(gpus, workers)


@pytest.mark.parametrize(
    ("visible", "shown"), [(None, "1"), ("4, 7", "7"), ("GPU-a,GPU-b", "GPU-b")]
)
def test_a_worker_sees_its_device_among_those_that_the_server_may_use(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, shown: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible or "")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    show_one_gpu(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == shown


@pytest.mark.parametrize("visible", ["", "4"])
def test_a_device_that_is_hidden_from_the_server_is_missing(
    monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(EngineStartError, match="CUDA_VISIBLE_DEVICES"):
        show_one_gpu(1)
