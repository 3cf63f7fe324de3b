"""Deletes jobs and uploads, in the data folder of a stopped server or while one runs."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Generator, MutableMapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from comfysnap_schema.wire import PurgeReport
from comfysnap_server.backends.local import store
from comfysnap_server.backends.local.folders import JobFolders
from comfysnap_server.backends.local.lock import FolderLock
from comfysnap_server.backends.local.migrations import DataFolderError, open_database
from comfysnap_server.backends.local.reader import Reader
from comfysnap_server.backends.local.uploads import Uploads
from comfysnap_server.backends.local.writer import Writer
from comfysnap_server.backends.protocol import IN_USE_S, PurgeRequest
from comfysnap_server.jobs import FileStore, OutputStore

_BATCH: Final = 200
_BATCHES: Final = 5
"""While a server runs: then the caller asks again."""


class Purge:
    """Ended jobs and unused uploads of a data folder that no server uses.

    Args:
        connection: Of the job store.
        data: The folder.
        wanted: What to delete.
        outputs: Object store of the output files; None: they are in the folder alone.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        data: Path,
        wanted: PurgeRequest,
        outputs: OutputStore | None,
    ) -> None:
        self._connection = connection
        self._folders = JobFolders(data.resolve())
        self._files = FileStore(self._folders.files)
        self._wanted = wanted
        self._before = time.time() - wanted.older_than
        self._outputs = outputs

    def found(self) -> PurgeReport:
        """What there is to delete."""
        jobs, size = (0, 0)
        if self._wanted.jobs:
            jobs, size = store.count_ended(self._connection, self._wanted.owner, self._before)
        sizes = self._purge_files(dry_run=True)
        return PurgeReport(jobs=jobs, job_bytes=size, files=len(sizes), file_bytes=sum(sizes))

    def run(self) -> PurgeReport:
        """Delete it, and return what it was; what was left half done is found again.

        Raises:
            OutputStoreError: Files in the object store cannot be deleted; their jobs stay.
        """
        found = self.found()
        while self._wanted.jobs and (
            jobs := store.ended(self._connection, self._wanted.owner, self._before, _BATCH)
        ):
            if self._outputs is not None:
                asyncio.run(self._outputs.delete([*jobs]))
            for job_id in jobs:
                self._folders.delete(job_id)
            self._write(lambda connection, ids=jobs: store.delete(connection, ids))
        self._purge_files()
        while self._write(store.shrink):
            pass
        return found

    def _write(self, operation: Callable[[sqlite3.Connection], Any]) -> Any:
        self._connection.execute("BEGIN IMMEDIATE")
        result = operation(self._connection)
        self._connection.execute("COMMIT")
        return result

    def _purge_files(self, *, dry_run: bool = False) -> list[int]:
        if not self._wanted.files:
            return []
        return self._files.purge(
            older_than=self._wanted.older_than,
            keep=store.needed_files(self._connection),
            owner=self._wanted.owner,
            dry_run=dry_run,
        )


@contextmanager
def open_purge(
    data: Path, wanted: PurgeRequest, *, outputs: OutputStore | None = None
) -> Generator[Purge]:
    """A purge, while no server can start in the folder; see ``Purge``.

    Raises:
        DataFolderError: The folder is in use, or not one of a server.
    """
    path = data / store.DATABASE
    if not path.is_file():
        raise DataFolderError(f"{path}: not found")
    lock = FolderLock(data)
    lock.acquire(patience=0)
    try:
        with closing(open_database(path)) as connection:
            yield Purge(connection, data, wanted, outputs)
    finally:
        lock.release()


class LivePurge:
    """The same while the server runs, through its writer and beside its other readers.

    Args:
        writer: Of the job store.
        reader: Of the job store.
        folders: Of the data folder.
        uploads: Of all owners.
        outputs: Object store of the output files; None: the folder.
        active: Jobs that may be about to end, which are left for the next purge.
        remembered: Ended jobs that are kept in memory, by id.
    """

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        folders: JobFolders,
        uploads: Uploads,
        outputs: OutputStore | None,
        *,
        active: Collection[str],
        remembered: MutableMapping[str, Any],
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._folders = folders
        self._uploads = uploads
        self._outputs = outputs
        self._active = active
        self._remembered = remembered

    async def run(self, wanted: PurgeRequest) -> PurgeReport:
        """See ``Backend.purge``.

        Raises:
            OutputStoreError: Files in the object store cannot be deleted; their jobs stay.
        """
        jobs, size, complete = 0, 0, True
        before = time.time() - wanted.older_than
        if wanted.jobs and wanted.dry_run:
            jobs, size = await self._reader.run(
                lambda c: store.count_ended(c, wanted.owner, before)
            )
        elif wanted.jobs:
            deleted, complete = await self._delete_jobs(wanted.owner, before)
            jobs, size = len(deleted), sum(deleted.values())
        sizes: list[int] = []
        if wanted.files and complete:
            sizes = await self._uploads.purge(
                older_than=max(wanted.older_than, IN_USE_S),
                keep=await self._reader.run(store.needed_files),
                owner=wanted.owner,
                dry_run=wanted.dry_run,
            )
        return PurgeReport(
            jobs=jobs, job_bytes=size, files=len(sizes), file_bytes=sum(sizes), complete=complete
        )

    async def _delete_jobs(self, owner: str | None, before: float) -> tuple[dict[str, int], bool]:
        deleted: dict[str, int] = {}
        for _ in range(_BATCHES):
            found: dict[str, int] = await self._reader.run(
                lambda c: store.ended(c, owner, before, _BATCH)
            )
            jobs = {job_id: size for job_id, size in found.items() if job_id not in self._active}
            if not jobs:
                break
            if self._outputs is not None:
                await self._outputs.delete([*jobs])
            await asyncio.to_thread(self._delete_files, jobs)
            await self._writer.run(lambda c, ids=jobs: store.delete(c, ids))
            for job_id in jobs:
                self._remembered.pop(job_id, None)
            deleted |= jobs
        else:
            return deleted, False
        while await self._writer.run(store.shrink, durable=False):
            pass
        return deleted, True

    def _delete_files(self, job_ids: Collection[str]) -> None:
        for job_id in job_ids:
            self._folders.delete(job_id)
