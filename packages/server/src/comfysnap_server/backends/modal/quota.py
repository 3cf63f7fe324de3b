"""How many unfinished jobs an owner may have, as one gateway container counts them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from comfysnap_schema.errors import ErrorCode
from comfysnap_server.backends.protocol import BackendError

_LOOK_S: Final = 1.0
"""Between two looks at the records of an owner who is at the limit: each reads one a job."""
_RETRY_S: Final = 5.0


@dataclass
class _Owner:
    jobs: set[str] = field(default_factory=set[str])
    looked_at: float = float("-inf")


class Quota:
    """Approximate: a ``Dict`` has no counters, so each container counts the jobs that it accepted
    itself, and ``n`` containers let up to ``n`` times the limit pass.

    Args:
        limit: Unfinished jobs an owner; None: any number, and nothing is counted.
        ended: Whether a job has a final record.
    """

    def __init__(self, limit: int | None, ended: Callable[[str], Awaitable[bool]]) -> None:
        self._limit = limit
        self._ended = ended
        self._owners: dict[str, _Owner] = {}

    def is_full(self, owner: str) -> bool:
        """Whether another job needs room to be made first."""
        known = self._owners.get(owner)
        return self._limit is not None and known is not None and len(known.jobs) >= self._limit

    async def make_room(self, owner: str) -> None:
        """Forget the jobs that ended.

        Raises:
            BackendError: ``quota_exceeded``: none did.
        """
        while self.is_full(owner):
            known = self._owners[owner]
            now = time.monotonic()
            if now - known.looked_at >= _LOOK_S:
                known.looked_at = now
                jobs = list(known.jobs)
                ends = await asyncio.gather(*(self._ended(job_id) for job_id in jobs))
                known.jobs.difference_update(
                    job_id for job_id, ended in zip(jobs, ends, strict=True) if ended
                )
            elif self.is_full(owner):
                count = len(known.jobs)
                raise BackendError(
                    ErrorCode.QUOTA_EXCEEDED,
                    f"{count} of your jobs are not finished yet",
                    retry_after=_RETRY_S,
                )

    def add(self, owner: str, job_id: str) -> None:
        """Count a job that is about to be accepted."""
        if self._limit is not None:
            self._owners.setdefault(owner, _Owner()).jobs.add(job_id)

    def drop(self, owner: str, job_id: str) -> None:
        """Do not count it after all."""
        known = self._owners.get(owner)
        if known is not None:
            known.jobs.discard(job_id)
