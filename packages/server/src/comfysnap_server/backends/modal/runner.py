"""A GPU container's work: one engine, one job at a time, its records written as it goes."""

import asyncio
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from comfysnap_schema.wire import JobStatus, OutputFile
from comfysnap_server.backends.modal.listing import JobIndex
from comfysnap_server.backends.modal.models import NewModels
from comfysnap_server.backends.modal.platform import Platform, SharedFolder
from comfysnap_server.backends.modal.records import (
    MAX_PREEMPTIONS,
    CancelRequest,
    Claim,
    End,
    FeedEntry,
    Preempted,
    claim_key,
    job_key,
    preempted_key,
    read,
)
from comfysnap_server.backends.modal.remote_models import refused
from comfysnap_server.backends.modal.reporting import ENDED_KEPT_S, FeedReporter
from comfysnap_server.backends.modal.shared_files import INPUTS, output_folder
from comfysnap_server.backends.modal.states import JobState, end_of, job_of
from comfysnap_server.engine.protocol import Engine
from comfysnap_server.jobs import (
    Ending,
    FileStore,
    JobRequest,
    JobRun,
    Outcome,
    OutputStore,
    ended,
    keep_outputs,
    log_end,
)
from comfysnap_server.logs import fields

log = logging.getLogger(__name__)

T = TypeVar("T")

WARM_UP_JOB: Final = "warm-up"
"""Id of the job that warms up an engine."""
STUCK_EXIT_CODE: Final = 70
BROKEN_EXIT_CODE: Final = 71
_LISTING_S: Final = 5.0
"""The GPU waits meanwhile, and readers list a job too."""
_LONGEST_CHECKPOINT_S: Final = 60.0
"""From the load to the first job of the container that makes the snapshot, and goes on in it."""


@dataclass(frozen=True, kw_only=True)
class WorkerPolicy:
    """Limits of a worker. Seconds."""

    stop_grace: float = 30.0
    """How long an engine may take to stop after its job's timeout; then the process ends."""
    final_write_timeout: float = 60.0
    """How long the end of a job is tried to be written while Modal does not answer."""
    warm_up_after: float = 2.0
    """From ``attach`` without a job until the warm-up: a container that starts for a job gets it
    at once, and only one that starts in reserve has the time."""


class RunResult(StrEnum):
    """What ``run`` returns when it did not run the job."""

    UNKNOWN_JOB = "unknown_job"
    SUPERSEDED = "superseded"
    """Another call runs it, or all attempts are used."""


class _WarmUp:
    """A warm-up that no job waits for: it starts only if none came, and stops when one comes."""

    def __init__(self, engine: Engine, after: float) -> None:
        self._engine = engine
        self._after = after
        self._lock = threading.Lock()
        self._given_up = self._started = False
        self._timer: threading.Timer | None = None

    def schedule(self, warm_up: Callable[[], object]) -> None:
        """Run it in a while, unless ``give_up`` is called first."""
        self._timer = threading.Timer(self._after, self._run, [warm_up])
        self._timer.daemon = True
        self._timer.start()

    def give_up(self) -> None:
        """Do not start it, or interrupt it; returns at once."""
        with self._lock:
            first, self._given_up = not self._given_up, True
        if self._timer is not None and first:
            self._timer.cancel()
            if self._started:
                self._engine.interrupt(WARM_UP_JOB)

    async def stopped(self) -> None:
        """Wait until the engine is free."""
        if self._timer is not None and self._timer.is_alive():
            await asyncio.to_thread(self._timer.join)

    def _run(self, warm_up: Callable[[], object]) -> None:
        with self._lock:
            if self._given_up:
                return
            self._started = True
        warm_up()


