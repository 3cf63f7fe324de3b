"""Reads and writes the records of jobs."""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import replace
from datetime import timedelta
from typing import Final, TypeVar

from comfysnap_schema.wire import IDEMPOTENCY_TTL_S, ErrorCode
from comfysnap_server.backends.modal.listing import JobIndex
from comfysnap_server.backends.modal.platform import Platform
from comfysnap_server.backends.modal.records import (
    MAX_PREEMPTIONS,
    CancelRequest,
    Claim,
    End,
    FeedEntry,
    KnownKey,
    Spawned,
    claim_key,
    idem_key,
    job_key,
    moved_key,
    read,
)
from comfysnap_server.backends.modal.reporting import ENDED_KEPT_S
from comfysnap_server.backends.modal.states import JobState, job_of
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs import JobRequest

log = logging.getLogger(__name__)

MAX_INLINE_BYTES: Final = 6 * 1024
"""A spawn above 8 KiB takes a round trip to the object store (``modal._utils.blob_utils``)."""
_REMEMBERED: Final = 1000

T = TypeVar("T")


class JobStore:
    """Jobs as records; what never changes is remembered."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._records = platform.records
        self.index = JobIndex(platform)
        self._requests: OrderedDict[str, JobRequest] = OrderedDict()
        self._calls: OrderedDict[str, Spawned] = OrderedDict()
        self._ended: OrderedDict[str, JobState] = OrderedDict()

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
        new, _ = await asyncio.gather(
            self._records.add(job_key(request.job_id, "request"), request.model_dump_json()),
            self.index.accept(request),
        )
        return new

    async def spawn(self, request: JobRequest, *, instead: Spawned | None = None) -> Spawned | None:
        """Queue the job with Modal. A failure is only logged: the request is kept, and the next
        gateway that reads the job spawns it.

        Args:
            instead: The call in a pool that is gone.

        Returns:
            The call; None if there is none, or none that is sure to be the job's.
        """
        text = request.model_dump_json()
        inline = text if len(text.encode()) <= MAX_INLINE_BYTES else None
        key = job_key(request.job_id, "call")
        if instead is not None and instead.pool is not None:
            key = moved_key(request.job_id, instead.pool)
        pool = self._platform.pools.of(request.workflow)
        try:
            call_id = await self._platform.calls.spawn(request.job_id, inline, pool)
            spawned = Spawned(call_id=call_id, at=self._platform.now(), pool=pool)
            # a second call for the same job is left to lose at the claim
            first = await self._records.add(key, spawned.model_dump_json())
        except Exception:
            log.exception("job %s could not be spawned", request.job_id)
            return None
        _remember(self._requests, request.job_id, request)
        if first:
            _remember(self._calls, request.job_id, spawned)
        return spawned if first else None

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
            _remember(self._requests, job_id, known)
        return known

    async def look(self, job_id: str, earlier: JobState | None = None) -> JobState:
        """The job in few requests: its end, or else what the feed says. The feed may lack what a
        record has, so read ``snapshot`` before acting for a job.

        Raises:
            BackendError: ``unknown_job``.
        """
        if known := self._ended.get(job_id):
            return known
        request = await self.request(job_id)
        final, entries = await asyncio.gather(self.final(job_id), self._entries(job_id))
        if final is not None:
            return await self.snapshot(job_id, earlier, final=final)
        claims = tuple(entry.claim for entry in entries if entry.claim)
        if not claims or len(claims) < max(entry.attempt for entry in entries):
            claims = await self._claims(job_id)  # none, or the feed does not tell
        cancel = next((entry.cancel for entry in entries if entry.cancel), None)
        call = None if claims else await self._call(job_id)
        state = JobState(request=request, call=call, claims=claims, cancel=cancel)
        if earlier is not None:
            state = replace(state, cancel=cancel or earlier.cancel).with_feed_of(earlier)
        for entry in entries:
            if entry.progress is not None:
                state = state.with_entry(entry)
        return state

    async def _call(self, job_id: str) -> Spawned | None:
        known = self._calls.get(job_id)
        if known is None:
            known = read(Spawned, await self._records.get(job_key(job_id, "call")))
            if known is not None:
                _remember(self._calls, job_id, known)
        return await self._moved(job_id, known)

    async def _moved(self, job_id: str, call: Spawned | None) -> Spawned | None:
        """The call that took the place of one in a pool that is gone, if there is one yet."""
        while call is not None and call.pool is not None and self._platform.pools.lacks(call.pool):
            later = read(Spawned, await self._records.get(moved_key(job_id, call.pool)))
            if later is None:
                break
            call = later
        return call

    async def _entries(self, job_id: str) -> list[FeedEntry]:
        return [
            FeedEntry.model_validate_json(text)
            async for text in self._platform.feed.read(job_id, wait=0)
        ]

    async def snapshot(
        self, job_id: str, earlier: JobState | None = None, *, final: End | None = None
    ) -> JobState:
        """All records of a job, without the feed beyond what ``earlier`` knew.

        Args:
            final: The final record, if it is known.

        Raises:
            BackendError: ``unknown_job``.
        """
        if known := self._ended.get(job_id):
            return known
        if final is None:
            request, call, cancel, final, claims = await asyncio.gather(
                self.request(job_id),
                self._records.get(job_key(job_id, "call")),
                self._records.get(job_key(job_id, "cancel")),
                self.final(job_id),
                self._claims(job_id),
            )
        else:  # whose claims are known to be all, and whose call is of no use any more
            call = None
            request, cancel, claims = await asyncio.gather(
                self.request(job_id),
                self._records.get(job_key(job_id, "cancel")),
                self._claims(job_id, final.attempt),
            )
        state = JobState(
            request=request,
            call=await self._moved(job_id, read(Spawned, call)),
            claims=claims,
            cancel=read(CancelRequest, cancel),
            final=final,
        )
        if earlier is not None:
            state = state.with_feed_of(earlier)
        if final is not None:
            _remember(self._ended, job_id, state)
        return state

    async def _claims(self, job_id: str, count: int | None = None) -> tuple[Claim, ...]:
        found: list[Claim] = []
        if count is not None:
            keys = [claim_key(job_id, run) for run in range(1, count + 1)]
            texts = await asyncio.gather(*(self._records.get(key) for key in keys))
            return tuple(claim for text in texts if (claim := read(Claim, text)))
        while claim := read(Claim, await self._records.get(claim_key(job_id, len(found) + 1))):
            found.append(claim)
            if len(found) >= (await self.request(job_id)).max_attempts + MAX_PREEMPTIONS:
                break
        return tuple(found)

    async def final(self, job_id: str) -> End | None:
        """How the job ended, if it did."""
        return read(End, await self._records.get(job_key(job_id, "final")))

    async def request_cancel(self, job_id: str) -> None:
        """Raise the cancel flag; the first request's time stands."""
        flag = CancelRequest(at=self._platform.now())
        key = job_key(job_id, "cancel")
        if not await self._records.add(key, flag.model_dump_json()):
            flag = read(CancelRequest, await self._records.get(key)) or flag
        entry = FeedEntry(attempt=0, number=0, cancel=flag)
        await self._platform.feed.append(job_id, entry.model_dump_json(), keep=ENDED_KEPT_S)

    def forget(self, job_id: str) -> None:
        """Remember nothing of a job whose records were deleted."""
        for known in (self._requests, self._calls, self._ended):
            known.pop(job_id, None)

    async def finish(self, snapshot: JobState, final: End) -> JobState:
        """Write a final record; the first one stands, and is in the answer."""
        job_id = snapshot.request.job_id
        if not await self._records.add(job_key(job_id, "final"), final.model_dump_json()):
            # its writer lists it
            return replace(snapshot, final=await self.final(job_id) or final)
        if self._platform.webhooks:
            await self._platform.webhooks.job_ended(snapshot.request, final.status)
        ended = replace(snapshot, final=final)
        await self.index.finish(ended.request, job_of(ended))
        return ended


def _remember(known: OrderedDict[str, T], job_id: str, value: T) -> None:
    known[job_id] = value
    while len(known) > _REMEMBERED:
        known.popitem(last=False)
