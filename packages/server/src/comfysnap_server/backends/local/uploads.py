"""Uploaded files of owners, up to what each may have stored."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection

from comfysnap_server.backends.local import store
from comfysnap_server.jobs import FileStore


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
        self._bytes: dict[str, int] = {}

    async def has(self, owner: str, sha256: str) -> bool:
        """Whether the owner stored this file; asking keeps it from the next sweep."""
        return await asyncio.to_thread(self._files.has, owner, sha256)

    async def bytes_of(self, owner: str) -> int:
        """What the owner's uploads take, those that are coming in included."""
        if owner not in self._bytes:
            found = await asyncio.to_thread(self._files.used, owner)
            self._bytes.setdefault(owner, found)
        return self._bytes[owner]

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
        await self.bytes_of(owner)  # last, since a sweep begins to count anew
        counted = _Counted(self._bytes, owner, chunks, kept=kept, limit=limit)
        is_new = not await self.has(owner, sha256)
        stored = False
        try:
            await self._files.put(owner, sha256, counted.chunks())
            stored = is_new
        finally:
            if not stored:
                counted.give_back()

    async def purge(
        self, *, older_than: float, keep: Collection[str], owner: str | None, dry_run: bool
    ) -> list[int]:
        """Delete old files of one owner or of all; see ``FileStore.purge``."""
        sizes = await asyncio.to_thread(
            self._files.purge, older_than=older_than, keep=keep, owner=owner, dry_run=dry_run
        )
        if sizes and not dry_run:
            self._bytes = {}
        return sizes

    async def sweep(self, *, older_than: float, keep: Collection[str]) -> None:
        """Delete old files; see ``FileStore.sweep``."""
        await asyncio.to_thread(self._files.sweep, older_than=older_than, keep=keep)
        self._bytes = {}


class _Counted:
    def __init__(
        self,
        totals: dict[str, int],
        owner: str,
        chunks: AsyncIterator[bytes],
        *,
        kept: int,
        limit: int | None,
    ) -> None:
        self._totals = totals
        self._owner = owner
        self._chunks = chunks
        self._kept = kept
        self._limit = limit
        self._count = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        """The chunks, each counted before it is passed on."""
        async for chunk in self._chunks:
            if self._limit is not None:
                store.check_stored(self._totals[self._owner] + self._kept + len(chunk), self._limit)
            self._totals[self._owner] += len(chunk)
            self._count += len(chunk)
            yield chunk

    def give_back(self) -> None:
        """What came is not kept, or was there already."""
        self._totals[self._owner] -= self._count
