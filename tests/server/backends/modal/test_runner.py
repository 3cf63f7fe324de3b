"""What a GPU container does with calls that come twice, again, too late, or never end."""

import asyncio
import sys
import threading
from collections.abc import Callable

import pytest

from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_schema.wire.files import FileBySha256, Kind
from comfysnap_schema.wire.jobs import JobStatus, Progress
from comfysnap_schema.workflow.map import OutputSpec
from comfysnap_server.backends.modal.records import (
    CancelRequest,
    End,
    FeedEntry,
    claim_key,
    job_key,
    preempted_key,
)
from comfysnap_server.backends.modal.runner import STUCK_EXIT_CODE, JobRunner, WorkerPolicy
from comfysnap_server.backends.modal.shared_files import output_folder
from comfysnap_server.engine.protocol import (
    EngineError,
    EngineInterrupted,
    EngineJob,
    EngineResult,
    NodeOutput,
    ProducedFile,
    Report,
)
from tests.server.backends.modal.memory import Cloud, request

pytestmark = pytest.mark.modal
JOB = request().job_id
QUICK = WorkerPolicy(stop_grace=0.2)
PATIENT = WorkerPolicy(stop_grace=60)
"""Where the engine stops: else its process would end, which is that of the tests."""


class FakeEngine:
    """Writes one file; waits for ``go`` first, and stops when told unless it is deaf."""

    name = "fake"

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.running = threading.Event()
        self.deaf = False
        self.error: Exception | None = None
        self.interrupted = False
        self.jobs: list[str] = []

    def load(self) -> None: ...

    def attach(self) -> None: ...

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        self.jobs.append(job.job_id)
        report(Progress(fraction=0.5))
        self.running.set()
        self.go.wait(200)
        if self.interrupted and not self.deaf:
            raise EngineInterrupted
        if self.error:
            raise self.error
        path = job.output_dir / "made.txt"
        path.write_text("made")
        return EngineResult(outputs={"images": [ProducedFile(path=path, kind=Kind.IMAGE)]})

    def interrupt(self, job_id: str) -> None:
        self.interrupted = True
        if not self.deaf:
            self.go.set()


class DraftingEngine(FakeEngine):
    """Reports the output ``draft`` before it waits for ``go``."""

    def run(self, job: EngineJob, report: Report) -> EngineResult:
        """Write, report, go on."""
        path = job.output_dir / "draft.txt"
        path.write_text("draft")
        report(NodeOutput(name="draft", items=[ProducedFile(path=path, kind=Kind.IMAGE)]))
        return super().run(job, report)


TWO_OUTPUTS = {
    "draft": OutputSpec(node="2", kind=Kind.IMAGE),
    "images": OutputSpec(node="3", kind=Kind.IMAGE),
}


def told(cloud: Cloud) -> list[FeedEntry]:
    entries = [FeedEntry.model_validate_json(text) for _, text in cloud.feed.entries]
    return [entry for entry in entries if entry.outputs is not None]


async def until_told(cloud: Cloud) -> FeedEntry:
    async with asyncio.timeout(60):
        while not told(cloud):
            await cloud.feed.news.wait()
            cloud.feed.news.clear()
    return told(cloud)[0]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def make(cloud: Cloud, engine: FakeEngine) -> Callable[[], JobRunner]:
    def work() -> JobRunner:
        worker = JobRunner(engine, cloud.platform, PATIENT)
        worker.load()
        worker.attach(restored=True)
        return worker

    return work


async def run(worker: JobRunner, call_id: str = "fc-1", **changes: object) -> str:
    return await worker.run(JOB, request(1, **changes).model_dump_json(), call_id)


def end(cloud: Cloud) -> End:
    return End.model_validate_json(cloud.records.entries[job_key(JOB, "final")])