class JobRunner:
    """What the GPU class does, apart from Modal's decorators.

    Args:
        engine: Made before ``load``, so that the snapshot holds it.
        platform: Modal's objects.
        policy: Limits.
        retire: Keeps the container from taking another job; awaited when its engine is broken.
        pool: Whose container this is.
        outputs: Object store of the output files; None: the files volume.
        exit_process: Ends the process when the engine cannot be stopped.
    """

    def __init__(
        self,
        engine: Engine,
        platform: Platform,
        policy: WorkerPolicy | None = None,
        *,
        retire: Callable[[], Awaitable[object]] | None = None,
        pool: str | None = None,
        outputs: OutputStore | None = None,
        exit_process: Callable[[int], object] = os._exit,
    ) -> None:
        self.engine = engine
        self._platform = platform
        self._policy = policy or WorkerPolicy()
        self._retire = retire
        self._pool = pool
        self._outputs = outputs
        self._exit_process = exit_process
        self._index = JobIndex(platform)
        self._inputs = FileStore(platform.files.root / INPUTS)
        self._models = NewModels(platform.models) if platform.models else None
        self._thread: ThreadPoolExecutor | None = None
        self._load_seconds = 0.0
        self._attach_seconds = 0.0
        self._start: Literal["cold", "warm", "restored"] = "cold"
        self._loaded_at = platform.now()
        self._warming = _WarmUp(engine, self._policy.warm_up_after)

    def load(self) -> None:
        """What a snapshot may hold."""
        started = time.perf_counter()
        self.engine.load()
        self._load_seconds = round(time.perf_counter() - started, 6)
        self._loaded_at = self._platform.now()

    def attach(self, *, restored: bool, warm_up: Callable[[], object] | None = None) -> None:
        """After a restore, or after ``load`` when there is no snapshot.

        Args:
            restored: Whether there was one.
            warm_up: Runs ``WARM_UP_JOB`` on the engine, in a thread, once no job came for a while;
                a job that comes then interrupts it.
        """
        started = time.perf_counter()
        self.engine.attach()
        if warm_up is not None:
            self._warming.schedule(warm_up)
        self._start = "restored" if restored else "cold"
        self._attach_seconds = round(time.perf_counter() - started, 6)
        log.info(
            "worker started",
            extra=fields(
                start=self._start,
                load_seconds=self._load_seconds,
                attach_seconds=self._attach_seconds,
                device=self._device,
            ),
        )

    @property
    def _device(self) -> str | None:
        return getattr(self.engine, "device", None)

    def close(self) -> None:
        """End the engine's thread, once it is idle."""
        self._warming.give_up()
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def run(self, job_id: str, request: str | None, call_id: str) -> str:
        """Run one job and return the status it ended with; ``superseded`` when another call runs
        it. The job's end is in its records before this returns.

        Raises:
            asyncio.CancelledError: The call was cancelled, or the container is about to be taken
                away; the engine has stopped. Only a job that was asked to stop has ended.
        """
        self._warming.give_up()
        text = request or await self._platform.records.get(job_key(job_id, "request"))
        if text is None:
            return RunResult.UNKNOWN_JOB
        job = JobRequest.model_validate_json(text)
        claiming = asyncio.ensure_future(self._claim(job, call_id))
        try:
            snapshot = await asyncio.shield(claiming)
            self._start = "warm"
            if snapshot is None:
                return RunResult.SUPERSEDED
            final = await self._unless_stopped(snapshot)
        except asyncio.CancelledError:
            await _uninterrupted(self._mark_claim(claiming))
            raise
        if final is None:
            log.info(
                "job started",
                extra=fields(
                    job=job_id,
                    workflow=job.workflow,
                    run=len(snapshot.claims),
                    start=snapshot.claims[-1].start_kind,
                ),
            )
            try:
                final = await self._attempt(snapshot)
            finally:
                if self._platform.remote_models and job.models:
                    self._platform.remote_models.release(job_id)
        return final.status.value

    async def _mark_claim(self, claiming: "asyncio.Future[JobState | None]") -> None:
        """Mark a run as preempted that was claimed and not begun, or it would count."""
        snapshot = await claiming
        if snapshot is not None:
            await self._asked_to_stop(snapshot)

    async def _claim(self, job: JobRequest, call_id: str) -> JobState | None:
        """Take the next run; None when another call has the job, or all attempts are used."""
        earlier: list[Claim] = []
        preemptions = 0
        if self._start == "restored" and self._waited_for_load(job):
            self._start = "cold"
        cold, restored = self._start == "cold", self._start == "restored"
        start = self._attach_seconds if cold or restored else 0.0
        while True:
            claim = Claim(
                call_id=call_id,
                nonce=secrets.token_hex(8),
                at=self._platform.now(),
                start_kind=self._start,
                start_seconds=start + (self._load_seconds if cold else 0.0),
                load_seconds=self._load_seconds,
                attach_seconds=self._attach_seconds,
                device=self._device,
                pool=self._pool,
                preemptions=preemptions,
            )
            key = claim_key(job.job_id, len(earlier) + 1)
            attempts = len(earlier) - preemptions
            if attempts < job.max_attempts and await self._platform.records.add(
                key, claim.model_dump_json()
            ):
                return JobState(request=job, claims=(*earlier, claim))
            if attempts >= job.max_attempts:
                lost = JobState(request=job, claims=tuple(earlier))
                detail = f"the container was lost; the job ran {attempts} of at most "
                detail += f"{job.max_attempts} times"
                if preemptions:
                    detail += f", and was preempted {preemptions} times"
                await self._finish(lost, ended(Ending.WORKER_LOST, detail))
                return None
            known = read(Claim, await self._platform.records.get(key))
            if known == claim:  # Modal's client wrote it twice, as the first answer was lost
                return JobState(request=job, claims=(*earlier, claim))
            if known is None or known.call_id != call_id:
                return None
            earlier.append(known)
            if preemptions < MAX_PREEMPTIONS:
                mark = await self._platform.records.get(preempted_key(job.job_id, len(earlier)))
                preemptions += mark is not None

    def _waited_for_load(self, job: JobRequest) -> bool:
        """Whether the snapshot was made in this very start: for this job, and just now."""
        passed = (self._platform.now() - self._loaded_at).total_seconds()
        return job.created_at < self._loaded_at and passed < _LONGEST_CHECKPOINT_S

    async def _unless_stopped(self, snapshot: JobState) -> End | None:
        """The end of a job that must not start any more."""
        job = snapshot.request
        records = self._platform.records
        final, cancel = await asyncio.gather(
            records.get(job_key(job.job_id, "final")), records.get(job_key(job.job_id, "cancel"))
        )
        if final is not None:
            return End.model_validate_json(final)
        if cancel is not None:
            return await self._finish(snapshot, ended(Ending.CANCELLED))
        waited = self._platform.now() - job.created_at
        if job.queue_timeout is not None and waited > timedelta(seconds=job.queue_timeout):
            return await self._finish(snapshot, ended(Ending.EXPIRED))
        return None

    async def _attempt(self, snapshot: JobState) -> End:
        job = snapshot.request
        async with _folders() as (inputs, outputs):
            kept = _KeptFiles(self._platform.files, job.job_id, outputs)
            reporter = FeedReporter(
                self._platform.feed, job.job_id, len(snapshot.claims), snapshot.claims[-1],
                keep=kept.add,
            )  # fmt: skip
            run = JobRun(
                self.engine,
                job,
                input_dir=inputs,
                output_dir=outputs,
                files=self._inputs,
                report=reporter.report,
            )
            try:
                if not all(self._inputs.has(job.owner, sha256) for sha256 in job.stored_files):
                    await self._platform.files.reload()
                if self._models:
                    await self._models.look_for(job.graph)
                outcome = await self._get_models(run, snapshot, reporter)
                outcome = outcome or await self._execute(run, snapshot, reporter)
                if self._outputs is not None and outcome.status is JobStatus.SUCCEEDED:
                    outcome = await keep_outputs(
                        self._outputs, job.job_id, outputs, outcome, stopped=lambda: False
                    )
                else:
                    await _uninterrupted(kept.add(outcome.files))
            except asyncio.CancelledError:
                await _uninterrupted(self._give_back(snapshot, reporter))
                raise
            except Exception as error:
                log.exception("job %s: the worker failed", job.job_id)
                detail = f"the worker failed unexpectedly ({type(error).__name__})"
                outcome = ended(Ending.ENGINE_FAILED, detail)
            final = await _uninterrupted(self._finish(snapshot, outcome, reporter))
            if outcome.must_restart:
                await _uninterrupted(self._stop_taking_jobs(job.job_id))
            return final

    async def _stop_taking_jobs(self, job_id: str) -> None:
        """Leave what comes next to another container: the engine broke in this one."""
        log.error("the engine broke at job %s; its container takes no other", job_id)
        try:
            if self._retire is not None:
                await self._retire()
        except Exception:
            log.exception("the container could not be retired; ending the process")
            self._exit_process(BROKEN_EXIT_CODE)

    async def _get_models(
        self, run: JobRun, snapshot: JobState, reporter: FeedReporter
    ) -> Outcome | None:
        """Have the models that the job names by URL; the end of a job that cannot have them."""
        if not run.request.models:
            return None
        if self._platform.remote_models is None:
            return refused(run.request)
        try:
            found = await self._platform.remote_models.prepare(
                run.request, len(snapshot.claims), reporter
            )
        except TimeoutError:
            return ended(Ending.TIMED_OUT)
        if isinstance(found, Outcome):
            return found
        run.take_models(found)
        return None

    async def _give_back(self, snapshot: JobState, reporter: FeedReporter) -> None:
        """End a job that was asked to stop. A container that Modal takes away is interrupted in the
        same way; its job goes on in the next one, or its call's end becomes the job's."""
        if await self._asked_to_stop(snapshot):
            await self._finish(snapshot, ended(Ending.CANCELLED), reporter)
        else:
            await reporter.close(ended=False)

    async def _asked_to_stop(self, snapshot: JobState) -> bool:
        """Whether a client cancelled the job; else the run is marked as preempted."""
        records, job_id = self._platform.records, snapshot.request.job_id
        if await records.get(job_key(job_id, "cancel")) is not None:
            return True
        mark = Preempted(at=self._platform.now())
        await records.add(preempted_key(job_id, len(snapshot.claims)), mark.model_dump_json())
        return False

    async def _execute(self, run: JobRun, snapshot: JobState, reporter: FeedReporter) -> Outcome:
        await self._warming.stopped()
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="engine")
        running = asyncio.get_running_loop().run_in_executor(self._thread, run.execute)
        timeout = run.request.timeout
        try:
            done, _ = await asyncio.wait({running}, timeout=timeout)
        except asyncio.CancelledError:
            run.interrupt()
            # at once: Modal gives a preempted container little time, and an engine may take it all
            marked = asyncio.ensure_future(self._asked_to_stop(snapshot))
            await _settled(running, timeout=None)
            await _settled(marked, timeout=None)
            if running.result().status is JobStatus.SUCCEEDED:
                return running.result()  # it finished first
            if running.result().must_restart:
                await _uninterrupted(self._stop_taking_jobs(run.request.job_id))
            raise
        if not done:
            run.interrupt()
            if not await _settled(running, timeout=self._policy.stop_grace):
                await self._finish(snapshot, ended(Ending.TIMED_OUT), reporter)
                log.error("job %s does not stop; ending the process", run.request.job_id)
                self._exit_process(STUCK_EXIT_CODE)
        return running.result().stopped_by(Ending.TIMED_OUT)

    async def _finish(
        self, snapshot: JobState, outcome: Outcome, reporter: FeedReporter | None = None
    ) -> End:
        job_id = snapshot.request.job_id
        progress = reporter.last if reporter else None
        if reporter is not None and reporter.told:
            told = FeedEntry(attempt=len(snapshot.claims), number=0, outputs=reporter.told)
            snapshot = replace(snapshot, told=told)
        final = end_of(snapshot, outcome, self._platform.now(), progress)
        ours, final = final, await self._write_final(job_key(job_id, "final"), final)
        log_end(job_id, snapshot.request.owner, snapshot.request.workflow, final)
        work = [self._wake_followers(snapshot, reporter)]
        if final == ours:  # else its writer lists it
            work.append(self._list(replace(snapshot, final=final)))
        if self._platform.webhooks:
            work.append(self._platform.webhooks.job_ended(snapshot.request, final.status))
        await asyncio.gather(*work)
        return final

    async def _wake_followers(self, snapshot: JobState, reporter: FeedReporter | None) -> None:
        if reporter is not None:
            await reporter.close(ended=True)
            return
        entry = FeedEntry(attempt=len(snapshot.claims), number=1_000_000 // 4, ended=True)
        text = entry.model_dump_json()
        await self._platform.feed.append(snapshot.request.job_id, text, keep=ENDED_KEPT_S)

    async def _list(self, snapshot: JobState) -> None:
        """List the end. The cancel flag is read late: a gateway that raises it still later sees the
        final record, and lists the job itself."""
        request = snapshot.request
        try:
            async with asyncio.timeout(_LISTING_S):
                flag = await self._platform.records.get(job_key(request.job_id, "cancel"))
                snapshot = replace(snapshot, cancel=read(CancelRequest, flag))
                await self._index.finish(request, job_of(snapshot))
        except Exception:
            log.exception("the end of job %s could not be listed", request.job_id)

    async def _write_final(self, key: str, final: End) -> End:
        """Write a final record, and return the one that stands; the result is lost
        without it, so a failure is retried."""
        records, pause = self._platform.records, 0.1
        deadline = time.monotonic() + self._policy.final_write_timeout
        while True:
            try:
                if await records.add(key, final.model_dump_json()):
                    return final
                return read(End, await records.get(key)) or final
            except Exception:
                if time.monotonic() + pause > deadline:
                    raise
                log.exception("%s could not be written yet", key)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 10.0)


