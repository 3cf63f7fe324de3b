"""Jobs on this machine: a SQLite store, a queue, and a worker process for each device."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from comfysnap_schema.wire import (
    ErrorCode,
    JobEvent,
    JobPage,
    JobRecord,
    JobStatus,
    PurgeReport,
)
from comfysnap_server.backends.local import store
from comfysnap_server.backends.local.folders import JobFolders
from comfysnap_server.backends.local.fork_client import ForkServers, ProcessOptions
from comfysnap_server.backends.local.limits import LocalLimits
from comfysnap_server.backends.local.live import (
    EventFollower,
    LiveJob,
    Stop,
    wait_for,
)
from comfysnap_server.backends.local.lock import FolderLock
from comfysnap_server.backends.local.migrations import DataFolderError, open_database
from comfysnap_server.backends.local.model_downloads import ModelDownloads
from comfysnap_server.backends.local.purge import LivePurge
from comfysnap_server.backends.local.queue import JobQueue
from comfysnap_server.backends.local.reader import Reader
from comfysnap_server.backends.local.readiness import DiskCheck
from comfysnap_server.backends.local.recovery import recover
from comfysnap_server.backends.local.runner import Runner
from comfysnap_server.backends.local.slots import Slots, spread
from comfysnap_server.backends.local.sweep import Sweeper
from comfysnap_server.backends.local.uploads import Uploads
from comfysnap_server.backends.local.webhooks import WebhookDispatcher
from comfysnap_server.backends.local.writer import Writer
from comfysnap_server.backends.protocol import (
    NO_BUDGET,
    BackendLoad,
    EventLog,
    Output,
    OutputLink,
    OwnerBudget,
    OwnerUsage,
    PurgeRequest,
    StoredFile,
    SubmitResult,
)
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs import (
    Ending,
    FileStore,
    JobRequest,
    Outcome,
    OutputStore,
    WebhookSender,
    ended,
    find_output,
    log_end,
    opened,
)
from comfysnap_server.models import CACHED_MODELS, RemoteModelSettings

logger = logging.getLogger(__name__)

_UPLOADS: Final = "files"
_REMEMBERED: Final = 1000
"""Finished jobs that are kept in memory, for those who ask right after."""
_WRITE_PATIENCE_S: Final = 5.0
"""How long a stop waits for a store that cannot be written."""


class LocalBackend:
    """Runs jobs on this machine, one at a time on each worker; see ``Backend``.

    Args:
        data: Folder of the store, the files and the jobs; one server at a time uses it.
        engine: ``simulated``, ``comfyui``, or ``module:class`` of an engine of your own.
        engine_options: Keyword arguments of the engine's class.
        python: Interpreter of the worker processes, such as that of a ComfyUI; None: this one.
        python_path: Folders that the workers search for modules first.
        gpus: Indices of the GPUs that have a worker each; empty: the workers see all devices.
        workers: Number of worker processes, spread over the GPUs. None: one for each, or one.
        limits: Limits.
        on_end: Called with each job that ends.
        outputs: Object store of the output files; None: the data folder.
        remote_models: What may be downloaded as a model; None: nothing.
        webhooks: Sends the ends of jobs that have a webhook; None: they wait in the store.
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
        gpus: Sequence[int] = (),
        workers: int | None = None,
        limits: LocalLimits | None = None,
        on_end: Callable[[JobRecord], object] = lambda _: None,
        outputs: OutputStore | None = None,
        remote_models: RemoteModelSettings | None = None,
        webhooks: WebhookSender | None = None,
    ) -> None:
        self._data = data
        self._sender = webhooks
        self._webhooks: WebhookDispatcher | None = None
        self._limits = limits = limits or LocalLimits()
        self._on_end = on_end
        self._outputs = outputs
        self._folders = JobFolders(data.resolve())
        self._remote_models = remote_models or RemoteModelSettings()
        options = dict(engine_options or {})
        if self._remote_models.enabled and engine == "comfyui":
            options["remote_models"] = str(self._folders.model_cache / CACHED_MODELS)
        self._processes = ProcessOptions(
            engine=engine,
            engine_options=options,
            data=data,
            scratch=self._folders.scratch,
            python=python,
            python_path=python_path,
            start_timeout=limits.start_timeout,
            secrets=self._remote_models.tokens.values() if self._remote_models.enabled else (),
        )
        self._gpus = spread(gpus, workers)
        self._lock = FolderLock(data)
        files = FileStore(
            self._folders.files,
            max_bytes=limits.max_file_bytes,
            keep_free=limits.keep_free_bytes,
            sync_often=True,
        )
        self._uploads = Uploads(
            files,
            job_bytes=self._job_bytes,
        )
        self._live: dict[str, LiveJob] = {}
        self._finished: OrderedDict[str, LiveJob] = OrderedDict()
        self._running = False
        self._not_ready: str | None = "the server is not running"
        self._expiring: set[asyncio.Task[None]] = set()

    @property
    def engine_failure(self) -> str | None:
        """Why no worker can be started; None while one can."""
        return self._slots.failure if self._running else None

    @property
    def start_failure(self) -> str | None:
        """Why the engine was never loaded, after several attempts; None while it may be."""
        return self._slots.start_failure if self._running else None

    @property
    def thread_holders(self) -> list[str]:
        """Node packs that keep workers from being forked; empty when they are forked."""
        return self._fork_servers.thread_holders if self._running else []

    async def worker_pid(self, slot: int = 0) -> int:
        """The process that runs the jobs of a slot, once there is one."""
        return (await self._slots.worker(slot)).pid

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
            connection = await opened(partial(open_database, path))
            self._reader = Reader(path, "job-reader")
            self._lister = Reader(path, "job-lister")
        except BaseException:
            self._lock.release()
            raise
        self._writer = Writer(connection)
        self._disk = DiskCheck(self._data, self._writer, keep_free=self._limits.keep_free_bytes)
        self._queue = JobQueue()
        self._fork_servers = ForkServers(self._processes, self._lock.workers or 0)
        self._slots = Slots(
            self._gpus,
            self._fork_servers,
            partial(
                Runner,
                writer=self._writer,
                queue=self._queue,
                folders=self._folders,
                disk=self._disk,
                outputs=self._outputs,
                interrupt_grace=self._limits.interrupt_grace,
                ended=self._remember,
            ),
        )
        self._downloads = ModelDownloads(
            self._folders.model_cache,
            self._remote_models,
            ready=self._queue.add,
            end=self._end_unstarted,
        )
        try:
            waiting = await self._writer.run(recover)
        except BaseException:
            await asyncio.to_thread(self._close_store)
            self._lock.release()
            raise
        for live in waiting:
            self._enter(live)
        self._slots.start()
        sweeper = Sweeper(
            self._writer,
            self._lister,
            self._folders,
            self._uploads,
            self._outputs,
            keep_outputs=self._limits.keep_outputs,
            keep_inputs=self._limits.keep_inputs,
            keep_jobs=self._limits.keep_jobs,
            interval=self._limits.sweep_interval,
        )
        self._sweeping = asyncio.create_task(sweeper.run_forever(), name="sweeper")
        self._dispatching: asyncio.Task[None] | None = None
        if self._sender is not None:
            self._webhooks = WebhookDispatcher(self._writer, self._lister, self._sender)
            self._dispatching = asyncio.create_task(self._webhooks.run_forever(), name="webhooks")
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
        """Stop the running jobs, which are queued again for the next start, and end all
        processes."""
        if not self._running:
            return
        self._running = False
        with suppress(BackendError):  # submits that are being stored come before it
            await self._writer.run(lambda _: None, durable=False)
        await self._slots.stop_jobs(patience=self._limits.interrupt_grace + _WRITE_PATIENCE_S)
        self._sweeping.cancel()
        await asyncio.gather(self._sweeping, return_exceptions=True)
        await self._downloads.close()
        if self._webhooks is not None and self._dispatching is not None:
            self._dispatching.cancel()
            await asyncio.gather(self._dispatching, return_exceptions=True)
            await self._webhooks.stop()
        for live in self._live.values():
            if live.expiry is not None:
                live.expiry.cancel()
        self._queue.close()
        await self._slots.stop()
        await self._fork_servers.stop()
        await asyncio.to_thread(self._close_store)
        patience = self._limits.takeover_patience
        if not await asyncio.to_thread(self._lock.release_after_workers, patience=patience):
            logger.error("a worker process does not end; another server cannot start before")

    def _close_store(self) -> None:
        """The writer last, which then leaves no log file."""
        self._lister.close()
        self._reader.close()
        self._writer.close()

    async def ready(self) -> bool:
        """Whether jobs can be accepted and will run. The log says why not."""
        why = await self._why_not_ready()
        if why != self._not_ready and self._running:
            level = logging.WARNING if why and self._slots.started else logging.INFO
            logger.log(level, "not ready: %s" if why else "ready", *([why] if why else []))
        self._not_ready = why
        return why is None

    async def _why_not_ready(self) -> str | None:
        if not self._running:
            return "the server is not running"
        return self._slots.why_unhealthy or await self._disk.problem()

    def load(self) -> BackendLoad:
        """See ``Backend.load``."""
        # a port for metrics reads it in a thread of its own: copied in one step of the interpreter
        records = [live.record for live in [*self._live.values()]]
        queued = [job.created_at for job in records if job.status is JobStatus.QUEUED]
        return BackendLoad(
            queued=len(queued),
            oldest_queued=min(queued, default=None),
            running=len(records) - len(queued),
            free_bytes=self._disk.free if self._running else None,
            webhooks=self._webhooks and self._webhooks.pending,
        )

    async def submit(self, request: JobRequest, budget: OwnerBudget = NO_BUDGET) -> SubmitResult:
        """Accept a job; it is on the disk when this returns. See ``Backend.submit``."""
        self._check_running()
        self._disk.check_room()
        limits = self._limits.within(budget)
        uploaded = 0
        if limits.max_stored_bytes_per_owner is not None:
            uploaded = await self._uploads.bytes_of(request.owner)
        record = request.record(status=JobStatus.QUEUED, version=1)
        runner = None
        if not request.models:
            runner, record = self._slots.reserve(record)
        # A caller who hangs up does not keep an accepted job from the queue.
        accepted = await self._writer.run(
            lambda connection: store.submit(connection, request, record, limits, uploaded=uploaded),
            then=partial(self._enter_accepted, request, runner),
        )
        return SubmitResult(self._as_now(accepted.job), replayed=accepted.replayed)

    def _enter_accepted(
        self, request: JobRequest, runner: Runner | None, accepted: store.Accepted | None
    ) -> None:
        live: LiveJob | None = None
        if accepted is not None and not accepted.replayed:
            live = LiveJob.of(accepted.seq, request, accepted.job)
        if live is not None and runner is None:
            self._enter(live)
        elif live is not None and accepted is not None:
            live.claimed = accepted.request
            self._live[live.record.id] = live
        if runner is not None:
            runner.hand(live)

    def _enter(self, live: LiveJob) -> None:
        self._live[live.record.id] = live
        self._line_up(live)
        if live.queue_timeout is not None:
            left = live.record.created_at.timestamp() + live.queue_timeout - time.time()
            loop = asyncio.get_running_loop()
            live.expiry = loop.call_later(max(left, 0), self._expire, live)

    def _line_up(self, live: LiveJob) -> None:
        """Queue a job, once it has its models."""
        if live.models and live.hashes is None:
            self._downloads.start(live)
        else:
            self._queue.add(live)

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
        owner: str | None,
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
        found, more = await self._lister.run(
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
            jobs=[self._as_now(job) for _, job in found],
            cursor=None if more is None else str(more),
            owners={job.id: whose for whose, job in found} if owner is None else {},
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
            await self._end_unstarted(live, ended(Ending.CANCELLED), cancel_requested_at=now)
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
            for event in EventLog().of(await self._stored(owner, job_id)):
                yield event
            return
        follower = EventFollower(live, after)
        async for event in follower.events():
            yield await self._event_as_now(live, event)
        for event in follower.log.of(await self._shown(live)):
            yield event

    async def open_output(self, owner: str, job_id: str, name: str) -> Output:
        """See ``Backend.open_output``."""
        live = self._find(owner, job_id)
        job = live.record if live else await self._stored(owner, job_id)
        request = await self._reader.run(lambda c: store.request_of(c, job_id))
        if request is None:
            code = ErrorCode.OUTPUT_EXPIRED if job.outputs else ErrorCode.UNKNOWN_OUTPUT
            raise BackendError(code, f"{name} is past its retention")
        file = find_output(JobRequest.model_validate_json(request), job, name)
        if self._outputs is not None and job.status is JobStatus.SUCCEEDED:
            return OutputLink(url=await self._outputs.link(job_id, file.name))
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
        unfinished, held = await self._reader.run(lambda c: store.unfinished(c, owner))
        return OwnerUsage(
            unfinished_jobs=unfinished,
            queued_bytes=held,
            stored_bytes=await self._uploads.bytes_of(owner) + await self._job_bytes(owner),
            max_unfinished_jobs=limits.max_unfinished_per_owner,
            max_queued_bytes=limits.max_queued_bytes_per_owner,
            max_stored_bytes=limits.max_stored_bytes_per_owner,
        )

    async def purge(self, wanted: PurgeRequest) -> PurgeReport:
        """See ``Backend.purge``."""
        self._check_running()
        purge = LivePurge(
            self._writer, self._lister, self._folders, self._uploads, self._outputs,
            active=self._live, remembered=self._finished,
        )  # fmt: skip
        return await purge.run(wanted)

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
        if live.has_inputs:
            return record
        stored = await self._stored(live.owner, record.id)
        return record.model_copy(update={"inputs": stored.inputs})

    async def _event_as_now(self, live: LiveJob, event: JobEvent) -> JobEvent:
        if event.job is not None:
            return event.model_copy(update={"job": await self._shown(live)})
        if event.progress is not None and live.record.status is JobStatus.QUEUED:
            return event.model_copy(update={"progress": self._with_position(live).progress})
        return event

    def _as_now(self, stored: JobRecord) -> JobRecord:
        live = self._live.get(stored.id) or self._finished.get(stored.id)
        if live is None:
            return stored
        record = self._with_position(live)
        return record if live.has_inputs else record.model_copy(update={"inputs": stored.inputs})

    def _with_position(self, live: LiveJob) -> JobRecord:
        record = live.record
        if record.status is not JobStatus.QUEUED:
            return record
        ahead = self._queue.position(live) + self._slots.busy
        progress = record.progress.model_copy(update={"queue_position": ahead})
        return record.model_copy(update={"progress": progress})

    def _expire(self, live: LiveJob) -> None:
        if not live.taken:
            self._queue.drop(live)
            task = asyncio.create_task(self._end_unstarted(live, ended(Ending.EXPIRED)))
            self._expiring.add(task)
            task.add_done_callback(self._expiring.discard)

    async def _end_unstarted(self, live: LiveJob, outcome: Outcome, **changes: object) -> None:
        """End a job that no worker had; when that cannot be written, it stays queued."""
        before = live.draft
        end = outcome.end(before.timings, before.progress)
        record = live.propose(finished_at=datetime.now(UTC), **dict(end), **changes)
        try:
            await self._writer.run(lambda connection: store.save(connection, record))
        except BackendError:
            live.draft = before.model_copy(update={"version": record.version})
            self._line_up(live)
            raise
        if live.expiry is not None:
            live.expiry.cancel()
        live.publish(record)
        self._remember(live)

    def _remember(self, live: LiveJob) -> None:
        if live.has_webhook and self._webhooks is not None:
            self._webhooks.wake()
        self._live.pop(live.record.id, None)
        self._downloads.ended(live)
        record = live.record
        log_end(record.id, live.owner, record.workflow, record)
        self._on_end(record)
        self._finished[live.record.id] = live
        while len(self._finished) > _REMEMBERED:
            self._finished.popitem(last=False)
