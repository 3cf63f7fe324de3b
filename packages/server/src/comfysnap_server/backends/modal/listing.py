"""Which jobs there are: each owner's in a Dict of their own, the unfinished ones in another."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from comfysnap_schema.wire import JobRecord
from comfysnap_server.backends.modal.platform import Platform, Records
from comfysnap_server.backends.modal.records import Listed, index_key, owner_and_job
from comfysnap_server.jobs import JobRequest

log = logging.getLogger(__name__)

LISTED_FOR: Final = timedelta(days=7)
"""Records of older jobs may be gone: a Dict's entries expire after seven idle days."""
MAX_LISTED: Final = 10_000
"""Ended jobs in an owner's list after a sweep. A page reads all of them, about 1 KB each."""
MAX_LISTED_BYTES: Final = 32 * 1024
"""A larger job is read from its records instead: a page reads the owner's whole list."""
_LAYOUT: Final = "layout"
"""Key in the index that says that the lists of owners are complete."""
_OWNER: Final = "owner~"
"""Prefix of keys in the index that name an owner with a list."""
_MARK: Final = Listed(created_at=datetime(1970, 1, 1, tzinfo=UTC), workflow="").model_dump_json()
"""Value of those keys; versions that kept all jobs in the index skip it."""
_AT_ONCE: Final = 50


def list_name(deployment: str, owner: str) -> str:
    """Name of the Dict with an owner's jobs; names of Modal objects are shorter than 64 characters,
    and owners may have any."""
    digest = hashlib.sha256(f"{deployment}\0{owner}".encode()).hexdigest()[:20]
    return f"{deployment[:32]}-list-{digest}"


@dataclass(frozen=True)
class Found:
    """A job in an owner's list."""

    job_id: str
    listed: Listed

    @property
    def cursor(self) -> str:
        """Sorts by time, then id."""
        return f"{self.listed.created_at.timestamp():017.6f}-{self.job_id}"


