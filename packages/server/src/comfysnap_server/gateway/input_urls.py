"""Downloads the input files that a submit names by URL, before its job is accepted."""

import asyncio
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Final

from comfysnap_schema.wire import ErrorCode, FieldProblem
from comfysnap_server.backends.protocol import NO_BUDGET, Backend, OwnerBudget
from comfysnap_server.errors import BackendError
from comfysnap_server.gateway.capacity import Places
from comfysnap_server.gateway.problems import ProblemError
from comfysnap_server.jobs import FetchError, FetchPolicy, fetch_file, file_chunks, in_thread

TIMEOUT_S: Final = 30.0
"""For all downloads of one submit, which its caller waits for."""
MAX_DOWNLOADS: Final = 32
"""At once; each has a thread."""
_KEEP_FREE_BYTES: Final = 256 * 1024 * 1024
"""Of the disk with temporary files."""
_PREFIX: Final = "comfysnap-input-"
_ABANDONED_S: Final = 600.0
"""A folder this old is of no download of any server."""
_PATIENCE_S: Final = 1.0
"""For a download to end by itself at its deadline, and say why."""


class InputDownloads:
    """Downloads into the file store of a backend.

    Every download has a thread of its own; see ``in_thread``.

    Args:
        backend: Where the files are stored.
        places: How many downloads at once.
        policy: What may be downloaded.
    """

    def __init__(self, backend: Backend, places: Places, policy: FetchPolicy) -> None:
        self._backend = backend
        self._places = places
        self._policy = policy
        _delete_old_folders()

    async def store(
        self, owner: str, urls: Mapping[str, str], budget: OwnerBudget = NO_BUDGET
    ) -> dict[str, str]:
        """Download all ``urls`` at the same time.

        Args:
            owner: Whose files they become.
            urls: By API field.
            budget: Of the key that submits.

        Returns:
            The SHA-256 of each file, by API field.

        Raises:
            ProblemError: ``input_unavailable`` (422) names the field; ``rate_limited``.
            BackendError: The backend cannot store a file.
        """
        if not urls:
            return {}
        tasks = {
            field: asyncio.create_task(self._store(owner, field, url, budget))
            for field, url in urls.items()
        }
        try:
            await asyncio.gather(*tasks.values())
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        return {field: task.result() for field, task in tasks.items()}

    async def _store(self, owner: str, field: str, url: str, budget: OwnerBudget) -> str:
        stopped = threading.Event()
        with ExitStack() as stack:
            stack.enter_context(self._places.take(owner))
            stack.callback(stopped.set)
            folder = _new_folder()
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stop = partial(_must_stop, stopped, folder)
            download = in_thread(
                "input-download",
                partial(fetch_file, url, folder / "file", self._policy, stop=stop),
            )
            # Place and folder are the thread's: it may outlive the request.
            held = stack.pop_all()
        try:
            await asyncio.wait({download}, timeout=self._policy.timeout + _PATIENCE_S)
            digest = _result(download, field)
            async with aclosing(file_chunks(folder / "file")) as chunks:
                await self._backend.put_file(owner, digest, chunks, budget)
            return digest
        finally:
            stopped.set()
            download.add_done_callback(partial(_release, held))


def _release(held: ExitStack, download: "asyncio.Future[str]") -> None:
    if not download.cancelled():
        download.exception()  # or asyncio logs it as never retrieved
    held.close()


def _delete_old_folders() -> None:
    """Delete what a server left that was killed while it downloaded."""
    limit = time.time() - _ABANDONED_S
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder.stat().st_mtime < limit:
                shutil.rmtree(folder)


def _new_folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=_PREFIX))
    except OSError as error:
        detail = f"the file cannot be stored: {error.strerror}"
        raise BackendError(ErrorCode.UNAVAILABLE, detail, retry_after=60) from error


def is_full(folder: Path) -> bool:
    """Whether strangers' files may take no more of the disk with this folder."""
    return shutil.disk_usage(folder).free < _KEEP_FREE_BYTES


def _must_stop(stopped: threading.Event, folder: Path) -> bool:
    return stopped.is_set() or is_full(folder)


def _result(download: "asyncio.Future[str]", field: str) -> str:
    if not download.done():
        raise _unavailable(field, "the host name could not be resolved in time")
    try:
        return download.result()
    except FetchError as error:
        raise _unavailable(field, str(error)) from error


def _unavailable(field: str, message: str) -> ProblemError:
    return ProblemError(
        ErrorCode.INPUT_UNAVAILABLE,
        f"{field}: {message}",
        fields=(FieldProblem(field=field, message=message),),
    )
