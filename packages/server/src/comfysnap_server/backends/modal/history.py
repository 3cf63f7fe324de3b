"""Jobs of a deployment for its operator: of all owners, with their pools and calls."""

import asyncio
from dataclasses import dataclass

from comfysnap_schema.wire import JobRecord
from comfysnap_server.backends.modal.platform import Platform
from comfysnap_server.backends.modal.states import JobState, job_of
from comfysnap_server.backends.modal.store import JobStore

_AT_ONCE = 20


@dataclass(frozen=True)
class KnownJob:
    """A job, and where it ran."""

    record: JobRecord
    pool: str | None
    """None: a version without pools accepted it."""
    call_ids: tuple[str, ...]
    """Function calls that ran it, or wait to; one for each, oldest first."""

    @property
    def to_first_input(self) -> float | None:
        """Seconds from its submit until a worker took it: queue and start."""
        timings = self.record.timings
        if timings.queue is None:
            return None
        return timings.queue + (timings.start or 0.0)

    @property
    def seconds(self) -> float | None:
        """Seconds from its submit to its end."""
        if self.record.finished_at is None:
            return None
        return (self.record.finished_at - self.record.created_at).total_seconds()


class JobHistory:
    """Reads the records, and changes none.

    Args:
        platform: Its records, index, feed and pools are used.
    """

    def __init__(self, platform: Platform) -> None:
        self._store = JobStore(platform)
        self._index = self._store.index

    async def find(self, job_id: str) -> KnownJob:
        """A job of any owner.

        Raises:
            BackendError: ``unknown_job``.
        """
        return _known(await self._store.snapshot(job_id))

    async def newest(self, count: int) -> list[KnownJob]:
        """The newest jobs of the last week, newest first. It reads the lists of all owners."""
        ids = await self._index.newest(count)
        found: list[KnownJob] = []
        for start in range(0, len(ids), _AT_ONCE):
            part = ids[start : start + _AT_ONCE]
            states = await asyncio.gather(
                *(self._store.snapshot(job_id) for job_id in part), return_exceptions=True
            )
            found += [_known(state) for state in states if isinstance(state, JobState)]
        return found


def _known(state: JobState) -> KnownJob:
    pool = state.claims[-1].pool if state.claims else state.call.pool if state.call else None
    calls = [claim.call_id for claim in state.claims] or [state.call.call_id if state.call else ""]
    return KnownJob(job_of(state), pool, tuple(dict.fromkeys(call for call in calls if call)))
