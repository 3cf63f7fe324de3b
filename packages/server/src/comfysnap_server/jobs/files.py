"""Files of jobs: input files in a folder, addressed by content and kept apart by owner."""

import asyncio
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, cast

from pydantic import JsonValue

from comfysnap_schema.wire import (
    MAX_FILE_BYTES,
    SHA256_PATTERN,
    ErrorCode,
    JobRecord,
    OutputFile,
)
from comfysnap_server.engine.outputs import output_files
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs.request import JobRequest
from comfysnap_server.jobs.threads import opened
from comfysnap_server.owner_locks import OwnerLocks

_BUFFER: Final = 1024 * 1024
_INCOMING: Final = "incoming"
_SHA256: Final = re.compile(SHA256_PATTERN)


class FileStore:
    """A folder of files named by their SHA-256. Safe for several processes: a file appears whole
    or not at all.

    Args:
        root: The folder; made when missing.
        max_bytes: Largest file.
        keep_free: Bytes of the disk that uploads leave to others.
        sync_often: Whether an upload is synced each mebibyte and not once: on a disk that owners
            share, the sync of one waits for all that others have written.
    """

    def __init__(
        self,
        root: Path,
        *,
        max_bytes: int = MAX_FILE_BYTES,
        keep_free: int = 0,
        sync_often: bool = False,
    ) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._keep_free = keep_free
        self._sync_often = sync_often
        self._locks = OwnerLocks()

    async def put(self, owner: str, sha256: str, chunks: AsyncIterator[bytes]) -> Path:
        """Store a file while checking its hash and size; storing it again only keeps it longer.

        Raises:
            BackendError: ``hash_mismatch``, ``file_too_large``, or ``unavailable`` (disk full).
        """
        target = self._path(owner, sha256)
        temporary = self._root / _INCOMING / f"{secrets.token_hex(16)}.part"
        try:
            file = await opened(partial(_open_new, temporary))
            try:
                digest = await self._receive(owner, file, chunks)
            finally:
                await asyncio.to_thread(file.close)
            if digest != sha256:
                raise BackendError(
                    ErrorCode.HASH_MISMATCH, f"the content has the SHA-256 {digest}, not {sha256}"
                )
            await asyncio.to_thread(_move, temporary, target)
        except OSError as error:
            raise BackendError(
                ErrorCode.UNAVAILABLE, f"the file cannot be stored: {error.strerror}"
            ) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        return target

    async def _receive(self, owner: str, file: BinaryIO, chunks: AsyncIterator[bytes]) -> str:
        digest = hashlib.sha256()
        size = 0
        buffer = bytearray()

        def flush() -> None:
            self._check_room(len(buffer))
            digest.update(buffer)
            file.write(buffer)
            buffer.clear()
            if self._sync_often:
                sync()

        def sync() -> None:
            file.flush()
            os.fsync(file.fileno())

        def finish() -> None:
            flush()
            if not self._sync_often:
                sync()

        async for chunk in chunks:
            size += len(chunk)
            if size > self._max_bytes:
                raise BackendError(
                    ErrorCode.FILE_TOO_LARGE, f"a file may have at most {self._max_bytes} bytes"
                )
            buffer += chunk
            if len(buffer) >= _BUFFER:
                await self._write(owner, flush)

        await self._write(owner, finish)
        return digest.hexdigest()

    async def _write(self, owner: str, write: Callable[[], None]) -> None:
        """One thread for each owner: uploads of one must not take those that others need."""
        async with self._locks.hold(owner):
            await asyncio.to_thread(write)

    def _check_room(self, size: int) -> None:
        if self._keep_free and shutil.disk_usage(self._root).free < self._keep_free + size:
            raise BackendError(
                ErrorCode.UNAVAILABLE,
                "the disk of the server is almost full (keep_free_bytes)",
                retry_after=60,
            )

    def has(self, owner: str, sha256: str) -> bool:
        """Whether the owner stored this file; asking keeps it from the next sweep."""
        try:
            os.utime(self._path(owner, sha256))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def used(self, owner: str) -> int:
        """Bytes that the owner's files take."""
        folder = self._path(owner, "0" * 64).parents[1]
        return sum(path.stat().st_size for path in folder.glob("*/*"))

    def path(self, owner: str, sha256: str) -> Path:
        """Where the file lies. Read it, never write to it.

        Raises:
            BackendError: ``unknown_file``.
        """
        path = self._path(owner, sha256)
        if not path.is_file():
            raise BackendError(ErrorCode.UNKNOWN_FILE, f"unknown file {sha256}")
        return path

    def sweep(self, *, older_than: float, keep: Collection[str] = ()) -> int:
        """Delete files that were neither stored nor requested since ``older_than`` seconds ago.

        Args:
            older_than: Age in seconds.
            keep: Hashes that jobs still need.

        Returns:
            How many were deleted.
        """
        deleted = self.purge(older_than=older_than, keep=keep)
        limit = time.time() - older_than
        for path in (self._root / _INCOMING).glob("*.part"):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < limit:
                    path.unlink()
        return len(deleted)

    def purge(
        self,
        *,
        older_than: float,
        keep: Collection[str] = (),
        owner: str | None = None,
        dry_run: bool = False,
    ) -> list[int]:
        """Delete the files that ``sweep`` deletes, of one owner or of all.

        Returns:
            Their sizes.
        """
        limit = time.time() - older_than
        folder = "*" if owner is None else self._path(owner, "0" * 64).parents[1].name
        sizes: list[int] = []
        for path in self._root.glob(f"{folder}/*/*"):
            if not _SHA256.fullmatch(path.name) or path.name in keep:
                continue
            with suppress(FileNotFoundError):
                found = path.stat()
                if found.st_mtime <= limit:
                    if not dry_run:
                        path.unlink()
                    sizes.append(found.st_size)
        return sizes

    def _path(self, owner: str, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise BackendError(ErrorCode.UNKNOWN_FILE, "not a SHA-256 in lower-case hex")
        folder = hashlib.sha256(owner.encode()).hexdigest()[:32]
        return self._root / folder / sha256[:2] / sha256


async def file_chunks(path: Path) -> AsyncGenerator[bytes]:
    """The content of a file, a mebibyte at a time."""
    file = await opened(partial(path.open, "rb"))
    try:
        while chunk := await asyncio.to_thread(file.read, _BUFFER):
            yield chunk
    finally:
        file.close()


def _open_new(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")


def _move(temporary: Path, target: Path) -> None:
    new = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.replace(target)
    sync_folder(target.parent)
    for folder in new:
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def output_bytes(outputs: Mapping[str, JsonValue] | None) -> int:
    """Sizes of the files among the outputs in a job's record."""
    total = 0
    for value in (outputs or {}).values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict) and "sha256" in item and isinstance(item.get("size"), int):
                total += cast("int", item["size"])
    return total


def find_output(request: JobRequest, record: JobRecord, name: str) -> OutputFile:
    """The output file called ``name``; only one in the job's record, so a name is never a path.

    Raises:
        BackendError: ``unknown_output``.
    """
    for file in output_files(request.outputs, record.outputs or {}):
        if file.name == name:
            return file
    raise BackendError(ErrorCode.UNKNOWN_OUTPUT, f"unknown output {name!r}")
