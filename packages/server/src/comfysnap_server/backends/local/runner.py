"""Takes queued jobs one by one, runs each on the worker, and records how it ended."""

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, Literal

from comfysnap_schema.wire import (
    JobRecord,
    JobStatus,
    Preview,
    Problem,
    Progress,
    Timings,
)
from comfysnap_server.backends.local import store
from comfysnap_server.backends.local.folders import JobFolders
from comfysnap_server.backends.local.live import LiveJob, Stop
from comfysnap_server.backends.local.queue import JobQueue
from comfysnap_server.backends.local.supervisor import WorkerSupervisor
from comfysnap_server.backends.local.worker_main import RunOrder
from comfysnap_server.backends.local.worker_process import (
    StartTimings,
    WorkerLostError,
    WorkerProcess,
)
from comfysnap_server.backends.local.writer import Writer
from comfysnap_server.backends.protocol import BackendError, JobRequest
from comfysnap_server.jobs import (
    ENDINGS,
    Ending,
    FetchPolicy,
    FileStore,
    InputUnavailableError,
    Outcome,
    failed,
    stage_inputs,
)

logger = logging.getLogger(__name__)

_RETRY_S: Final = 1.0


class Runner:
    """Runs one job at a time.

    What is written when, and why: a submit, a cancel and an end are durable before they are
    reported, so that nothing that was answered is forgotten even after a power cut. That a worker
    takes a job is committed before it is sent to the worker but not flushed on its own: it survives
    the death of this process, which keeps a job from running twice after ``kill -9``; a power cut
    may take it back, and then the job, whose end nobody saw, runs again. A job that finds the
    worker idle is stored as running with its submit, in one commit. Progress is never written.
    """

    def __init__(
        self,
        *,
        writer: Writer,
        queue: JobQueue,
        pool: WorkerSupervisor,
        files: FileStore,
        folders: JobFolders,
        fetch: FetchPolicy,
        interrupt_grace: float,
        ended: Callable[[LiveJob], None],
    ) -> None:
        self._writer = writer
        self._queue = queue
        self._pool = pool
        self._files = files
        self._folders = folders
        self._fetch = fetch
        self._interrupt_grace = interrupt_grace
        self._ended = ended
        self._free_since = time.time()
        self.stopping = False
        """Take no further job."""
        self.current: LiveJob | None = None
        self.stuck: str | None = None
        """Why the end of a job cannot be written; None while all is well."""

    @property
    def idle_worker(self) -> WorkerProcess | None:
        """The worker that would take a job submitted now at once; None when it would wait.

        Such a job is stored once, as running: an instant job takes 2.3 instead of 2.9 times a bare
        pair of requests in ``benchmarks/round_trip.py``, on two cores.
        """
        free = self.current is None and not self.stopping and self._queue.empty
        return self._pool.present if free else None

    def started(self, record: JobRecord, worker: WorkerProcess) -> JobRecord:
        """``record`` as a worker takes it: its next attempt, running."""
        now = datetime.now(UTC)
        return record.model_copy(
            update={
                "status": JobStatus.RUNNING,
                "attempt": record.attempt + 1,
                "started_at": now,
                "progress": Progress(),
                "timings": self._timings(record, worker, now.timestamp()),
            }
        )

    async def put_back(self, live: LiveJob) -> None:
        """Queue a job for the next start that was stored as running and never taken."""
        live.claimed = None
        await self._requeue(live, live.draft.attempt - 1)

    async def run_forever(self) -> None:
        """Run what is queued until cancelled between two jobs; see ``stopping``."""
        while not self.stopping:
            await self._queue.filled()
            worker = await self._pool.worker()
            if self.stopping:
                return
            live = self._queue.take()
            if live is None:
                continue
            self.current = live
            try:
                await self._run(live, worker)
            except Exception:
                logger.exception("job %s could not be run", live.record.id)
                outcome = failed(Ending.INTERNAL, must_restart=True)
                worker.kill()
                await worker.lost.wait()
                await self._finish(live, outcome, datetime.now(UTC))
            finally:
                self.current = None
                self._free_since = time.time()

    async def _run(self, live: LiveJob, worker: WorkerProcess) -> None:
        if live.expiry is not None:
            live.expiry.cancel()
        request, live.claimed = live.claimed, None
        if request is None:
            request = await self._claim(live, worker)
        self._queue.moved()
        if request is not None:
            await self._attempt(live, worker, request, live.draft.started_at or datetime.now(UTC))

    async def _claim(self, live: LiveJob, worker: WorkerProcess) -> str | None:
        """Write that the worker takes the job, and give its request; None when it cannot run."""
        record = live.draft = self.started(live.propose(), worker)
        try:
            request = await self._writer.run(lambda c: store.claim(c, record), durable=False)
        except BackendError:
            logger.exception("job %s could not be taken", record.id)
            live.propose(status=JobStatus.QUEUED, attempt=record.attempt - 1, started_at=None)
            self._queue.add(live)
            await asyncio.sleep(_RETRY_S)
            return None
        live.publish(record)
        return request

    def _timings(self, record: JobRecord, worker: WorkerProcess, now: float) -> Timings:
        """Waiting for the jobs before is ``queue``, waiting for the worker itself is ``start``."""
        start = worker.start
        could_run = max(record.created_at.timestamp(), self._free_since)
        waited = max(start.ready - could_run, 0.0) if worker.jobs == 0 else 0.0
        queue = max(now - record.created_at.timestamp() - waited, 0.0)
        return Timings(
            queue=queue,
            start=waited,
            start_kind=_start_kind(start, waited),
            load=start.load,
            attach=start.attach,
            device=start.device,
        )

    async def _attempt(
        self, live: LiveJob, worker: WorkerProcess, request: str, started: datetime
    ) -> None:
        deadline = time.monotonic() + live.timeout
        try:
            if live.has_files:
                await self._put_inputs(live, request, deadline)
            outcome = await self._drive(live, worker, request, deadline)
        except InputUnavailableError as error:
            outcome = Outcome(status=JobStatus.FAILED, error=error.problem)
        except _StoppedError:
            outcome = Outcome(status=JobStatus.CANCELLED)
        except WorkerLostError as error:
            await self._lost(live, error, started)
            return
        if outcome.must_restart:
            worker.kill()
            await worker.lost.wait()  # or the next job would be handed to it
        if outcome.status is JobStatus.CANCELLED and live.stop is Stop.SHUTDOWN:
            await self._requeue(live, live.draft.attempt - 1)
            return
        await self._finish(live, outcome, started)

    async def _put_inputs(self, live: LiveJob, request: str, deadline: float) -> None:
        folder = self._folders.input(live.record.id)

        def put() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            stage_inputs(
                JobRequest.model_validate_json(request),
                self._files,
                folder,
                self._fetch,
                stop=lambda: live.stop is not None,
            )

        placing = asyncio.create_task(asyncio.to_thread(put))
        placing.add_done_callback(_consume)
        stopped = asyncio.get_running_loop().create_future()
        with _stop_by(live, deadline, lambda: stopped.set_result(None)):
            await asyncio.wait({placing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if live.stop is not None:  # the reason, too, of a download that it ended
            raise _StoppedError
        placing.result()

    async def _drive(
        self, live: LiveJob, worker: WorkerProcess, request: str, deadline: float
    ) -> Outcome:
        """Run the job on the worker; a stop is an interrupt first, and the end of the process
        when the engine does not heed it."""
        job_id = live.record.id
        patience: asyncio.TimerHandle | None = None

        def interrupt() -> None:
            nonlocal patience
            worker.interrupt(job_id)
            loop = asyncio.get_running_loop()
            patience = loop.call_later(self._interrupt_grace, _replace, worker, job_id)

        try:
            with _stop_by(live, deadline, interrupt):
                message = self._message(live, request)
                return await worker.run(message, lambda message: _apply(live, message))
        finally:
            if patience is not None:
                patience.cancel()

    def _message(self, live: LiveJob, request: str) -> bytes:
        job_id, folders = live.record.id, self._folders
        inputs = folders.input(job_id) if live.has_files else folders.no_input
        order = RunOrder(
            input_dir=inputs,
            output_dir=folders.output(job_id),
            request=JobRequest.model_validate_json(request),
        )
        return order.model_dump_json().encode()

    async def _lost(self, live: LiveJob, lost: WorkerLostError, started: datetime) -> None:
        """The worker died with the job, or before it had the job."""
        record = live.draft
        if live.stop is Stop.SHUTDOWN or (live.stop is None and not lost.had_job):
            await self._requeue(live, record.attempt - 1)
        elif live.stop is not None:
            await self._finish(live, Outcome(status=JobStatus.CANCELLED), started)
        elif record.attempt < live.max_attempts:
            await self._requeue(live, record.attempt)
        else:
            outcome = failed(Ending.WORKER_LOST, f"the worker was lost: {lost}")
            await self._finish(live, outcome, started)

    async def _requeue(self, live: LiveJob, attempt: int) -> None:
        record = live.propose(
            status=JobStatus.QUEUED,
            attempt=attempt,
            started_at=None,
            progress=Progress(),
            timings=Timings(),
        )
        await self._write(live, record)
        if live.stop is None:
            self._queue.add(live)
        elif live.stop is not Stop.SHUTDOWN:
            await self._finish(live, Outcome(status=JobStatus.CANCELLED), datetime.now(UTC))

    async def _finish(self, live: LiveJob, outcome: Outcome, started: datetime) -> None:
        status, error = _ending(live, outcome)
        now = datetime.now(UTC)
        timings = live.draft.timings.model_copy(
            update={
                "run": outcome.run_seconds or (now - started).total_seconds(),
                "nodes": dict(outcome.node_seconds),
            }
        )
        succeeded = status is JobStatus.SUCCEEDED
        progress = live.draft.progress
        record = live.propose(
            status=status,
            outputs=outcome.outputs if succeeded else None,
            error=error,
            finished_at=now,
            timings=timings,
            progress=progress.model_copy(update={"fraction": 1.0}) if succeeded else progress,
        )
        await self._write(live, record)
        self._ended(live)
        if live.has_files or not succeeded:
            await asyncio.to_thread(self._clear, record.id, succeeded)

    def _clear(self, job_id: str, succeeded: bool) -> None:
        if succeeded:
            shutil.rmtree(self._folders.input(job_id), ignore_errors=True)
        else:
            self._folders.delete(job_id)

    async def _write(self, live: LiveJob, record: JobRecord) -> None:
        """Write and publish; retry while the disk refuses, since no end of a job may be lost."""
        while True:
            try:
                await self._writer.run(lambda c: store.save(c, record))
            except BackendError as error:
                self.stuck = str(error)
                logger.exception("the state of job %s cannot be written yet", record.id)
                await asyncio.sleep(_RETRY_S)
            else:
                self.stuck = None
                live.publish(record)
                return


class _StoppedError(Exception):
    """The job was stopped before the engine had it."""


@contextmanager
def _stop_by(live: LiveJob, deadline: float, act: Callable[[], object]) -> Generator[None]:
    """Call ``act``, at most once, when the job is to stop: somebody asks, or its time is up.

    Raises:
        _StoppedError: It was to stop already.
    """
    if live.stop is not None:
        raise _StoppedError
    left = max(deadline - time.monotonic(), 0)
    timer = asyncio.get_running_loop().call_later(left, live.request_stop, Stop.TIMEOUT)
    live.on_stop = act
    try:
        yield
    finally:
        live.on_stop = None
        timer.cancel()


def _replace(worker: WorkerProcess, job_id: str) -> None:
    logger.warning("job %s ignored the interrupt; its worker is replaced", job_id)
    worker.kill()


def _consume(task: "asyncio.Task[Any]") -> None:
    """Retrieve the error of a task that is no longer awaited, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()


def _start_kind(start: StartTimings, waited: float) -> Literal["cold", "warm", "restored"]:
    if waited <= 0:
        return "warm"
    return "restored" if start.forked else "cold"


def _ending(live: LiveJob, outcome: Outcome) -> tuple[JobStatus, Problem | None]:
    """A job that ended in its own way before the stop reached it keeps that end."""
    if outcome.status is not JobStatus.CANCELLED or live.stop is None:
        return outcome.status, outcome.error
    end = ENDINGS[live.stop.ending]
    return end.status, end.problem()


def _apply(live: LiveJob, message: dict[str, Any]) -> None:
    if message.get("op") == "progress":
        live.advance(Progress.model_validate(message["progress"]))
    elif message.get("op") == "preview":
        live.show(Preview.model_validate(message["preview"]))
