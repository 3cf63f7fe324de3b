"""A backend in memory, where the test says how a job ends, and a workflow for it."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from comfysnap_schema.wire.access import PurgeReport
from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_schema.wire.jobs import JobEvent, JobPage, JobRecord, JobStatus
from comfysnap_server.backends.protocol import (
    NO_BUDGET,
    BackendLoad,
    OwnerBudget,
    OwnerUsage,
    PurgeRequest,
    StoredFile,
    SubmitResult,
)
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs.request import JobRequest


class FakeBackend:
    name = "fake"

    def __init__(self) -> None:
        self.requests: dict[str, JobRequest] = {}
        self.jobs: dict[str, JobRecord] = {}
        self.files: dict[str, bytes] = {}
        self.budgets: list[OwnerBudget] = []
        """Of the submits and uploads."""
        self.outputs: dict[str, StoredFile] = {}
        self.purges: list[PurgeRequest] = []
        self.changed = asyncio.Event()
        self.submitted = asyncio.Event()
        self.held = 0
        """Requests that wait for a change now."""
        self.arrived = asyncio.Event()
        self.running = False
        self.idle_worker = False
        """Whether a submitted job starts at once."""

    async def start(self) -> None:
        self.running = True

    async def stop(self) -> None:
        self.running = False

    async def ready(self) -> bool:
        return self.running

    def load(self) -> BackendLoad:
        return BackendLoad(queued=len(self.requests))

    async def submit(self, request: JobRequest, budget: OwnerBudget = NO_BUDGET) -> SubmitResult:
        self.budgets.append(budget)
        now = datetime.now(UTC)
        if key := request.idempotency_key:
            earlier = await self.replay(request.owner, key, request.fingerprint)
            if earlier is not None:
                return SubmitResult(earlier, replayed=True)
        status = JobStatus.RUNNING if self.idle_worker else JobStatus.QUEUED
        job = JobRecord(
            id=request.job_id, workflow=request.workflow, status=status, version=1,
            inputs=request.inputs, labels=request.labels, created_at=now,
        )  # fmt: skip
        self.requests[job.id], self.jobs[job.id] = request, job
        self.submitted.set()
        return SubmitResult(job)

    async def replay(self, owner: str, idempotency_key: str, fingerprint: str) -> JobRecord | None:
        for request in self.requests.values():
            if (request.owner, request.idempotency_key) == (owner, idempotency_key):
                if request.fingerprint != fingerprint:
                    raise BackendError(ErrorCode.IDEMPOTENCY_MISMATCH, "another body")
                return self.jobs[request.job_id]
        return None

    async def get(self, owner: str, job_id: str) -> JobRecord:
        if job_id not in self.jobs or self.requests[job_id].owner != owner:
            raise BackendError(ErrorCode.UNKNOWN_JOB, "no such job")
        return self.jobs[job_id]

    async def wait(
        self, owner: str, job_id: str, *, after: int | None, timeout: float
    ) -> JobRecord:
        def news() -> bool:
            job = self.jobs[job_id]
            return job.is_final or (after is not None and job.version > after)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not news():
                    await self._change()
        return await self.get(owner, job_id)

    async def _change(self) -> None:
        self.held += 1
        self.arrived.set()
        try:
            await self.changed.wait()
        finally:
            self.held -= 1

    async def until_held(self, count: int) -> None:
        """Return once ``count`` requests wait."""
        async with asyncio.timeout(60):
            while self.held < count:
                self.arrived.clear()
                await self.arrived.wait()

    async def update(self, job_id: str, **changes: Any) -> JobRecord:
        job = self.jobs[job_id]
        self.jobs[job_id] = job.model_copy(update={"version": job.version + 1, **changes})
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()
        return self.jobs[job_id]

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
        wanted = (labels or {}).items()
        jobs = [
            job
            for job_id, job in sorted(self.jobs.items(), reverse=True)
            if owner in (None, self.requests[job_id].owner)
            and status in (None, job.status)
            and workflow in (None, job.workflow)
            and wanted <= job.labels.items()
        ]
        owners = {job.id: self.requests[job.id].owner for job in jobs if owner is None}
        return JobPage(jobs=jobs[:limit], cursor=cursor, owners=owners)

    async def cancel(self, owner: str, job_id: str) -> JobRecord:
        job = await self.get(owner, job_id)
        return job if job.is_final else await self.update(job_id, status=JobStatus.CANCELLED)

    async def events(
        self, owner: str, job_id: str, *, after: int | None
    ) -> AsyncIterator[JobEvent]:
        job = await self.get(owner, job_id)
        while not job.is_final:
            if job.version > (after or 0):
                yield JobEvent(type="status", job=job)
            job = await self.wait(owner, job_id, after=job.version, timeout=60)
        yield JobEvent(type="done", job=job)

    async def open_output(self, owner: str, job_id: str, name: str) -> StoredFile:
        await self.get(owner, job_id)
        if name not in self.outputs:
            raise BackendError(ErrorCode.UNKNOWN_OUTPUT, "no such output")
        return self.outputs[name]

    def add_output(self, path: Path, content: bytes, content_type: str) -> None:
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        self.outputs[path.name] = StoredFile(
            path=path, content_type=content_type, size=len(content), sha256=digest
        )

    async def has_file(self, owner: str, sha256: str) -> bool:
        return f"{owner}/{sha256}" in self.files

    async def owner_of(self, job_id: str) -> str:
        if job_id not in self.requests:
            raise BackendError(ErrorCode.UNKNOWN_JOB, "no such job")
        return self.requests[job_id].owner

    async def usage(self, owner: str, budget: OwnerBudget = NO_BUDGET) -> OwnerUsage:
        jobs = [job for key, job in self.jobs.items() if self.requests[key].owner == owner]
        return OwnerUsage(
            unfinished_jobs=sum(not job.is_final for job in jobs),
            queued_bytes=7,
            max_unfinished_jobs=budget.max_unfinished_jobs or 100,
            max_stored_bytes=budget.max_stored_bytes,
        )

    async def put_file(
        self,
        owner: str,
        sha256: str,
        chunks: AsyncIterator[bytes],
        budget: OwnerBudget = NO_BUDGET,
    ) -> None:
        self.budgets.append(budget)
        content = b"".join([chunk async for chunk in chunks])
        if hashlib.sha256(content).hexdigest() != sha256:
            raise BackendError(ErrorCode.HASH_MISMATCH, "another content")
        self.files[f"{owner}/{sha256}"] = content

    async def purge(self, wanted: PurgeRequest) -> PurgeReport:
        self.purges.append(wanted)
        return PurgeReport(jobs=2, job_bytes=300, files=1, file_bytes=4)
