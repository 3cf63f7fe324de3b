"""One server to a data folder, and none before the last worker of an earlier one is dead."""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from comfysnap_server.backends.local.migrations import DataFolderError

_POLL_S: Final = 0.01


class FolderLock:
    """Two locks on a data folder. ``server.lock`` is this process's own. ``workers.lock`` is
    inherited by the worker processes, so it is free only when all of them are dead: a job that an
    earlier server started cannot still run when this one takes over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: int | None = None
        self._itself: int | None = None
        """The folder: locked too, since a file in it can be deleted under a server."""
        self.workers: int | None = None
        """Descriptor to hand to worker processes."""

    def acquire(self, *, patience: float) -> None:
        """Take both locks.

        Args:
            patience: Seconds to wait for the workers of a dead server to be gone.

        Raises:
            DataFolderError: Another server uses the folder, or it is not writable.
        """
        self._server = self._open("server.lock")
        if not _try(self._server):
            holder = os.pread(self._server, 32, 0).decode("ascii", "replace").strip()
            self.release()
            raise DataFolderError(
                f"{self._folder} is in use by another server (process {holder or 'unknown'})"
            )
        self._itself = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        if not _try(self._itself):
            self.release()
            raise DataFolderError(f"{self._folder} is in use by another server")
        os.truncate(self._server, 0)
        os.pwrite(self._server, str(os.getpid()).encode(), 0)
        self.workers = self._open("workers.lock")
        if not _try_for(self.workers, patience):
            self.release()
            raise DataFolderError(
                f"a worker of an earlier server still runs in {self._folder}; end it first"
            )

    def release_after_workers(self, *, patience: float) -> bool:
        """Let go of both once the worker processes are dead; false if they outlive ``patience``."""
        if self.workers is not None:
            os.close(self.workers)
        self.workers = self._open("workers.lock")
        dead = _try_for(self.workers, patience)
        self.release()
        return dead

    def release(self) -> None:
        """Let go of both."""
        for descriptor in (self.workers, self._server, self._itself):
            if descriptor is not None:
                with suppress(OSError):
                    os.close(descriptor)
        self._server = self.workers = self._itself = None

    def _open(self, name: str) -> int:
        path = self._folder / name
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self.release()
            raise DataFolderError(f"{path}: {error.strerror}") from error


def _try_for(descriptor: int, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while not _try(descriptor):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _try(descriptor: int) -> bool:
    import fcntl  # absent on Windows, where deployments are made too

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
