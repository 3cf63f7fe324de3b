"""Jobs on this machine: a SQLite store, a queue, and one worker process."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from comfysnap_schema.wire import ErrorCode, JobEvent, JobPage, JobRecord, JobStatus
from comfysnap_server.backends.local import store
from comfysnap_server.backends.local.folders import JobFolders
from comfysnap_server.backends.local.fork_client import ProcessOptions
from comfysnap_server.backends.local.limits import LocalLimits
from comfysnap_server.backends.local.live import (
    EventFollower,
    LiveJob,
    Stop,
    wait_for,
)
from comfysnap_server.backends.local.lock import FolderLock
from comfysnap_server.backends.local.migrations import DataFolderError, open_database
from comfysnap_server.backends.local.queue import JobQueue
from comfysnap_server.backends.local.reader import Reader
from comfysnap_server.backends.local.readiness import DiskCheck
from comfysnap_server.backends.local.recovery import recover
from comfysnap_server.backends.local.runner import Runner
from comfysnap_server.backends.local.supervisor import WorkerSupervisor
from comfysnap_server.backends.local.sweep import Sweeper
from comfysnap_server.backends.local.uploads import Uploads
from comfysnap_server.backends.local.writer import Writer
from comfysnap_server.backends.protocol import (
    NO_BUDGET,
    OwnerBudget,
    OwnerUsage,
    StoredFile,
    SubmitResult,
    event_of,
)
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs import Ending, FetchPolicy, FileStore, JobRequest, ended, find_output

logger = logging.getLogger(__name__)

_UPLOADS: Final = "files"
_REMEMBERED: Final = 1000
"""Finished jobs that are kept in memory, for those who ask right after."""
_WRITE_PATIENCE_S: Final = 5.0
"""How long a stop waits for a store that cannot be written."""


class LocalBackend:
    """Runs jobs on this machine, one at a time; see ``Backend``.

    Args:
        data: Folder of the store, the files and the jobs; one server at a time uses it.
        engine: ``simulated``, ``comfyui``, or ``module:class`` of an engine of your own.
        engine_options: Keyword arguments of the engine's class.
        python: Interpreter of the worker processes, such as that of a ComfyUI; None: this one.
        python_path: Folders that the workers search for modules first.
        limits: Limits.
        fetch: What may be downloaded as an input file.
    """

    name = "local"

    def __init__(
        self,
        data: Path,
        *,
        engine: str = "simulated",
        engine_options: Mapping[str, JsonValue] | None = None,
        python: str | None = None,
        python_path: Sequence[Path] = (),
        limits: LocalLimits | None = None,
        fetch: FetchPolicy | None = None,
    ) -> None:
        self._data = data
        self._limits = limits = limits or LocalLimits()
        self._fetch = fetch or FetchPolicy()
        self._folders = JobFolders(data.resolve())
        self._processes = ProcessOptions(
            engine=engine,
            engine_options=engine_options or {},
            data=data,
            scratch=self._folders.scratch,
            python=python,
            python_path=python_path,
            start_timeout=limits.start_timeout,
        )
        self._lock = FolderLock(data)
        files = FileStore(
            self._folders.files, max_bytes=limits.max_file_bytes, keep_free=limits.keep_free_bytes
        )
        self._uploads = Uploads(
            files,
            job_bytes=self._job_bytes,
        )
        self._live: dict[str, LiveJob] = {}
        self._finished: OrderedDict[str, LiveJob] = OrderedDict()
        self._tasks: list[asyncio.Task[None]] = []
        self._running = False
        self._not_ready: str | None = "the server is not running"
        self._expiring: set[asyncio.Task[None]] = set()
        self._claiming: asyncio.Future[store.Accepted] | None = None
        """The submit that is being stored with the idle worker's name on it."""

    @property
    def engine_failure(self) -> str | None:
        """Why no worker can be started; None while all is well."""
        return self._pool.failure if self._running else None

    @property
    def start_failure(self) -> str | None:
        """Why the engine was never loaded, after several attempts; None while it may be."""
        return self._pool.start_failure if self._running else None

    @property
    def thread_holders(self) -> list[str]:
        """Node packs that keep workers from being forked; empty when they are forked."""
        return self._pool.thread_holders if self._running else []

    async def worker_pid(self) -> int:
        """The process that runs the jobs, once there is one."""
        return (await self._pool.worker()).pid

    async def start(self) -> None:
        """Take the data folder, settle what an earlier server left, and begin to work. Returns
        before the engine is loaded; see ``ready``.

        Raises:
            DataFolderError: The folder is in use, not writable, or from a newer version.
        """
        try:
            self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DataFolderError(f"{self._data}: {error.strerror}") from error
        await asyncio.to_thread(self._lock.acquire, patience=self._limits.takeover_patience)
        try:
            path = self._data / store.DATABASE
            await asyncio.to_thread(self._make_folders, used=path.exists())
            connection = await asyncio.to_thread(open_database, path)
            self._reader = Reader(path, "job-reader")
            self._lister = Reader(path, "job-lister")
        except BaseException:
            self._lock.release()
            raise
        self._writer = Writer(connection)
        self._disk = DiskCheck(self._data, self._writer, keep_free=self._limits.keep_free_bytes)
        self._queue = JobQueue()
        self._pool = WorkerSupervisor(self._processes)
        self._runner = Runner(
            writer=self._writer,
            queue=self._queue,
            pool=self._pool,
            folders=self._folders,
            disk=self._disk,
            fetch=self._fetch,
            interrupt_grace=self._limits.interrupt_grace,
            ended=self._remember,
        )
        try:
            waiting = await self._writer.run(recover)
        except BaseException:
            await asyncio.to_thread(self._close_store)
            self._lock.release()
            raise
        for live in waiting:
            self._enter(live)
        self._pool.start(self._lock.workers or 0)
        sweeper = Sweeper(
            self._writer,
            self._lister.run,
            self._folders,
            self._uploads,
            keep_outputs=self._limits.keep_outputs,
            keep_inputs=self._limits.keep_inputs,
            keep_jobs=self._limits.keep_jobs,
            interval=self._limits.sweep_interval,
        )
        self._working = asyncio.create_task(self._runner.run_forever(), name="job-runner")
        self._tasks = [
            self._working,
            asyncio.create_task(sweeper.run_forever(), name="sweeper"),
        ]
        self._running = True

    def _make_folders(self, *, used: bool) -> None:
        try:
            strange = None if used else self._folders.not_empty()
            if strange is not None:
                raise DataFolderError(
                    f"{strange} is not empty, and no server used {self._data} before"
                )
            self._folders.make()
            uploads, database = self._data / _UPLOADS, self._data / store.DATABASE
            uploads.mkdir(exist_ok=True)
            uploads.chmod(0o700)
            database.touch()
            database.chmod(0o600)
        except OSError as error:
            raise DataFolderError(f"{error.filename}: {error.strerror}") from error

    async def stop(self) -> None:
        """Stop the running job, which is queued again for the next start, and end all processes."""
        if not self._running:
            return
        self._running = False
        if self._claiming is not None:
            await asyncio.wait({self._claiming})
        await self._stop_current()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._leave_queue()
        self._queue.close()
        await self._pool.stop()
        await asyncio.to_thread(self._close_store)
        patience = self._limits.takeover_patience
        if not await asyncio.to_thread(self._lock.release_after_workers, patience=patience):
            logger.error("a worker process does not end; another server cannot start before")

    def _close_store(self) -> None:
        """The writer last, which then leaves no log file."""
        self._lister.close()
        self._reader.close()
        self._writer.close()

    async def _leave_queue(self) -> None:
        for live in list(self._live.values()):  # a job may end while another is put back
            if live.expiry is not None:
                live.expiry.cancel()
            if live.claimed is None or live.taken:
                continue
            try:
                async with asyncio.timeout(_WRITE_PATIENCE_S):
                    await self._runner.put_back(live)
            except TimeoutError:
                logger.error("job %s could not be queued again", live.record.id)  # noqa: TRY400 -- why is logged already

    async def _stop_current(self) -> None:
        self._runner.stopping = True
        current = self._runner.current
        if current is None:
            return
        current.request_stop(Stop.SHUTDOWN)
        patience = self._limits.interrupt_grace + _WRITE_PATIENCE_S
        await asyncio.wait({self._working}, timeout=patience)

    async def ready(self) -> bool:
        """Whether jobs can be accepted and will run. The log says why not."""
        why = await self._why_not_ready()
        if why != self._not_ready and self._running:
            level = logging.WARNING if why and self._pool.started else logging.INFO
            logger.log(level, "not ready: %s" if why else "ready", *([why] if why else []))
        self._not_ready = why
        return why is None

    async def _why_not_ready(self) -> str | None:
        if not self._running:
            return "the server is not running"
        if self._runner.stuck is not None:
            return self._runner.stuck
        return self._pool.why_unhealthy or await self._disk.problem()

    async def submit(self, request: JobRequest, budget: OwnerBudget = NO_BUDGET) -> SubmitResult:
        """Accept a job; it is on the disk when this returns. See ``Backend.submit``."""
        self._check_running()
        self._disk.check_room()
        limits = self._limits.within(budget)
        uploaded = 0
        if limits.max_stored_bytes_per_owner is not None:
            uploaded = await self._uploads.bytes_of(request.owner)
        record = request.record(status=JobStatus.QUEUED, version=1)
        worker = None if self._claiming else self._runner.idle_worker
        if worker is not None:
            record = self._runner.started(record, worker)
        decision = self._writer.run(
            lambda connection: store.submit(connection, request, record, limits, uploaded=uploaded)
        )
        entering = asyncio.ensure_future(self._enter_accepted(decision, request))
        if worker is not None:
            self._claiming = entering
        # Shielded: a caller who hangs up must not keep an accepted job from the queue.
        accepted = await asyncio.shield(entering)
        live = self._live.get(accepted.job.id) or self._finished.get(accepted.job.id)
        job = accepted.job
        if live is not None:
            job = self._with_position(live).model_copy(update={"inputs": job.inputs})
        return SubmitResult(job, replayed=accepted.replayed)

    async def _enter_accepted(
        self, decision: "asyncio.Future[store.Accepted]", request: JobRequest
    ) -> store.Accepted:
        try:
            accepted = await decision
            if not accepted.replayed:
                live = LiveJob.of(accepted.seq, request, accepted.job)
                if accepted.job.status is JobStatus.RUNNING:
                    live.claimed = accepted.request
                self._enter(live)
        finally:
            if self._claiming is asyncio.current_task():
                self._claiming = None
        return accepted

    def _enter(self, live: LiveJob) -> None:
        self._live[live.record.id] = live
        self._queue.add(live)
        if live.queue_timeout is not None:
            left = live.record.created_at.timestamp() + live.queue_timeout - time.time()
            loop = asyncio.get_running_loop()
            live.expiry = loop.call_later(max(left, 0), self._expire, live)

    async def replay(self, owner: str, idempotency_key: str, fingerprint: str) -> JobRecord | None:
        """See ``Backend.replay``."""
        self._check_running()
        record = await self._reader.run(
            lambda connection: store.replay(connection, owner, idempotency_key, fingerprint)
        )
        return record and self._as_now(record)

    async def get(self, owner: str, job_id: str) -> JobRecord:
        """See ``Backend.get``."""
        live = self._find(owner, job_id)
        return await (self._shown(live) if live else self._stored(owner, job_id))

    async def wait(
        self, owner: str, job_id: str, *, after: int | None, timeout: float
    ) -> JobRecord:
        """See ``Backend.wait``."""
        live = self._find(owner, job_id)
        if live is None:
            return await self._stored(owner, job_id)
        await wait_for(live, after=after, timeout=timeout)
        return await self._shown(live)

    async def list_jobs(
        self,
        owner: str,
        *,
        status: JobStatus | None = None,
        workflow: str | None = None,
        labels: Mapping[str, str] | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> JobPage:
        """See ``Backend.list_jobs``."""
        self._check_running()
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):
            raise BackendError(ErrorCode.INVALID_REQUEST, "invalid cursor")
        jobs, more = await self._lister.run(
            lambda connection: store.page(
                connection,
                owner,
                status=status,
                workflow=workflow,
                labels=labels or {},
                before=int(cursor) if cursor else None,
                limit=limit,
            )
        )
        return JobPage(
            jobs=[self._as_now(job) for job in jobs], cursor=None if more is None else str(more)
        )

    async def cancel(self, owner: str, job_id: str) -> JobRecord:
        """See ``Backend.cancel``. A queued job is cancelled at once; a running one when the engine
        stopped, unless it ends before."""
        live = self._find(owner, job_id)
        if live is None:
            return await self._stored(owner, job_id)
        if live.taken and live.draft.is_final:
            return await self._shown(live)
        now = datetime.now(UTC)
        if not live.taken:
            self._queue.drop(live)
            await self._end_unstarted(live, Stop.CANCEL, cancel_requested_at=now)
        elif live.draft.cancel_requested_at is None:
            record = live.propose(cancel_requested_at=now)
            try:
                saved = await self._writer.run(lambda connection: store.save(connection, record))
            except BackendError:
                live.draft = live.draft.model_copy(update={"cancel_requested_at": None})
                raise
            if saved:
                live.publish(record)
                live.request_stop(Stop.CANCEL)
        return await self._shown(live)

    async def events(
        self, owner: str, job_id: str, *, after: int | None
    ) -> AsyncIterator[JobEvent]:
        """See ``Backend.events``."""
        live = self._find(owner, job_id)
        if live is None:
            yield event_of(await self._stored(owner, job_id), None)
            return
        async for event in EventFollower(live, after).events():
            yield (
                event
                if event.job is None
                else event.model_copy(update={"job": await self._shown(live)})
            )
        yield event_of(await self._shown(live), None)

    async def open_output(self, owner: str, job_id: str, name: str) -> StoredFile:
        """See ``Backend.open_output``."""
        job = await self._stored(owner, job_id)
        request = await self._reader.run(lambda c: store.request_of(c, job_id))
        if request is None:
            code = ErrorCode.OUTPUT_EXPIRED if job.outputs else ErrorCode.UNKNOWN_OUTPUT
            raise BackendError(code, f"{name} is past its retention")
        file = find_output(JobRequest.model_validate_json(request), job, name)
        path = self._folders.output(job_id) / file.name
        if not await asyncio.to_thread(path.is_file):
            raise BackendError(ErrorCode.OUTPUT_EXPIRED, f"{name} is past its retention")
        return StoredFile(
            path=path, content_type=file.content_type, size=file.size, sha256=file.sha256
        )

    async def has_file(self, owner: str, sha256: str) -> bool:
        """See ``Backend.has_file``."""
        return await self._uploads.has(owner, sha256)

    async def put_file(
        self,
        owner: str,
        sha256: str,
        chunks: AsyncIterator[bytes],
        budget: OwnerBudget = NO_BUDGET,
    ) -> None:
        """See ``Backend.put_file``."""
        limit = self._limits.within(budget).max_stored_bytes_per_owner
        await self._uploads.put(owner, sha256, chunks, limit)

    async def owner_of(self, job_id: str) -> str:
        """See ``Backend.owner_of``."""
        self._check_running()
        live = self._live.get(job_id) or self._finished.get(job_id)
        if live is not None:
            return live.owner
        return await self._reader.run(lambda connection: store.owner_of(connection, job_id))

    async def usage(self, owner: str, budget: OwnerBudget = NO_BUDGET) -> OwnerUsage:
        """See ``Backend.usage``."""
        self._check_running()
        limits = self._limits.within(budget)
        unfinished = await self._reader.run(lambda c: store.unfinished(c, owner))
        return OwnerUsage(
            unfinished_jobs=unfinished,
            stored_bytes=await self._uploads.bytes_of(owner) + await self._job_bytes(owner),
            max_unfinished_jobs=limits.max_unfinished_per_owner,
            max_stored_bytes=limits.max_stored_bytes_per_owner,
        )

    async def _job_bytes(self, owner: str) -> int:
        return await self._reader.run(lambda c: store.stored_bytes(c, owner))

    def _check_running(self) -> None:
        if not self._running:
            raise BackendError(ErrorCode.UNAVAILABLE, "the server is stopping", retry_after=5)

    def _find(self, owner: str, job_id: str) -> LiveJob | None:
        self._check_running()
        live = self._live.get(job_id) or self._finished.get(job_id)
        return live if live is not None and live.owner == owner else None

    async def _stored(self, owner: str, job_id: str) -> JobRecord:
        self._check_running()
        return await self._reader.run(lambda connection: store.get(connection, owner, job_id))

    async def _shown(self, live: LiveJob) -> JobRecord:
        record = self._with_position(live)
        inputs = live.inputs
        if inputs is None:
            inputs = (await self._stored(live.owner, record.id)).inputs
        return record.model_copy(update={"inputs": inputs})

    def _as_now(self, stored: JobRecord) -> JobRecord:
        live = self._live.get(stored.id)
        if live is None:
            return stored
        return self._with_position(live).model_copy(update={"inputs": stored.inputs})

    def _with_position(self, live: LiveJob) -> JobRecord:
        record = live.record
        if record.status is not JobStatus.QUEUED:
            return record
        ahead = self._queue.position(live) + (self._runner.current is not None)
        progress = record.progress.model_copy(update={"queue_position": ahead})
        return record.model_copy(update={"progress": progress})

    def _expire(self, live: LiveJob) -> None:
        if not live.taken:
            self._queue.drop(live)
            task = asyncio.create_task(self._end_unstarted(live, None))
            self._expiring.add(task)
            task.add_done_callback(self._expiring.discard)

    async def _end_unstarted(self, live: LiveJob, why: Stop | None, **changes: object) -> None:
        """End a job that no worker had; when that cannot be written, it stays queued."""
        before = live.draft
        end = ended(why.ending if why else Ending.EXPIRED).end(before.timings, before.progress)
        record = live.propose(finished_at=datetime.now(UTC), **dict(end), **changes)
        try:
            await self._writer.run(lambda connection: store.save(connection, record))
        except BackendError:
            live.draft = before.model_copy(update={"version": record.version})
            self._queue.add(live)
            raise
        if live.expiry is not None:
            live.expiry.cancel()
        live.publish(record)
        self._remember(live)

    def _remember(self, live: LiveJob) -> None:
        self._live.pop(live.record.id, None)
        self._finished[live.record.id] = live
        while len(self._finished) > _REMEMBERED:
            self._finished.popitem(last=False)
