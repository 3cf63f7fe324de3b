"""Whether the disk takes what the next jobs will write."""

import asyncio
import os
import shutil
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from comfysnap_schema.wire import ErrorCode
from comfysnap_server.backends.local.writer import Writer
from comfysnap_server.errors import BackendError

_FILE_BYTES: Final = 16 * 1024 * 1024
"""A large picture: it must fit on the disk, and below the limit for the size of a file."""
_KEEP_S: Final = 2.0
"""How long an answer is given again, since anybody may ask."""


class DiskCheck:
    """Writes to the data folder and to the job store.

    Args:
        data: The data folder.
        writer: Of the job store.
        keep_free: Bytes of the disk that uploads leave to others.
    """

    def __init__(self, data: Path, writer: Writer, *, keep_free: int) -> None:
        self._data = data
        self._writer = writer
        self._keep_free = keep_free
        self._problem: str | None = None
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def problem(self) -> str | None:
        """Why jobs could not be stored or written now; None when they can. May be 2 s old."""
        async with self._lock:
            if time.monotonic() >= self._until:
                self._problem = await self._check()
                self._until = time.monotonic() + _KEEP_S
            return self._problem

    @property
    def free(self) -> int:
        """Free bytes of the disk."""
        return shutil.disk_usage(self._data).free

    def check_room(self) -> None:
        """Refuse a job whose outputs might not fit.

        Raises:
            BackendError: ``unavailable``.
        """
        if self.free < self._keep_free:
            raise BackendError(
                ErrorCode.UNAVAILABLE,
                "the disk of the server is almost full (keep_free_bytes)",
                retry_after=60,
            )

    def takes_outputs(self) -> bool:
        """Whether the next job can write a file; below ``keep_free`` jobs that wait still run."""
        return self.free >= min(self._keep_free, _FILE_BYTES)

    async def _check(self) -> str | None:
        try:
            await asyncio.to_thread(self._write_file)
            await self._writer.run(_write_store)
        except OSError as error:
            return f"files cannot be written to {self._data}: {error.strerror}"
        except BackendError as error:
            return str(error)
        return None

    def _write_file(self) -> None:
        free = self.free
        if free < self._keep_free:
            raise OSError(0, f"only {free >> 20} MiB are free")
        path = self._data / "ready.part"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, _FILE_BYTES)
            else:
                os.write(descriptor, bytes(_FILE_BYTES))
        finally:
            os.close(descriptor)
            with suppress(OSError):
                path.unlink()


def _write_store(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute(f"PRAGMA user_version = {version}")