class JobIndex:
    """Lists jobs by owner, and those that may not have ended."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._lists: dict[str, Records] = {}
        self._marked: set[str] = set()
        self._complete = False

    def _list(self, owner: str) -> Records:
        if owner not in self._lists:
            self._lists[owner] = self._platform.listings(owner)
        return self._lists[owner]

    async def accept(self, request: JobRequest) -> None:
        """Add a job to both."""
        text = _listed(request).model_dump_json(exclude_defaults=True)
        await asyncio.gather(
            self._platform.index.add(index_key(request.owner, request.job_id), text),
            self._list(request.owner).add(request.job_id, text),
            self._mark(request.owner),
        )

    async def _mark(self, owner: str) -> None:
        if owner not in self._marked:
            await self._platform.index.add(_OWNER + index_key(owner, "")[:-1], _MARK)
            self._marked.add(owner)

    async def finish(self, request: JobRequest, job: JobRecord) -> None:
        """Put an ended job into its owner's list. A failure is only logged: whoever reads the list,
        and the sweep, do it again."""
        try:
            await self.update(request.owner, [(_listed(request), job)])
        except Exception:
            log.exception("the end of job %s could not be listed", request.job_id)

    async def update(self, owner: str, ended: Iterable[tuple[Listed, JobRecord]]) -> None:
        """Put ended jobs into an owner's list, in one request."""
        texts = {
            job.id: listed.model_copy(update={"job": job}).model_dump_json(exclude_defaults=True)
            for listed, job in ended
        }
        fit = {key: text for key, text in texts.items() if len(text.encode()) <= MAX_LISTED_BYTES}
        if fit:
            await self._list(owner).update(fit)

    async def find(
        self, owner: str, workflow: str | None, labels: Mapping[str, str], *, before: str | None
    ) -> list[Found]:
        """Matching jobs, newest first, from behind the cursor ``before`` on."""
        await self._complete_lists()
        oldest = self._platform.now() - LISTED_FOR
        found: list[Found] = []
        async for job_id, value in self._list(owner).items():
            job = Found(job_id, Listed.model_validate_json(value))
            listed = job.listed
            if listed.created_at < oldest or (before is not None and job.cursor >= before):
                continue
            if workflow in (None, listed.workflow) and labels.items() <= listed.labels.items():
                found.append(job)
        return sorted(found, key=lambda job: job.cursor, reverse=True)

    async def _complete_lists(self) -> None:
        """Copy what is in the index alone: earlier versions kept all jobs there."""
        if self._complete or await self._platform.index.get(_LAYOUT) is not None:
            self._complete = True
            return
        alone: dict[str, dict[str, str]] = {}
        async for owner, job_id, listed in self.unfinished():
            text = listed.model_dump_json(exclude_defaults=True)
            alone.setdefault(owner, {})[job_id] = text
        for owner, jobs in alone.items():
            known = {job_id async for job_id, _ in self._list(owner).items()}
            new = {job_id: text for job_id, text in jobs.items() if job_id not in known}
            if new:
                await asyncio.gather(self._list(owner).update(new), self._mark(owner))
        await self._platform.index.add(_LAYOUT, _MARK)
        self._complete = True

    async def newest(self, count: int) -> list[str]:
        """Ids of the newest listed jobs of all owners, newest first; they sort by the time of their
        submit."""
        await self._complete_lists()
        found = [
            job_id for owner in await self.owners() async for job_id, _ in self._list(owner).items()
        ]
        return sorted(found, reverse=True)[:count]

    async def unfinished(self) -> AsyncIterator[tuple[str, str, Listed]]:
        """Owner, id and entry of each job of the index, in no order: those that have not ended, or
        did since the last sweep."""
        async for key, value in self._platform.index.items():
            if ":" in key:
                yield *owner_and_job(key), Listed.model_validate_json(value)

    async def tidy(self) -> list[tuple[str, str, Listed]]:
        """Take ended jobs out of the index, and what is listed no more out of the lists.

        Returns:
            Owner, id and entry of each job that is left in the index.
        """
        await self._complete_lists()
        index = {(owner, job_id): listed async for owner, job_id, listed in self.unfinished()}
        oldest = self._platform.now() - LISTED_FOR
        ended: list[str] = []
        for owner in await self.owners():
            entries = self._list(owner)
            old: list[str] = []
            kept: list[str] = []
            async for job_id, value in entries.items():
                listed = Listed.model_validate_json(value)
                if listed.job is not None and index.pop((owner, job_id), None):
                    ended.append(index_key(owner, job_id))
                if listed.created_at < oldest:
                    old.append(job_id)
                elif listed.job is not None:
                    kept.append(Found(job_id, listed).cursor)
            excess = sorted(kept, reverse=True)[MAX_LISTED:]
            await _pop(entries, [*old, *(cursor.partition("-")[2] for cursor in excess)])
        await _pop(self._platform.index, ended)
        return [(owner, job_id, listed) for (owner, job_id), listed in index.items()]

    async def owners(self) -> list[str]:
        """Who has a list."""
        return await listed_owners(self._platform.index)

    async def delete(self, owner: str, job_id: str) -> None:
        """Take a job out of both."""
        await asyncio.gather(self.forget(owner, job_id), self._list(owner).pop(job_id))

    async def forget(self, owner: str, job_id: str) -> None:
        """Take a job out of the index."""
        await self._platform.index.pop(index_key(owner, job_id))


async def listed_owners(index: Records) -> list[str]:
    """Owners that have a list, as the index of a deployment names them."""
    keys = [key async for key, _ in index.items()]
    marks = [key.removeprefix(_OWNER) for key in keys if _is_mark(key)]
    return [owner_and_job(mark)[0] for mark in marks]


def _is_mark(key: str) -> bool:
    return key.startswith(_OWNER) and ":" not in key


async def _pop(entries: Records, keys: Sequence[str]) -> None:
    for start in range(0, len(keys), _AT_ONCE):
        await asyncio.gather(*(entries.pop(key) for key in keys[start : start + _AT_ONCE]))


def _listed(request: JobRequest) -> Listed:
    return Listed(created_at=request.created_at, workflow=request.workflow, labels=request.labels)
