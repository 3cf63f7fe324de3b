"""Takes queued jobs one by one, runs each on the worker, and records how it ended."""

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal

from comfysnap_schema.wire import JobRecord, JobStatus, Progress, Timings
from comfysnap_server.backends.local import store
from comfysnap_server.backends.local.channel import (
    OutputMessage,
    PreviewMessage,
    ProgressMessage,
    RunOrder,
)
from comfysnap_server.backends.local.folders import JobFolders
from comfysnap_server.backends.local.live import LiveJob, Stop
from comfysnap_server.backends.local.queue import JobQueue
from comfysnap_server.backends.local.readiness import DiskCheck
from comfysnap_server.backends.local.supervisor import WorkerSupervisor
from comfysnap_server.backends.local.worker_process import (
    StartTimings,
    WorkerLostError,
    WorkerProcess,
    boot_ticks,
)
from comfysnap_server.backends.local.writer import Writer
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs import (
    WORK,
    Ending,
    Outcome,
    OutputStore,
    ended,
    keep_outputs,
    output_bytes,
)

logger = logging.getLogger(__name__)

_RETRY_S: Final = 1.0


class Runner:
    """Runs one job at a time, on one of the workers; several take from one queue.

    Args:
        slot: Number of the worker.
        writer: Of the job store.
        queue: Where jobs wait.
        supervisor: Of the worker.
        folders: Where files of jobs lie.
        disk: Whether there is room for outputs.
        interrupt_grace: Seconds until a worker that does not heed an interrupt is ended.
        ended: Called with each job that ended.

    What is written when, and why: a submit, a cancel and an end are durable before they are
    reported, so that nothing that was answered is forgotten even after a power cut. That a worker
    takes a job is committed before it is sent to the worker but not flushed on its own: it survives
    the death of this process, which keeps a job from running twice after ``kill -9``; a power cut
    may take it back, and then the job, whose end nobody saw, runs again. A job that finds a worker
    idle reserves it, and is stored as running with its submit, in one commit. Progress is never
    written.
    """

    def __init__(
        self,
        *,
        slot: int,
        writer: Writer,
        queue: JobQueue,
        supervisor: WorkerSupervisor,
        folders: JobFolders,
        disk: DiskCheck,
        outputs: OutputStore | None,
        interrupt_grace: float,
        ended: Callable[[LiveJob], None],
    ) -> None:
        self._slot = slot
        self._writer = writer
        self._queue = queue
        self._supervisor = supervisor
        self._folders = folders
        self._disk = disk
        self._outputs = outputs
        self._interrupt_grace = interrupt_grace
        self._ended = ended
        self._free_since = time.time()
        self._reserved: WorkerProcess | None = None
        self._handed: tuple[LiveJob, WorkerProcess] | None = None
        self._stopping = False
        self.current: LiveJob | None = None
        self.stuck: str | None = None
        """Why the end or the files of a job cannot be written; None while all is well."""

    @property
    def busy(self) -> bool:
        """Whether the worker has a job, or is reserved for one."""
        return self.current is not None or self._reserved is not None

    def reserve(self) -> WorkerProcess | None:
        """Keep the worker, if it is idle, for a job that is being stored as running, until
        ``hand``; None when a job submitted now would wait.

        Such a job is stored once: an instant job takes 2.3 instead of 2.9 times a bare pair of
        requests in ``benchmarks/round_trip.py``, on two cores.
        """
        if self.busy or self._stopping or not self._queue.empty:
            return None
        self._reserved = self._supervisor.present
        return self._reserved

    def hand(self, live: LiveJob | None) -> None:
        """Run the job that the worker was reserved for; None: it was not stored."""
        worker, self._reserved = self._reserved, None
        if live is not None and worker is not None:
            live.taken = True
            self.current = live
            self._handed = live, worker
        self._queue.wake()

    def stop(self) -> None:
        """Take no further job, and interrupt the one that runs, which is queued again."""
        self._stopping = True
        if self.current is not None:
            self.current.request_stop(Stop.SHUTDOWN)
        self._queue.wake()

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

    async def run_forever(self) -> None:
        """Run what is queued until cancelled between two jobs; see ``stop``."""
        while (work := await self._next()) is not None:
            live, worker = work
            self.current = live
            try:
                await self._run(live, worker)
            except Exception:
                logger.exception("job %s could not be run", live.record.id)
                outcome = ended(Ending.INTERNAL)
                worker.kill()
                await worker.lost.wait()
                await self._finish(live, outcome, datetime.now(UTC))
            finally:
                self.current = None
                self._free_since = time.time()

    async def _next(self) -> tuple[LiveJob, WorkerProcess] | None:
        """The next job, and the worker for it; None at the end."""
        while True:
            await self._queue.until(self._has_news)
            if self._handed is not None:
                handed, self._handed = self._handed, None
                return handed
            if self._stopping:
                return None
            worker = await self._supervisor.worker()
            if self._stopping or self.busy:
                continue
            if not self._disk.takes_outputs():
                logger.error("the disk is full; jobs wait until there is room")
                await asyncio.sleep(_RETRY_S)
                continue
            live = self._queue.take()
            if live is not None:
                return live, worker

    def _has_news(self) -> bool:
        free = self._reserved is None and not self._queue.empty
        return self._handed is not None or self._stopping or free

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
            self._queue.put_back(live)
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
        since = boot_ticks()
        try:
            outcome = await self._drive(live, worker, request)
        except WorkerLostError as error:
            await worker.end_strays(since)
            await self._lost(live, error, started)
            return
        if outcome.must_restart:
            worker.kill()
            await worker.lost.wait()  # or the next job would be handed to it
        if outcome.must_restart or live.stop is not None:
            await worker.end_strays(since)
        if self._outputs is not None:
            folder = self._folders.output(live.record.id)
            outcome = await keep_outputs(
                self._outputs, live.record.id, folder, outcome,
                stopped=lambda: live.stop is not None, told=self._store_told,
            )  # fmt: skip
        if outcome.status is JobStatus.CANCELLED and live.stop is Stop.SHUTDOWN:
            await self._requeue(live, live.draft.attempt - 1)
            return
        await self._finish(live, outcome, started)

    async def _drive(self, live: LiveJob, worker: WorkerProcess, request: str) -> Outcome:
        """Run the job on the worker; a stop is an interrupt first, and the end of the process
        when the job does not heed it."""
        if live.stop is not None:
            return ended(Ending.INTERRUPTED)
        job_id, loop = live.record.id, asyncio.get_running_loop()
        timers = [loop.call_later(live.timeout, live.request_stop, Stop.TIMEOUT)]

        def interrupt() -> None:
            worker.interrupt(job_id)
            timers.append(loop.call_later(self._interrupt_grace, _replace, worker, job_id))

        live.on_stop = interrupt
        try:
            return await worker.run(self._order(live, request), lambda news: _apply(live, news))
        finally:
            live.on_stop = None
            for timer in timers:
                timer.cancel()

    def _order(self, live: LiveJob, request: str) -> RunOrder:
        job_id, folders = live.record.id, self._folders
        return RunOrder(
            request=request,
            models=live.hashes or {},
            input_dir=folders.input(job_id) if live.has_files else folders.no_input(self._slot),
            output_dir=folders.output(job_id),
            files=folders.files,
        )

    async def _lost(self, live: LiveJob, lost: WorkerLostError, started: datetime) -> None:
        """The worker died with the job, or before it had the job."""
        record = live.draft
        if live.stop is Stop.SHUTDOWN or (live.stop is None and not lost.had_job):
            await self._requeue(live, record.attempt - 1)
        elif live.stop is not None:
            await self._finish(live, ended(Ending.INTERRUPTED), started)
        elif record.attempt < live.max_attempts:
            await self._requeue(live, record.attempt)
        else:
            outcome = ended(Ending.WORKER_LOST, f"the worker was lost: {lost}")
            await self._finish(live, outcome, started)

    async def _requeue(self, live: LiveJob, attempt: int) -> None:
        record = live.propose(
            status=JobStatus.QUEUED,
            attempt=attempt,
            started_at=None,
            progress=Progress(),
            outputs=None,
            timings=Timings(),
        )
        await self._write(live, record)
        if live.stop is None:
            self._queue.put_back(live)
        elif live.stop is not Stop.SHUTDOWN:
            await self._finish(live, ended(Ending.INTERRUPTED), datetime.now(UTC))

    async def _finish(self, live: LiveJob, outcome: Outcome, started: datetime) -> None:
        if live.stop is not None:
            outcome = outcome.stopped_by(live.stop.ending)
        now = datetime.now(UTC)
        seconds = (now - started).total_seconds()
        before = live.draft
        end = outcome.end(before.timings, before.progress, seconds, outputs=before.outputs)
        kept = end.outputs is not None
        record = live.propose(finished_at=now, **dict(end))
        on_disk = kept and (self._outputs is None or end.status is not JobStatus.SUCCEEDED)
        made = self._folders.output_bytes(record.id) if on_disk else output_bytes(end.outputs)
        await self._write(live, record, output_bytes=made)
        self._ended(live)
        if live.has_files or end.status is not JobStatus.SUCCEEDED or not on_disk:
            await asyncio.to_thread(self._clear, record.id, on_disk)

    def _store_told(self, problem: str | None) -> None:
        self.stuck = problem
        if problem is not None:
            logger.error("output files cannot be stored yet: %s", problem)

    def _clear(self, job_id: str, kept: bool) -> None:
        if kept:
            shutil.rmtree(self._folders.input(job_id), ignore_errors=True)
            shutil.rmtree(self._folders.output(job_id) / WORK, ignore_errors=True)
        else:
            self._folders.delete(job_id)

    async def _write(self, live: LiveJob, record: JobRecord, *, output_bytes: int = 0) -> None:
        """Write and publish; retry while the disk refuses, since no end of a job may be lost."""
        while True:
            try:
                await self._writer.run(lambda c: store.save(c, record, output_bytes=output_bytes))
            except BackendError as error:
                self.stuck = str(error)
                logger.exception("the state of job %s cannot be written yet", record.id)
                await asyncio.sleep(_RETRY_S)
            else:
                self.stuck = None
                live.publish(record)
                return


def _replace(worker: WorkerProcess, job_id: str) -> None:
    logger.warning("job %s ignored the interrupt; its worker is replaced", job_id)
    worker.kill()


def _start_kind(start: StartTimings, waited: float) -> Literal["cold", "warm", "restored"]:
    if waited <= 0:
        return "warm"
    return "restored" if start.forked else "cold"


def _apply(live: LiveJob, news: ProgressMessage | PreviewMessage | OutputMessage) -> None:
    match news:
        case ProgressMessage():
            live.advance(news.progress)
        case OutputMessage():
            live.add_output(news.name, news.value)
        case PreviewMessage():
            live.show(news.preview)
