"""A backend whose jobs name their files by links of an object store."""

import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from comfysnap_schema.wire import JobEvent, JobPage, JobRecord, JobStatus, PurgeReport
from comfysnap_server.backends.protocol import (
    NO_BUDGET,
    Backend,
    BackendLoad,
    Output,
    OwnerBudget,
    OwnerUsage,
    PurgeRequest,
    SubmitResult,
)
from comfysnap_server.jobs import JobRequest, OutputStore, OutputStoreError
from comfysnap_server.logs import fields

log = logging.getLogger("comfysnap.gateway")


class LinkedBackend:
    """Signs links anew whenever a job is read, replays included.

    Args:
        backend: Where jobs run.
        store: Where it keeps their files.
    """

    def __init__(self, backend: Backend, store: OutputStore) -> None:
        self.name = backend.name
        self._backend = backend
        self._store = store

    async def _linked(self, job: JobRecord) -> JobRecord:
        try:
            return await self._store.with_links(job)
        except OutputStoreError as error:  # the gateway's own URLs still say why
            log.warning("links cannot be signed: %s", error, extra=fields(job=job.id))
            return job

    async def origin(self) -> str | None:
        """Scheme and host of the links; None while none can be signed."""
        try:
            parts = urlsplit(await self._store.link("job", "file"))
        except OutputStoreError:
            return None
        return f"{parts.scheme}://{parts.netloc}"

    async def start(self) -> None:
        """See ``Backend.start``."""
        await self._backend.start()

    async def stop(self) -> None:
        """See ``Backend.stop``."""
        await self._backend.stop()

    async def ready(self) -> bool:
        """See ``Backend.ready``."""
        return await self._backend.ready()

    def load(self) -> BackendLoad:
        """See ``Backend.load``."""
        return self._backend.load()

    async def submit(self, request: JobRequest, budget: OwnerBudget = NO_BUDGET) -> SubmitResult:
        """See ``Backend.submit``."""
        submitted = await self._backend.submit(request, budget)
        return replace(submitted, job=await self._linked(submitted.job))

    async def owner_of(self, job_id: str) -> str:
        """See ``Backend.owner_of``."""
        return await self._backend.owner_of(job_id)

    async def usage(self, owner: str, budget: OwnerBudget = NO_BUDGET) -> OwnerUsage:
        """See ``Backend.usage``."""
        return await self._backend.usage(owner, budget)

    async def replay(self, owner: str, idempotency_key: str, fingerprint: str) -> JobRecord | None:
        """See ``Backend.replay``."""
        job = await self._backend.replay(owner, idempotency_key, fingerprint)
        return job and await self._linked(job)

    async def get(self, owner: str, job_id: str) -> JobRecord:
        """See ``Backend.get``."""
        return await self._linked(await self._backend.get(owner, job_id))

    async def wait(
        self, owner: str, job_id: str, *, after: int | None, timeout: float
    ) -> JobRecord:
        """See ``Backend.wait``."""
        return await self._linked(
            await self._backend.wait(owner, job_id, after=after, timeout=timeout)
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
        """See ``Backend.list_jobs``."""
        page = await self._backend.list_jobs(
            owner, status=status, workflow=workflow, labels=labels, cursor=cursor, limit=limit
        )
        return page.model_copy(update={"jobs": [await self._linked(job) for job in page.jobs]})

    async def cancel(self, owner: str, job_id: str) -> JobRecord:
        """See ``Backend.cancel``."""
        return await self._linked(await self._backend.cancel(owner, job_id))

    async def events(
        self, owner: str, job_id: str, *, after: int | None
    ) -> AsyncIterator[JobEvent]:
        """See ``Backend.events``."""
        async for event in self._backend.events(owner, job_id, after=after):
            if event.output is not None:
                job = await self.get(owner, job_id)
                value = (job.outputs or {}).get(event.output.name, event.output.value)
                output = event.output.model_copy(update={"value": value})
                yield event.model_copy(update={"output": output})
            elif event.job is not None:
                yield event.model_copy(update={"job": await self._linked(event.job)})
            else:
                yield event

    async def open_output(self, owner: str, job_id: str, name: str) -> Output:
        """See ``Backend.open_output``."""
        return await self._backend.open_output(owner, job_id, name)

    async def has_file(self, owner: str, sha256: str) -> bool:
        """See ``Backend.has_file``."""
        return await self._backend.has_file(owner, sha256)

    async def put_file(
        self,
        owner: str,
        sha256: str,
        chunks: AsyncIterator[bytes],
        budget: OwnerBudget = NO_BUDGET,
    ) -> None:
        """See ``Backend.put_file``."""
        await self._backend.put_file(owner, sha256, chunks, budget)

    async def purge(self, wanted: PurgeRequest) -> PurgeReport:
        """See ``Backend.purge``."""
        return await self._backend.purge(wanted)
