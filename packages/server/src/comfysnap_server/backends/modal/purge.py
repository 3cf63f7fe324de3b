"""Deletes ended jobs, with their outputs, and uploads of a deployment."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from datetime import timedelta
from typing import Final

from comfysnap_schema.wire import ErrorCode, JobRecord, PurgeReport
from comfysnap_server.backends.modal.platform import Platform
from comfysnap_server.backends.modal.records import (
    MAX_PREEMPTIONS,
    End,
    KnownKey,
    claim_key,
    idem_key,
    job_key,
    moved_key,
    preempted_key,
    read,
)
from comfysnap_server.backends.modal.shared_files import GatewayFiles
from comfysnap_server.backends.modal.states import job_of
from comfysnap_server.backends.modal.store import JobStore
from comfysnap_server.backends.protocol import IN_USE_S, PurgeRequest
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs import JobRequest, OutputStore, output_bytes

_MOST: Final = 500
"""Jobs that one call deletes; then the caller asks again."""
_AT_ONCE: Final = 50


class Purge:
    """Of what the lists of owners have: the jobs of the last seven days.

    Args:
        platform: Modal's objects.
        store: The records of jobs.
        files: The files volume.
        outputs: Object store of the output files; None: the files volume alone.
    """

    def __init__(
        self,
        platform: Platform,
        store: JobStore,
        files: GatewayFiles,
        outputs: OutputStore | None,
    ) -> None:
        self._platform = platform
        self._store = store
        self._files = files
        self._outputs = outputs

    async def run(
        self, wanted: PurgeRequest, needed: Callable[[], Awaitable[set[str]]]
    ) -> PurgeReport:
        """See ``Backend.purge``.

        Args:
            wanted: What to delete.
            needed: Hashes of the uploads that unfinished jobs read.

        Raises:
            OutputStoreError: Files in the object store cannot be deleted; their jobs stay.
        """
        size, complete = 0, True
        found: list[tuple[str, str]] = []
        async with aclosing(self._ended(wanted)) as ended:
            async for owner, job_id, job in ended:
                if len(found) == _MOST and not wanted.dry_run:
                    complete = False
                    break
                found.append((owner, job_id))
                size += output_bytes(job.outputs)
        if found and not wanted.dry_run:
            await self._delete(found)
        sizes: list[int] = []
        if wanted.files and complete:
            sizes = await self._files.purge(
                owner=wanted.owner,
                older_than=max(wanted.older_than, IN_USE_S),
                keep=await needed(),
                dry_run=wanted.dry_run,
            )
        return PurgeReport(
            jobs=len(found),
            job_bytes=size,
            files=len(sizes),
            file_bytes=sum(sizes),
            complete=complete,
        )

    async def _ended(self, wanted: PurgeRequest) -> AsyncGenerator[tuple[str, str, JobRecord]]:
        if not wanted.jobs:
            return
        index = self._store.index
        owners = await index.owners() if wanted.owner is None else [wanted.owner]
        limit = self._platform.now() - timedelta(seconds=wanted.older_than)
        for owner in owners:
            for entry in await index.find(owner, None, {}, before=None):
                job = entry.listed.job or await self._unlisted(owner, entry.job_id)
                if job is not None and job.finished_at is not None and job.finished_at <= limit:
                    yield owner, entry.job_id, job

    async def _unlisted(self, owner: str, job_id: str) -> JobRecord | None:
        """A job whose end is not in the list: one that is large, or ended just now."""
        try:
            request = await self._store.request(job_id)
            final = await self._store.final(job_id)
        except BackendError as error:  # never written, or purged by another gateway
            if error.code is not ErrorCode.UNKNOWN_JOB:
                raise
            return None
        if final is None or request.owner != owner:
            return None
        return job_of(await self._store.snapshot(job_id, final=final))

    async def _delete(self, jobs: list[tuple[str, str]]) -> None:
        job_ids = [job_id for _, job_id in jobs]
        if self._outputs is not None:
            await self._outputs.delete(job_ids)
        await self._files.delete_outputs(job_ids)
        for start in range(0, len(jobs), _AT_ONCE):
            part = jobs[start : start + _AT_ONCE]
            await asyncio.gather(*(self._forget(owner, job_id) for owner, job_id in part))

    async def _forget(self, owner: str, job_id: str) -> None:
        records = self._platform.records
        request = read(JobRequest, await records.get(job_key(job_id, "request")))
        await records.pop(job_key(job_id, "request"))
        if request is not None:
            await _all(records.pop(key) for key in self._keys_of(request))
            await self._free_key(request)
        await self._bury(job_id)
        self._store.forget(job_id)
        await self._store.index.delete(owner, job_id)

    async def _bury(self, job_id: str) -> None:
        """Keep that the job ended, without what it made: another gateway that still knows its
        request would run it again."""
        final = await self._store.final(job_id)
        if final is not None:
            bare = End(status=final.status, at=final.at, attempt=final.attempt)
            key = job_key(job_id, "final")
            await self._platform.records.put(key, bare.model_dump_json(exclude_defaults=True))

    def _keys_of(self, request: JobRequest) -> list[str]:
        job_id = request.job_id
        runs = range(1, request.max_attempts + MAX_PREEMPTIONS + 1)
        return [
            job_key(job_id, "call"),
            job_key(job_id, "cancel"),
            *(claim_key(job_id, run) for run in runs),
            *(preempted_key(job_id, run) for run in runs),
            *(moved_key(job_id, pool) for pool in self._platform.pools.longest_run),
        ]

    async def _free_key(self, request: JobRequest) -> None:
        if request.idempotency_key is None:
            return
        place = idem_key(request.owner, request.idempotency_key)
        known = read(KnownKey, await self._platform.records.get(place))
        if known is not None and known.job_id == request.job_id:
            await self._platform.records.pop(place)


async def _all(tasks: Iterable[Awaitable[None]]) -> None:
    await asyncio.gather(*tasks)
