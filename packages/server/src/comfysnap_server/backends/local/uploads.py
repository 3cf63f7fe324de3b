"""Uploaded files of owners, up to what each may have stored."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection

from comfysnap_server.backends.local import store
from comfysnap_server.jobs import FileStore
from comfysnap_server.owner_locks import OwnerLocks


class Uploads:
    """A file store that counts the bytes of each owner while they come.

    Args:
        files: Where they lie.
        job_bytes: Bytes of the jobs and outputs of an owner.
    """

    def __init__(
        self,
        files: FileStore,
        *,
        job_bytes: Callable[[str], Awaitable[int]],
    ) -> None:
        self._files = files
        self._job_bytes = job_bytes
        self._stored: dict[str, int] = {}
        self._arriving: Counter[str] = Counter()
        self._missed: dict[str, int] = {}
        """Bytes that were stored while those of their owner were being added up."""
        self._locks = OwnerLocks()

    async def has(self, owner: str, sha256: str) -> bool:
        """Whether the owner stored this file; asking keeps it from the next sweep."""
        return await asyncio.to_thread(self._files.has, owner, sha256)

    async def bytes_of(self, owner: str) -> int:
        """What the owner's uploads take, those that are coming in included."""
        if owner not in self._stored:
            await self._add_up(owner)
        return self._stored[owner] + self._arriving[owner]

    async def _add_up(self, owner: str) -> None:
        async with self._locks.hold(owner):
            if owner in self._stored:
                return
            self._missed[owner] = 0
            try:
                found = await asyncio.to_thread(self._files.used, owner)
            finally:
                missed = self._missed.pop(owner)
            self._stored[owner] = found + missed

    async def put(
        self, owner: str, sha256: str, chunks: AsyncIterator[bytes], limit: int | None
    ) -> None:
        """Store a file while checking its hash and size.

        Args:
            owner: Whose file it is.
            sha256: Its hash.
            chunks: Its content.
            limit: Bytes of the owner's uploads, jobs and outputs; None: no limit.

        Raises:
            BackendError: See ``FileStore.put``; ``quota_exceeded``.
        """
        kept = await self._job_bytes(owner)
        is_new = not await self.has(owner, sha256)
        size = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            async for chunk in chunks:
                if limit is not None:
                    store.check_stored(await self.bytes_of(owner) + kept + len(chunk), limit)
                self._arriving[owner] += len(chunk)
                size += len(chunk)
                yield chunk

        try:
            await self._files.put(owner, sha256, counted())
            if is_new:
                self._add(owner, size)
        finally:
            self._arriving[owner] -= size
            if not self._arriving[owner]:
                del self._arriving[owner]

    def _add(self, owner: str, size: int) -> None:
        if owner in self._missed:
            self._missed[owner] += size
        elif owner in self._stored:
            self._stored[owner] += size

    async def purge(
        self, *, older_than: float, keep: Collection[str], owner: str | None, dry_run: bool
    ) -> list[int]:
        """Delete old files of one owner or of all; see ``FileStore.purge``."""
        sizes = await asyncio.to_thread(
            self._files.purge, older_than=older_than, keep=keep, owner=owner, dry_run=dry_run
        )
        if sizes and not dry_run:
            self._stored.clear()
        return sizes

    async def sweep(self, *, older_than: float, keep: Collection[str]) -> None:
        """Delete old files; see ``FileStore.sweep``."""
        await asyncio.to_thread(self._files.sweep, older_than=older_than, keep=keep)
        self._stored.clear()
