"""Deletes jobs and uploads of a data folder that no server uses."""

import asyncio
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from comfysnap_server.backends.local import store
from comfysnap_server.backends.local.folders import JobFolders
from comfysnap_server.backends.local.lock import FolderLock
from comfysnap_server.backends.local.migrations import DataFolderError, open_database
from comfysnap_server.jobs import FileStore, OutputStore

_BATCH: Final = 200


@dataclass(frozen=True, kw_only=True)
class Purgeable:
    """What a purge deletes."""

    jobs: int
    job_bytes: int
    """Requests, inputs and outputs."""
    files: int
    file_bytes: int


class Purge:
    """Ended jobs and unused uploads of one data folder.

    Args:
        connection: Of the job store.
        data: The folder.
        owner: Whose; None: of all owners.
        older_than: Seconds since a job ended, or since a file was last used.
        jobs: Whether to delete jobs, with their outputs.
        files: Whether to delete uploads that no unfinished job reads.
        outputs: Object store of the output files; None: they are in the folder alone.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        data: Path,
        *,
        owner: str | None,
        older_than: float,
        jobs: bool,
        files: bool,
        outputs: OutputStore | None,
    ) -> None:
        self._connection = connection
        self._folders = JobFolders(data.resolve())
        self._files = FileStore(self._folders.files)
        self._owner = owner
        self._older_than = older_than
        self._before = time.time() - older_than
        self._jobs = jobs
        self._with_files = files
        self._outputs = outputs

    def found(self) -> Purgeable:
        """What there is to delete."""
        jobs, size = (0, 0)
        if self._jobs:
            jobs, size = store.count_ended(self._connection, self._owner, self._before)
        sizes = [path.stat().st_size for path in self._unused()]
        return Purgeable(jobs=jobs, job_bytes=size, files=len(sizes), file_bytes=sum(sizes))

    def run(self) -> None:
        """Delete it; what was left half done is found again.

        Raises:
            OutputStoreError: Files in the object store cannot be deleted; their jobs stay.
        """
        while self._jobs and (
            job_ids := store.ended(self._connection, self._owner, self._before, _BATCH)
        ):
            if self._outputs is not None:
                asyncio.run(self._outputs.delete(job_ids))
            for job_id in job_ids:
                self._folders.delete(job_id)
            store.delete(self._connection, job_ids)
        for path in self._unused():
            path.unlink(missing_ok=True)
        while self._shrink():
            pass

    def _shrink(self) -> bool:
        self._connection.execute("BEGIN IMMEDIATE")
        more = store.shrink(self._connection)
        self._connection.execute("COMMIT")
        return more

    def _unused(self) -> list[Path]:
        if not self._with_files:
            return []
        needed = store.needed_files(self._connection)
        return self._files.older(older_than=self._older_than, keep=needed, owner=self._owner)


@contextmanager
def open_purge(
    data: Path,
    *,
    owner: str | None,
    older_than: float,
    jobs: bool,
    files: bool,
    outputs: OutputStore | None = None,
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
            yield Purge(
                connection, data, owner=owner, older_than=older_than, jobs=jobs, files=files,
                outputs=outputs,
            )  # fmt: skip
    finally:
        lock.release()
