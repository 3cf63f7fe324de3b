"""What an owner may have, as one gateway container counts it: unfinished jobs, stored bytes."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from comfysnap_schema.wire import BudgetName, ErrorCode
from comfysnap_server.errors import BackendError

LONGEST_LIFE: Final = timedelta(days=3)
"""Older jobs have ended, and their records may be gone: a function runs for a day at most."""
_LOOK_S: Final = 1.0
"""Between two looks at the records of an owner who is at the limit: each reads one a job."""
_RETRY_S: Final = 5.0
_STORED_S: Final = 60.0
"""How long what was read of an owner's stored bytes is used."""
_STORED_RETRY_S: Final = 3600.0


@dataclass
class _Owner:
    jobs: dict[str, datetime] = field(default_factory=dict[str, datetime])
    looked_at: float = float("-inf")
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Quota:
    """Approximate: a ``Dict`` has no counters, so each container counts the jobs that it accepted
    itself, and ``n`` containers let up to ``n`` times the limit pass.

    A limit is given with each question, since keys have their own; without one nothing is counted.

    Args:
        ended: Whether a job has a final record.
        now: The clock of the jobs.
    """

    def __init__(
        self,
        ended: Callable[[str], Awaitable[bool]],
        now: Callable[[], datetime],
    ) -> None:
        self._ended = ended
        self._now = now
        self._owners: dict[str, _Owner] = {}

    async def count(self, owner: str) -> int:
        """Jobs that had not ended about a second ago."""
        known = self._owners.get(owner)
        if known is None:
            return 0
        async with known.looking:
            if time.monotonic() - known.looked_at > _LOOK_S:
                known.looked_at = time.monotonic()
                await self._look(known)
        return len(known.jobs)

    def is_full(self, owner: str, limit: int) -> bool:
        """Whether another job needs room to be made first."""
        known = self._owners.get(owner)
        return known is not None and len(known.jobs) >= limit

    async def make_room(self, owner: str, limit: int) -> None:
        """Forget the jobs that ended; one look answers all who asked before it.

        Raises:
            BackendError: ``quota_exceeded``: none did.
        """
        known = self._owners[owner]
        asked_at = time.monotonic()
        async with known.looking:
            if self.is_full(owner, limit) and known.looked_at < asked_at:
                await asyncio.sleep(known.looked_at + _LOOK_S - asked_at)
                known.looked_at = time.monotonic()
                await self._look(known)
        if self.is_full(owner, limit):
            raise BackendError(
                ErrorCode.QUOTA_EXCEEDED,
                f"{len(known.jobs)} of your jobs are not finished yet",
                retry_after=_RETRY_S,
                budget=BudgetName.MAX_UNFINISHED_JOBS,
                limit=limit,
            )

    async def _look(self, known: _Owner) -> None:
        oldest = self._now() - LONGEST_LIFE
        jobs = dict(known.jobs)
        young = [job_id for job_id, accepted_at in jobs.items() if accepted_at >= oldest]
        ends = await asyncio.gather(*(self._ended(job_id) for job_id in young))
        unfinished = {job_id for job_id, ended in zip(young, ends, strict=True) if not ended}
        for job_id in jobs.keys() - unfinished:
            known.jobs.pop(job_id, None)

    def add(self, owner: str, job_id: str) -> None:
        """Count a job that is about to be accepted."""
        self._owners.setdefault(owner, _Owner()).jobs[job_id] = self._now()

    def drop(self, owner: str, job_id: str) -> None:
        """Do not count it after all."""
        known = self._owners.get(owner)
        if known is not None:
            known.jobs.pop(job_id, None)


@dataclass
class _Stored:
    total: int = 0
    read_at: float = float("-inf")
    arriving: int = 0
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)


class StoredBytes:
    """Bytes of the uploads and outputs of owners: read once a minute, which takes an owner's whole
    list, and only for owners of keys with such a budget.

    Args:
        read: Reads what an owner has.
    """

    def __init__(self, read: Callable[[str], Awaitable[int]]) -> None:
        self._read = read
        self._owners: dict[str, _Stored] = {}

    async def of(self, owner: str) -> int:
        """What the owner has, with uploads that are coming in."""
        known = await self._known(owner)
        return known.total + known.arriving

    async def _known(self, owner: str) -> _Stored:
        known = self._owners.setdefault(owner, _Stored())
        async with known.reading:
            if time.monotonic() - known.read_at > _STORED_S:
                known.total = await self._read(owner)
                known.read_at = time.monotonic()
        return known

    def read_again(self) -> None:
        """Forget what was read: files were deleted."""
        for known in self._owners.values():
            known.read_at = float("-inf")

    async def check(self, owner: str, limit: int) -> None:
        """Refuse an owner who has all that it may have.

        Raises:
            BackendError: ``quota_exceeded``.
        """
        stored = await self.of(owner)
        if stored >= limit:
            raise _too_much(stored, limit)

    @asynccontextmanager
    async def arriving(
        self, owner: str, chunks: AsyncIterator[bytes], limit: int
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        """The chunks of a new upload, which count from when they come, and stay counted unless the
        block fails.

        Raises:
            BackendError: ``quota_exceeded``.
        """
        known = await self._known(owner)
        size = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            async for chunk in chunks:
                stored = known.total + known.arriving + len(chunk)
                if stored > limit:
                    raise _too_much(stored, limit)
                known.arriving += len(chunk)
                size += len(chunk)
                yield chunk

        try:
            yield counted()
            known.total += size
        finally:
            known.arriving -= size


def _too_much(stored: int, limit: int) -> BackendError:
    return BackendError(
        ErrorCode.QUOTA_EXCEEDED,
        f"your files would take {stored} of {limit} bytes (max_stored_bytes); they are deleted"
        " some time after their last use",
        retry_after=_STORED_RETRY_S,
        budget=BudgetName.MAX_STORED_BYTES,
        limit=limit,
    )