class _KeptFiles:
    """The output files of one job on the volume, each copied once and committed before it is
    published: some while the job runs, the rest at its end."""

    def __init__(self, volume: SharedFolder, job_id: str, folder: Path) -> None:
        self._volume = volume
        self._target = volume.root / output_folder(job_id)
        self._folder = folder
        self._names: set[str] = set()
        self._turn = asyncio.Lock()

    async def add(self, files: Sequence[OutputFile]) -> None:
        """Copy and commit files; goes on in the background if it is cancelled."""
        await asyncio.shield(asyncio.ensure_future(self._add({file.name for file in files})))

    async def _add(self, names: set[str]) -> None:
        async with self._turn:
            new = names - self._names
            if not new:
                return
            await asyncio.to_thread(self._copy, new)
            await self._volume.commit()
            self._names |= new

    def _copy(self, names: set[str]) -> None:
        self._target.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(self._folder / name, self._target / name)


@asynccontextmanager
async def _folders() -> AsyncGenerator[tuple[Path, Path]]:
    """Fresh input and output folders for one job."""
    base = Path(tempfile.mkdtemp(prefix="comfysnap-"))
    try:
        inputs, outputs = base / "input", base / "output"
        inputs.mkdir()
        outputs.mkdir()
        yield inputs, outputs
    finally:
        await _uninterrupted(asyncio.to_thread(shutil.rmtree, base, ignore_errors=True))


async def _uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Finish ``work`` before a cancellation goes on: between inputs Modal stops the event loop, and
    what a shield left running would stop with it."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    result = task.result()
    if cancelled:
        raise cancelled
    return result


async def _settled(running: asyncio.Future[Any], *, timeout: float | None) -> bool:
    """Wait for the engine's thread, whatever else is cancelled meanwhile."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while not running.done():
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return False
        try:
            await asyncio.wait({running}, timeout=left)
        except asyncio.CancelledError:
            continue
    return True