async def test_the_files_are_committed_before_the_end_is_told(
    cloud: Cloud, make: Callable[[], JobRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    commits_at_end: list[int] = []
    add = cloud.records.add

    async def watched(key: str, value: str) -> bool:
        if key.endswith(":final"):
            commits_at_end.append(cloud.files.commits)
        return await add(key, value)

    monkeypatch.setattr(cloud.records, "add", watched)
    assert await run(make()) == "succeeded"
    assert commits_at_end == [1]
    assert (cloud.root / output_folder(JOB) / "made.txt").read_text() == "made"
    assert end(cloud).timings.start_kind == "restored"


async def test_a_warm_up_never_runs_before_a_job_that_waits(
    cloud: Cloud, engine: FakeEngine
) -> None:
    worker = JobRunner(engine, cloud.platform, PATIENT)
    warmed: list[int] = []
    worker.attach(restored=True, warm_up=lambda: warmed.append(1))
    assert await run(worker) == "succeeded"
    assert (engine.jobs, engine.interrupted, warmed) == ([JOB], False, [])


async def test_a_warm_up_in_a_container_without_a_job_stops_for_the_first_one(
    cloud: Cloud, engine: FakeEngine
) -> None:
    started, stopped = threading.Event(), threading.Event()

    def warm_up() -> None:
        started.set()
        engine.go.wait(200)
        assert engine.jobs == []
        engine.interrupted = False
        stopped.set()

    engine.go.clear()
    worker = JobRunner(engine, cloud.platform, WorkerPolicy(warm_up_after=0))
    worker.attach(restored=True, warm_up=warm_up)
    await asyncio.to_thread(started.wait, 60)
    assert await run(worker) == "succeeded"
    assert stopped.is_set()
    assert await worker.run("job_2", request(2).model_dump_json(), "fc-2") == "succeeded"


async def test_an_early_output_is_committed_once_before_it_is_told(cloud: Cloud) -> None:
    engine = DraftingEngine()
    engine.go.clear()
    worker = JobRunner(engine, cloud.platform, PATIENT)
    running = asyncio.create_task(run(worker, outputs=TWO_OUTPUTS))
    entry = await until_told(cloud)
    folder = cloud.root / output_folder(JOB)
    assert cloud.files.commits == 1
    assert [path.name for path in folder.iterdir()] == ["draft.txt"]
    assert entry.progress is not None
    engine.go.set()
    assert await running == "succeeded"
    assert cloud.files.commits == 2
    assert sorted(path.name for path in folder.iterdir()) == ["draft.txt", "made.txt"]
    outputs = end(cloud).outputs
    assert outputs is not None
    assert entry.outputs == {"draft": outputs["draft"]}
    assert len(told(cloud)) == 1


async def test_an_output_that_was_told_stays_when_the_engine_cannot_be_stopped(
    cloud: Cloud,
) -> None:
    engine = DraftingEngine()
    engine.go.clear()
    engine.deaf = True
    worker = JobRunner(engine, cloud.platform, QUICK, exit_process=sys.exit)
    with pytest.raises(SystemExit):
        await run(worker, timeout=2.0, outputs=TWO_OUTPUTS)
    (entry,) = told(cloud)
    assert (end(cloud).status, end(cloud).outputs) == (JobStatus.TIMED_OUT, entry.outputs)
    engine.error = EngineInterrupted()
    engine.go.set()


async def test_an_output_whose_file_cannot_be_kept_early_comes_with_the_end(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()

    async def fail() -> None:
        failed.set()
        raise ConnectionError("Modal is away")

    engine = DraftingEngine()
    engine.go.clear()
    with monkeypatch.context() as patch:
        patch.setattr(cloud.files, "commit", fail)
        worker = JobRunner(engine, cloud.platform, PATIENT)
        running = asyncio.create_task(run(worker, outputs=TWO_OUTPUTS))
        async with asyncio.timeout(60):
            await failed.wait()
    engine.go.set()
    assert await running == "succeeded"
    assert told(cloud) == []
    assert sorted(end(cloud).outputs or {}) == ["draft", "images"]


async def test_a_second_call_for_the_same_job_gives_way(
    cloud: Cloud, engine: FakeEngine, make: Callable[[], JobRunner]
) -> None:
    assert await run(make(), "fc-1") == "succeeded"
    assert await run(make(), "fc-2") == "superseded"
    assert engine.jobs == [JOB]


async def test_a_requeued_call_is_refused_when_its_attempts_are_used(
    cloud: Cloud, engine: FakeEngine, make: Callable[[], JobRunner]
) -> None:
    await run(make())
    del cloud.records.entries[job_key(JOB, "final")]  # the container died before it was written
    assert await run(make()) == "superseded"
    assert engine.jobs == [JOB]
    error = end(cloud).error
    assert error is not None
    assert error.code is ErrorCode.WORKER_LOST


@pytest.mark.parametrize(("preemptions", "result"), [(3, "succeeded"), (4, "superseded")])
async def test_three_preemptions_use_up_no_attempt(
    cloud: Cloud, engine: FakeEngine, make: Callable[[], JobRunner], preemptions: int, result: str
) -> None:
    for _ in range(preemptions):
        await preempt(asyncio.create_task(run(make())), engine)
    assert await run(make()) == result
    assert end(cloud).status.value == ("succeeded" if result == "succeeded" else "failed")


@pytest.mark.parametrize("slow", ["claim", "final"])
async def test_a_container_taken_away_before_its_job_began_uses_up_no_attempt(
    cloud: Cloud, make: Callable[[], JobRunner], monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()
    method = "add" if slow == "claim" else "get"
    original = getattr(cloud.records, method)

    async def late(key: str, *value: str) -> object:
        found = await original(key, *value)
        if f":{slow}" in key and not answer.is_set():
            asked.set()
            await answer.wait()
        return found

    monkeypatch.setattr(cloud.records, method, late)
    running = asyncio.create_task(run(make()))
    await asked.wait()
    running.cancel()
    answer.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await run(make()) == "succeeded"
    assert preempted_key(JOB, 1) in cloud.records.entries


async def preempt(running: asyncio.Task[str], engine: FakeEngine) -> None:
    """Cancel the call as Modal does when it takes the container away."""
    engine.go.clear()
    assert await asyncio.to_thread(engine.running.wait, 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    engine.interrupted = False
    engine.running.clear()
    engine.go.set()


async def test_a_requeued_call_runs_again_where_that_is_allowed(
    cloud: Cloud, engine: FakeEngine, make: Callable[[], JobRunner]
) -> None:
    await run(make(), max_attempts=2)
    del cloud.records.entries[job_key(JOB, "final")]
    assert await run(make(), max_attempts=2) == "succeeded"
    assert engine.jobs == [JOB, JOB]
    assert end(cloud).attempt == 2
    assert claim_key(JOB, 2) in cloud.records.entries


async def test_a_requeued_call_of_a_finished_job_changes_nothing(
    cloud: Cloud, engine: FakeEngine, make: Callable[[], JobRunner]
) -> None:
    await run(make(), max_attempts=2)
    before = end(cloud)
    assert await run(make(), max_attempts=2) == "succeeded"
    assert end(cloud) == before
    assert engine.jobs == [JOB]


async def test_a_job_that_was_cancelled_before_it_was_taken_does_not_run(
    cloud: Cloud, engine: FakeEngine, make: Callable[[], JobRunner]
) -> None:
    cloud.records.entries[job_key(JOB, "cancel")] = CancelRequest(at=cloud.now).model_dump_json()
    assert await run(make()) == "cancelled"
    assert engine.jobs == []


async def test_a_job_that_waited_too_long_does_not_run(
    cloud: Cloud, engine: FakeEngine, make: Callable[[], JobRunner]
) -> None:
    cloud.pass_time(10)
    assert await run(make(), queue_timeout=5) == "expired"
    assert engine.jobs == []


async def test_a_cancelled_call_stops_the_engine_and_then_gives_way(
    cloud: Cloud, engine: FakeEngine, make: Callable[[], JobRunner]
) -> None:
    engine.go.clear()
    task = asyncio.create_task(run(make()))
    await asyncio.to_thread(engine.running.wait, 60)
    cloud.records.entries[job_key(JOB, "cancel")] = CancelRequest(at=cloud.now).model_dump_json()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.interrupted
    assert end(cloud).status is JobStatus.CANCELLED


async def test_a_container_that_is_taken_away_ends_no_job_that_nobody_cancelled(
    cloud: Cloud, engine: FakeEngine, make: Callable[[], JobRunner]
) -> None:
    engine.go.clear()
    task = asyncio.create_task(run(make(), max_attempts=2))
    await asyncio.to_thread(engine.running.wait, 60)
    task.cancel()  # as SIGINT does, in Modal's event loop
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.interrupted
    assert job_key(JOB, "final") not in cloud.records.entries
    engine.interrupted = False
    assert await run(make(), max_attempts=2) == "succeeded"
    assert end(cloud).attempt == 2


async def test_a_claim_whose_answer_was_lost_is_still_the_first_attempt(
    cloud: Cloud, engine: FakeEngine, make: Callable[[], JobRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    add = cloud.records.add

    async def sent_twice(key: str, value: str) -> bool:
        await add(key, value)
        return await add(key, str(value.encode(), "utf-8"))

    with monkeypatch.context() as patch:
        patch.setattr(cloud.records, "add", sent_twice)
        assert await run(make()) == "succeeded"
    assert engine.jobs == [JOB]
    assert end(cloud).attempt == 1


async def test_a_job_that_finishes_despite_its_cancellation_has_succeeded(
    cloud: Cloud, engine: FakeEngine, make: Callable[[], JobRunner]
) -> None:
    engine.go.clear()
    engine.deaf = True
    task = asyncio.create_task(run(make()))
    await asyncio.to_thread(engine.running.wait, 60)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # a second one changes nothing
    engine.go.set()
    assert await task == "succeeded"
    assert end(cloud).status is JobStatus.SUCCEEDED


async def test_a_job_over_its_timeout_is_stopped(
    cloud: Cloud, engine: FakeEngine, make: Callable[[], JobRunner]
) -> None:
    engine.go.clear()
    assert await run(make(), timeout=0.1) == "timed_out"
    assert engine.interrupted


async def test_a_stuck_engine_ends_its_process_after_the_job_was_told(
    cloud: Cloud, engine: FakeEngine
) -> None:
    engine.go.clear()
    engine.deaf = True
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        assert end(cloud).status is JobStatus.TIMED_OUT
        raise SystemExit(code)

    worker = JobRunner(engine, cloud.platform, QUICK, exit_process=leave)
    with pytest.raises(SystemExit):
        await run(worker, timeout=0.1)
    assert codes == [STUCK_EXIT_CODE]
    engine.go.set()


async def test_a_failure_of_the_engine_is_the_end_of_the_job_alone(
    cloud: Cloud, engine: FakeEngine, make: Callable[[], JobRunner]
) -> None:
    engine.error = EngineError(ErrorCode.NODE_FAILED, "node 3")
    worker = make()
    assert await run(worker) == "failed"
    engine.error = None
    other = request(2)
    assert await worker.run(other.job_id, other.model_dump_json(), "fc-2") == "succeeded"


async def test_a_missing_input_file_is_named(
    cloud: Cloud, engine: FakeEngine, make: Callable[[], JobRunner]
) -> None:
    files = {"x.png": FileBySha256(sha256="0" * 64)}
    assert await run(make(), files=files) == "failed"
    error = end(cloud).error
    assert error is not None
    assert error.code is ErrorCode.INPUT_UNAVAILABLE
    assert engine.jobs == []


async def test_a_job_that_nobody_wrote_is_left_alone(
    cloud: Cloud, make: Callable[[], JobRunner]
) -> None:
    assert await make().run(JOB, None, "fc-1") == "unknown_job"
    assert cloud.records.entries == {}


async def test_a_result_is_told_once_modal_answers_again(
    cloud: Cloud, engine: FakeEngine, make: Callable[[], JobRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    add = cloud.records.add
    failures = iter(range(2))

    async def away(key: str, value: str) -> bool:
        if key.endswith(":final") and next(failures, None) is not None:
            raise ConnectionError("Modal is away")
        return await add(key, value)

    monkeypatch.setattr(cloud.records, "add", away)
    assert await run(make()) == "succeeded"
    assert end(cloud).status is JobStatus.SUCCEEDED
    assert engine.jobs == [JOB]


async def test_a_broken_volume_fails_the_job_and_not_the_worker(
    cloud: Cloud, make: Callable[[], JobRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise RuntimeError("no volume")

    monkeypatch.setattr(cloud.files, "commit", broken)
    assert await run(make()) == "failed"
    error = end(cloud).error
    assert error is not None
    assert error.code is ErrorCode.ENGINE_FAILED
