"""The Backend on Modal: jobs are spawned function calls, their records lie in a Dict."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from comfysnap_schema.wire import (
    ErrorCode,
    JobEvent,
    JobPage,
    JobRecord,
    JobStatus,
    PurgeReport,
)
from comfysnap_server.backends.modal.follower import JobFollower
from comfysnap_server.backends.modal.listing import Found
from comfysnap_server.backends.modal.platform import CallEnd, Platform
from comfysnap_server.backends.modal.purge import Purge
from comfysnap_server.backends.modal.quota import LONGEST_LIFE, Quota, StoredBytes
from comfysnap_server.backends.modal.records import Listed
from comfysnap_server.backends.modal.shared_files import GatewayFiles, accepted_at
from comfysnap_server.backends.modal.states import (
    Decision,
    JobState,
    Policy,
    Step,
    decide,
    decide_by_call,
    job_of,
)
from comfysnap_server.backends.modal.store import JobStore
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
    JobRequest,
    OutputStore,
    OutputStoreError,
    find_output,
    output_bytes,
)

log = logging.getLogger(__name__)

DEFAULT_RETENTION: Final = timedelta(days=7)
_SCANNED: Final = 500
"""Most jobs that one page of a filtered listing looks at."""
_KEPT: Final = 1000
_FRESH_S: Final = 1.0
"""How long what was read of a job may begin a wait for it."""
_AT_ONCE: Final = 50
"""Jobs that a sweep looks at together; one after the other, a busy day would outlast it."""


class ModalBackend:
    """Any number of gateway containers run one each, over the same records.

    Args:
        platform: Modal's objects.
        local: Folder on the container's own disk.
        policy: When to act for a job.
        retention: How long output files are kept.
        max_unfinished_per_owner: Roughly; see ``Quota``.
        outputs: Object store of the output files; None: the files volume.
    """

    name = "modal"

    def __init__(
        self,
        platform: Platform,
        local: Path,
        *,
        policy: Policy | None = None,
        retention: timedelta = DEFAULT_RETENTION,
        max_unfinished_per_owner: int | None = None,
        outputs: OutputStore | None = None,
    ) -> None:
        self._platform = platform
        self._policy = policy or Policy()
        self._retention = retention
        self._outputs = outputs
        self._store = JobStore(platform)
        self._max_unfinished = max_unfinished_per_owner
        self._quota = Quota(self._ended, platform.now)
        self._stored = StoredBytes(self._read_stored)
        self._files = GatewayFiles(platform.files, local)
        self._index = self._store.index
        self._watches: dict[str, JobFollower] = {}
        self._recent: OrderedDict[str, tuple[float, JobState]] = OrderedDict()
        self._lingering: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Nothing to take up: jobs live with Modal."""

    async def stop(self) -> None:
        """End what this process follows; jobs go on."""
        for task in self._lingering:
            task.cancel()
        await asyncio.gather(*self._lingering, return_exceptions=True)
        for watch in list(self._watches.values()):
            await watch.stop()
        self._watches.clear()

    async def ready(self) -> bool:
        """Whether Modal answers."""
        try:
            await self._platform.records.get("ready")
        except Exception:
            log.exception("Modal does not answer")
            return False
        return True

    def load(self) -> BackendLoad:
        """Unknown here: other gateways accept jobs too, and Modal hands them out."""
        return BackendLoad()

    async def submit(self, request: JobRequest, budget: OwnerBudget = NO_BUDGET) -> SubmitResult:
        """Accept a job, or replay the one with the same key.

        Raises:
            BackendError: ``idempotency_mismatch``, ``quota_exceeded``.
        """
        pools = self._platform.pools
        longest = pools.longest_run[pools.of(request.workflow)]
        if request.timeout > longest:
            request = request.model_copy(update={"timeout": longest})
        owner, key = request.owner, request.idempotency_key
        limit, most = budget.max_unfinished_jobs or self._max_unfinished, budget.max_stored_bytes
        is_full = limit is not None and self._quota.is_full(owner, limit)
        if is_full or (most is not None and await self._stored.of(owner) >= most):
            replayed = key and await self.replay(owner, key, request.fingerprint)
            if replayed:
                return SubmitResult(replayed, replayed=True)
            if most is not None:
                await self._stored.check(owner, most)
        if limit is None:
            return await self._accept(request)
        if is_full:
            await self._quota.make_room(owner, limit)
        self._quota.add(owner, request.job_id)
        try:
            submitted = await self._accept(request)
        except BaseException:
            self._quota.drop(owner, request.job_id)
            raise
        if submitted.job.id != request.job_id:
            self._quota.drop(owner, request.job_id)
        return submitted

    async def _accept(self, request: JobRequest) -> SubmitResult:
        earlier = await self._store.reserve_key(request)
        if earlier is not None:
            replayed = await self._replayed(request.owner, earlier.job_id)
            _check_fingerprint(earlier.fingerprint, request.fingerprint)
            if replayed is not None:
                return SubmitResult(replayed, replayed=True)
            # the gateway that reserved the key died before it wrote the job
            request = request.model_copy(update={"job_id": earlier.job_id})
        if self._platform.webhooks:
            await self._platform.webhooks.add(request)
        call = None
        if await self._store.accept(request):
            call = await self._store.spawn(request)
        if call is not None:
            job = self._keep(JobState(request=request, call=call))
        else:
            job = await self._store.snapshot(request.job_id)
        return SubmitResult(job_of(job), replayed=earlier is not None)

    def _keep(self, state: JobState) -> JobState:
        """Remember what was just read, for the wait that follows in the same request."""
        self._recent[state.request.job_id] = (time.monotonic(), state)
        while len(self._recent) > _KEPT:
            self._recent.popitem(last=False)
        return state

    async def replay(self, owner: str, idempotency_key: str, fingerprint: str) -> JobRecord | None:
        """The job that the key made, or None.

        Raises:
            BackendError: ``idempotency_mismatch``.
        """
        earlier = await self._store.find_key(owner, idempotency_key)
        if earlier is None:
            return None
        _check_fingerprint(earlier.fingerprint, fingerprint)
        return await self._replayed(owner, earlier.job_id)

    async def _ended(self, job_id: str) -> bool:
        return await self._store.final(job_id) is not None

    async def _replayed(self, owner: str, job_id: str) -> JobRecord | None:
        try:
            return await self.get(owner, job_id)
        except BackendError as error:
            return _none_if_unknown(error)

    async def get(self, owner: str, job_id: str) -> JobRecord:
        """The job as it is now.

        Raises:
            BackendError: ``unknown_job``.
        """
        return job_of(await self._current(owner, job_id))

    async def _current(self, owner: str, job_id: str) -> JobState:
        await self._check_owner(owner, job_id)
        known = self._recent[job_id][1] if job_id in self._recent else None
        end, call_id = None, known.running_call if known and not known.final else None
        if call_id is None:
            snapshot = await self._store.look(job_id)
            if not snapshot.final and (call_id := snapshot.running_call):
                end = await self._platform.calls.end(call_id, wait=0)
        else:
            snapshot, end = await asyncio.gather(
                self._store.look(job_id, known),
                self._platform.calls.end(call_id, wait=0),
            )
            if end and snapshot.running_call != call_id:
                end = None  # another call runs the job
        return self._keep(await self._advance(snapshot, end))

    async def _check_owner(self, owner: str, job_id: str) -> None:
        if (await self._store.request(job_id)).owner != owner:
            raise BackendError(ErrorCode.UNKNOWN_JOB, "unknown job")

    async def _owned(self, owner: str, job_id: str) -> JobState:
        await self._check_owner(owner, job_id)
        return await self._store.snapshot(job_id)

    async def _refresh(self, known: JobState, end: CallEnd | None) -> JobState:
        fresh = await self._store.look(known.request.job_id, known)
        return self._keep(await self._advance(fresh, end))

    async def _advance(self, snapshot: JobState, end: CallEnd | None) -> JobState:
        """Do what the records, or the end of the call, ask for."""
        if snapshot.final:
            return snapshot
        now = self._platform.now()
        pools = self._platform.pools
        decision = decide(snapshot, self._policy, now, pools)
        if decision != Decision():  # the feed may lack what the records have
            snapshot = await self._store.snapshot(snapshot.request.job_id, snapshot)
            decision = decide(snapshot, self._policy, now, pools)
        if decision.step in (Step.SPAWN, Step.MOVE):
            await self._store.spawn(snapshot.request, instead=snapshot.call)
            return await self._store.snapshot(snapshot.request.job_id, snapshot)
        if decision.final:
            snapshot = await self._store.finish(snapshot, decision.final)
        call_id = snapshot.running_call
        if decision.step in (Step.STOP, Step.KILL) and call_id:
            await self._platform.calls.cancel(call_id, terminate=decision.step is Step.KILL)
        if end and not snapshot.final:
            snapshot = await self._after_call(snapshot, end)
        return snapshot

    async def _after_call(self, snapshot: JobState, end: CallEnd) -> JobState:
        """The call ended; the worker's own word counts, if it has one."""
        fresh = await self._store.snapshot(snapshot.request.job_id, snapshot)
        if fresh.final or fresh.running_call != end.call_id:
            return fresh  # another call runs the job
        final = decide_by_call(fresh, end, self._platform.now())
        return await self._store.finish(fresh, final) if final else fresh

    async def wait(
        self, owner: str, job_id: str, *, after: int | None, timeout: float
    ) -> JobRecord:
        """See ``Backend.wait``."""
        if timeout <= 0:
            return await self.get(owner, job_id)
        async with self._following(owner, job_id) as watch:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await watch.until(lambda w: _is_news(job_of(w.snapshot), after))
            return job_of(watch.snapshot)

    @asynccontextmanager
    async def _following(self, owner: str, job_id: str) -> AsyncGenerator[JobFollower]:
        await self._check_owner(owner, job_id)
        watch = self._watches.get(job_id)
        if watch is None:
            read_at, snapshot = self._recent.get(job_id, (float("-inf"), None))
            if snapshot is None or time.monotonic() - read_at > _FRESH_S:
                snapshot = await self._current(owner, job_id)
            watch = self._watches.get(job_id)
            if watch is None:
                watch = JobFollower(self._platform, self._policy, self._refresh, snapshot)
                self._watches[job_id] = watch
                watch.start()
        watch.users += 1
        try:
            yield watch
        finally:
            watch.users -= 1
            if not watch.users and self._watches.get(job_id) is watch:
                del self._watches[job_id]
                await watch.stop()

    async def events(
        self, owner: str, job_id: str, *, after: int | None
    ) -> AsyncIterator[JobEvent]:
        """See ``Backend.events``."""
        async with self._following(owner, job_id) as watch:
            known = -1 if after is None else after
            events = EventLog()
            previews = watch.previews
            watch.take_previews()
            while True:
                job, shown = job_of(watch.snapshot), watch.previews
                if job.version > known or job.is_final:
                    for event in events.of(job):
                        yield event
                    known = job.version
                if job.is_final:
                    return
                if shown > previews and watch.preview is not None:
                    previews = shown
                    yield JobEvent(type="preview", preview=watch.preview)
                await watch.until(
                    lambda w, k=known, p=previews: w.previews > p or job_of(w.snapshot).version > k
                )

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
        """The owner's jobs, newest first; the last 7 days, and of ended ones about 10,000. It reads
        the owner's whole list, or those of all, and the records of jobs that had not ended when
        it was written."""
        owners = await self._index.owners() if owner is None else [owner]
        listed = [
            (name, entry)
            for name in owners
            for entry in await self._index.find(name, workflow, labels or {}, before=cursor)
        ]
        listed.sort(key=lambda one: one[1].cursor, reverse=True)
        found: dict[str, tuple[str, JobRecord]] = {}
        passed = looked = 0
        while passed < len(listed) and len(found) < limit and looked < _SCANNED:
            part = listed[passed : passed + limit]
            looked += sum(entry.listed.job is None for _, entry in part)
            for (name, _), job in zip(part, await self._listed(part), strict=True):
                passed += 1
                if job is not None and (status is None or job.status == status):
                    found[job.id] = (name, job)
                if len(found) == limit:
                    break
        more = 0 < passed < len(listed)
        return JobPage(
            jobs=[job for _, job in found.values()],
            cursor=listed[passed - 1][1].cursor if more else None,
            owners={key: name for key, (name, _) in found.items()} if owner is None else {},
        )

    async def _listed(self, part: Sequence[tuple[str, Found]]) -> list[JobRecord | None]:
        jobs = await asyncio.gather(*(self._listed_job(owner, entry) for owner, entry in part))
        late: dict[str, list[tuple[Listed, JobRecord]]] = {}
        for (owner, entry), job in zip(part, jobs, strict=True):
            if job is not None and job.is_final and entry.listed.job is None:
                late.setdefault(owner, []).append((entry.listed, job))
        for owner, ended in late.items():
            await self._index.update(owner, ended)
        return jobs

    async def _listed_job(self, owner: str, entry: Found) -> JobRecord | None:
        if entry.listed.job is not None:
            return entry.listed.job
        try:
            await self._check_owner(owner, entry.job_id)
            return job_of(await self._store.look(entry.job_id))
        except BackendError as error:
            return _none_if_unknown(error)

    async def cancel(self, owner: str, job_id: str) -> JobRecord:
        """Raise the flag, then stop the call; its container is killed only if that does not help
        in ``Policy.cancel_grace`` seconds."""
        snapshot = await self._owned(owner, job_id)
        if not snapshot.final:
            await self._store.request_cancel(job_id)
            # read again: a claim from before the flag means that the worker has to stop
            known = await self._store.snapshot(job_id, snapshot)
            if known.final:  # listed by its worker, which may not have seen the flag
                await self._index.finish(known.request, job_of(known))
            snapshot = self._keep(await self._advance(known, None))
            if not snapshot.final and (call_id := snapshot.running_call):
                await self._platform.calls.cancel(call_id, terminate=False)
                self._see_to_the_end(owner, job_id)
            if watch := self._watches.get(job_id):
                watch.poke()
        return job_of(snapshot if snapshot.final else await self._store.look(job_id, snapshot))

    def _see_to_the_end(self, owner: str, job_id: str) -> None:
        """Follow a job that has to stop, even when no request follows it."""

        async def follow() -> None:
            async with self._following(owner, job_id) as watch:
                with suppress(TimeoutError):
                    async with asyncio.timeout(2 * self._policy.cancel_grace):
                        await watch.until(lambda w: w.snapshot.final is not None)

        task = asyncio.get_running_loop().create_task(follow())
        self._lingering.add(task)
        task.add_done_callback(self._lingering.discard)

    async def open_output(self, owner: str, job_id: str, name: str) -> Output:
        """See ``Backend.open_output``.

        Raises:
            BackendError: ``unknown_job``, ``unknown_output``, ``output_expired``.
        """
        job = await self.get(owner, job_id)
        output = find_output(await self._store.request(job_id), job, name)
        finished = job.finished_at or self._platform.now()
        path = None
        kept = self._platform.now() - finished < self._retention
        if kept and self._outputs is not None and job.status is JobStatus.SUCCEEDED:
            return OutputLink(url=await self._outputs.link(job_id, output.name))
        if kept:
            path = await self._files.output(job_id, output.name)
        if path is None:
            days = self._retention / timedelta(days=1)
            raise BackendError(ErrorCode.OUTPUT_EXPIRED, f"output files are kept for {days:g} days")
        return StoredFile(
            path=path,
            content_type=output.content_type,
            size=output.size,
            sha256=output.sha256,
        )

    async def has_file(self, owner: str, sha256: str) -> bool:
        """Whether the owner uploaded this input file."""
        return await self._files.has(owner, sha256)

    async def put_file(
        self,
        owner: str,
        sha256: str,
        chunks: AsyncIterator[bytes],
        budget: OwnerBudget = NO_BUDGET,
    ) -> None:
        """Store an input file; see ``FileStore.put``. Without a budget stored bytes have no limit.

        Raises:
            BackendError: ``quota_exceeded``.
        """
        limit = budget.max_stored_bytes
        if limit is None or await self._files.has(owner, sha256):
            await self._files.put(owner, sha256, chunks)
            return
        async with self._stored.arriving(owner, chunks, limit) as counted:
            await self._files.put(owner, sha256, counted)

    async def _read_stored(self, owner: str) -> int:
        """Bytes of the owner's uploads, and of the outputs of its listed jobs."""
        expired = self._platform.now() - self._retention
        total = await self._files.used(owner)
        for entry in await self._index.find(owner, None, {}, before=None):
            job = entry.listed.job
            if job is not None and (job.finished_at or expired) > expired:
                total += output_bytes(job.outputs)
        return total

    async def owner_of(self, job_id: str) -> str:
        """See ``Backend.owner_of``."""
        return (await self._store.request(job_id)).owner

    async def usage(self, owner: str, budget: OwnerBudget = NO_BUDGET) -> OwnerUsage:
        """What this container counts: the jobs that it accepted under a limit, and the bytes of
        owners of keys that limit them."""
        limit, most = budget.max_unfinished_jobs or self._max_unfinished, budget.max_stored_bytes
        return OwnerUsage(
            unfinished_jobs=None if limit is None else await self._quota.count(owner),
            stored_bytes=None if most is None else await self._stored.of(owner),
            max_unfinished_jobs=limit,
            max_stored_bytes=most,
        )

    async def sweep(self) -> int:
        """Advance jobs that no request follows, and delete files past retention.

        Returns:
            How many files and output folders were deleted.
        """
        needed, complete = await self._needed(await self._index.tidy())
        if not complete:  # its input files are not known
            return 0
        deleted = await self._files.sweep(
            older_than=self._retention.total_seconds(),
            is_due=self._outputs_due,
            now=self._platform.now(),
            keep=needed,
        )
        return deleted + await self._sweep_store()

    async def _needed(self, listed: Sequence[tuple[str, str, Listed]]) -> tuple[set[str], bool]:
        """Bring unfinished jobs forward: hashes of the input files of those that are left, and
        whether all could be read."""
        needed: set[str] = set()
        complete = True
        for start in range(0, len(listed), _AT_ONCE):
            part = listed[start : start + _AT_ONCE]
            found = await asyncio.gather(
                *(self._brought_forward(*job) for job in part), return_exceptions=True
            )
            for (_, job_id, _), request in zip(part, found, strict=True):
                if isinstance(request, JobRequest):
                    needed |= request.stored_files
                elif request is not None:
                    log.error("job %s could not be resumed", job_id, exc_info=request)
                    complete = False
        return needed, complete

    async def purge(self, wanted: PurgeRequest) -> PurgeReport:
        """See ``Backend.purge``."""
        purge = Purge(self._platform, self._store, self._files, self._outputs)

        async def needed() -> set[str]:
            files, complete = await self._needed([job async for job in self._index.unfinished()])
            if not complete:
                message = "a job cannot be read, and with it which uploads it needs; try again"
                raise BackendError(ErrorCode.UNAVAILABLE, message, retry_after=60)
            return files

        report = await purge.run(wanted, needed)
        self._stored.read_again()
        return report

    async def _sweep_store(self) -> int:
        if self._outputs is None:
            return 0
        limit = (self._platform.now() - self._retention).timestamp()
        try:
            old = await self._outputs.oldest_jobs(lambda job: (accepted_at(job) or limit) < limit)
            due = [job_id for job_id in old if await self._outputs_due(job_id)]
            await self._outputs.delete(due)
        except OutputStoreError as error:
            log.warning("files past their retention stay in the object store: %s", error)
            return 0
        return len(due)

    async def _outputs_due(self, job_id: str) -> bool:
        """Whether the outputs of a job that was accepted before the retention may go."""
        final = await self._store.final(job_id)
        if final is not None:
            return self._platform.now() - final.at >= self._retention
        accepted = accepted_at(job_id) or 0.0  # it did not end yet, or its records are gone
        kept = self._retention + LONGEST_LIFE
        return self._platform.now().timestamp() - accepted >= kept.total_seconds()

    async def _brought_forward(self, owner: str, job_id: str, listed: Listed) -> JobRequest | None:
        """The request of a job that has not ended yet."""
        try:
            snapshot = await self._owned(owner, job_id)
        except BackendError as error:  # listed, and its request never written, or gone
            if self._platform.now() - listed.created_at > LONGEST_LIFE:
                await self._index.forget(owner, job_id)
            return _none_if_unknown(error)
        if snapshot.final:  # by a worker that could not list it, or a version that did not
            await self._index.finish(snapshot.request, job_of(snapshot))
            await self._index.forget(owner, job_id)
            return None
        end = None
        if call_id := snapshot.running_call:
            end = await self._platform.calls.end(call_id, wait=0)
        job = await self._advance(snapshot, end)
        return None if job.final else job.request


def _none_if_unknown(error: BackendError) -> None:
    if error.code is not ErrorCode.UNKNOWN_JOB:
        raise error


def _check_fingerprint(known: str, given: str) -> None:
    if known != given:
        raise BackendError(
            ErrorCode.IDEMPOTENCY_MISMATCH, "this Idempotency-Key was used for another request"
        )


def _is_news(job: JobRecord, after: int | None) -> bool:
    return job.is_final or (after is not None and job.version > after)
