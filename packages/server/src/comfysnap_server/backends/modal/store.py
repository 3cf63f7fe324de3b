"""Reads and writes the records of jobs."""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import replace
from datetime import timedelta
from typing import Final

from comfysnap_schema.wire import IDEMPOTENCY_TTL_S, ErrorCode
from comfysnap_server.backends.modal.platform import Platform
from comfysnap_server.backends.modal.records import (
    MAX_PREEMPTIONS,
    CancelRequest,
    Claim,
    End,
    FeedEntry,
    KnownKey,
    Listed,
    Spawned,
    claim_key,
    idem_key,
    index_key,
    job_key,
    read,
)
from comfysnap_server.backends.modal.states import JobState
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs import JobRequest

log = logging.getLogger(__name__)

MAX_INLINE_BYTES: Final = 6 * 1024
"""A spawn above 8 KiB takes a round trip to the object store (``modal._utils.blob_utils``)."""
_REMEMBERED: Final = 1000


class JobStore:
    """Jobs as records; what never changes is remembered."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._records = platform.records
        self._requests: OrderedDict[str, JobRequest] = OrderedDict()

    async def find_key(self, owner: str, key: str) -> KnownKey | None:
        """The job that an idempotency key made in the last 24 hours."""
        known = read(KnownKey, await self._records.get(idem_key(owner, key)))
        if known is None:
            return None
        age = self._platform.now() - known.created_at
        return known if age < timedelta(seconds=IDEMPOTENCY_TTL_S) else None

    async def reserve_key(self, request: JobRequest) -> KnownKey | None:
        """Bind the request's key to its job; an earlier job that has it is returned."""
        if request.idempotency_key is None:
            return None
        place = idem_key(request.owner, request.idempotency_key)
        mine = KnownKey(
            job_id=request.job_id,
            fingerprint=request.fingerprint,
            created_at=self._platform.now(),
        )
        if await self._records.add(place, mine.model_dump_json()):
            return None
        earlier = await self.find_key(request.owner, request.idempotency_key)
        if earlier is None:  # too old to count
            await self._records.put(place, mine.model_dump_json())
        return earlier

    async def accept(self, request: JobRequest) -> bool:
        """Write the request and list the job; whether it is new."""
        listed = Listed(
            created_at=request.created_at, workflow=request.workflow, labels=request.labels
        )
        new, _ = await asyncio.gather(
            self._records.add(job_key(request.job_id, "request"), request.model_dump_json()),
            self._platform.index.add(
                index_key(request.owner, request.job_id), listed.model_dump_json()
            ),
        )
        return new

    async def spawn(self, request: JobRequest) -> None:
        """Queue the job with Modal. A failure is only logged: the request is kept, and the next
        gateway that reads the job spawns it."""
        text = request.model_dump_json()
        inline = text if len(text.encode()) <= MAX_INLINE_BYTES else None
        try:
            call_id = await self._platform.calls.spawn(request.job_id, inline)
            spawned = Spawned(call_id=call_id, at=self._platform.now())
            # a second call for the same job is left to lose at the claim
            await self._records.add(job_key(request.job_id, "call"), spawned.model_dump_json())
        except Exception:
            log.exception("job %s could not be spawned", request.job_id)

    async def request(self, job_id: str) -> JobRequest:
        """The request of a job.

        Raises:
            BackendError: ``unknown_job``.
        """
        known = self._requests.get(job_id)
        if known is None:
            known = read(JobRequest, await self._records.get(job_key(job_id, "request")))
            if known is None:
                raise BackendError(ErrorCode.UNKNOWN_JOB, "unknown job")
            self._requests[job_id] = known
            while len(self._requests) > _REMEMBERED:
                self._requests.popitem(last=False)
        return known

    async def snapshot(self, job_id: str, earlier: JobState | None = None) -> JobState:
        """All records of a job, without the feed beyond what ``earlier`` knew.

        Raises:
            BackendError: ``unknown_job``.
        """
        request, call, cancel, final, claims = await asyncio.gather(
            self.request(job_id),
            self._records.get(job_key(job_id, "call")),
            self._records.get(job_key(job_id, "cancel")),
            self.final(job_id),
            self._claims(job_id),
        )
        return JobState(
            request=request,
            call=read(Spawned, call),
            claims=claims,
            cancel=read(CancelRequest, cancel),
            final=final,
            entry=earlier.entry if earlier else None,
        )

    async def _claims(self, job_id: str) -> tuple[Claim, ...]:
        found: list[Claim] = []
        while claim := read(Claim, await self._records.get(claim_key(job_id, len(found) + 1))):
            found.append(claim)
            if len(found) >= (await self.request(job_id)).max_attempts + MAX_PREEMPTIONS:
                break
        return tuple(found)

    async def final(self, job_id: str) -> End | None:
        """How the job ended, if it did."""
        return read(End, await self._records.get(job_key(job_id, "final")))

    async def with_feed(self, snapshot: JobState) -> JobState:
        """With the progress that is there now."""
        job_id = snapshot.request.job_id
        async for text in self._platform.feed.read(job_id, wait=0):
            entry = FeedEntry.model_validate_json(text)
            if entry.progress is not None:
                snapshot = snapshot.with_entry(entry)
        return snapshot

    async def request_cancel(self, job_id: str) -> None:
        """Raise the cancel flag; the first request's time stands."""
        flag = CancelRequest(at=self._platform.now())
        await self._records.add(job_key(job_id, "cancel"), flag.model_dump_json())

    async def finish(self, snapshot: JobState, final: End) -> JobState:
        """Write a final record; the first one stands, and is in the answer."""
        job_id = snapshot.request.job_id
        if not await self._records.add(job_key(job_id, "final"), final.model_dump_json()):
            final = await self.final(job_id) or final
        return replace(snapshot, final=final)
