"""The files volume: where files lie on it, and the gateway's side, with its copies on disk."""

import asyncio
import shutil
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from comfysnap_server.backends.modal.platform import SharedFolder
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs import FileStore, file_chunks

INPUTS: Final = "inputs"
OUTPUTS: Final = "outputs"

_DIGITS: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_SHARD: Final = 5
"""Leading digits of a job's id that name its folder of outputs: nine hours make one, so that no
folder has too many entries and the sweep reads only old ones."""
_ASKED_AT_ONCE: Final = 50


def output_folder(job_id: str) -> str:
    """Path of a job's outputs on the volume."""
    return f"{OUTPUTS}/{job_id.removeprefix('job_')[:_SHARD]}/{job_id}"


def accepted_at(job_id: str) -> float | None:
    """Unix time in a job's id, or the earliest of an id's first digits; None: not an id."""
    digits = job_id.removeprefix("job_")[:10].ljust(10, "0")
    try:
        number = sum(_DIGITS.index(digit) << 5 * (9 - n) for n, digit in enumerate(digits))
    except ValueError:
        return None
    return number / 1000


class GroupCall:
    """One call answers all who asked for it before it began, when nobody uses the volume."""

    def __init__(self, gate: "ReloadGate", call: Callable[[], Awaitable[None]]) -> None:
        self._gate = gate
        self._call = call
        self._next: asyncio.Task[None] | None = None

    async def __call__(self) -> None:
        """Wait for a call that begins after this; its exception is raised for all."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._run())
            self._next.add_done_callback(_take_exception)
        await asyncio.shield(self._next)

    async def _run(self) -> None:
        async with self._gate.alone():
            self._next = None  # who asks from now on may have written what this call misses
            await self._call()


def _take_exception(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # nobody may be left to see it


class ReloadGate:
    """Lets many use the volume at once, and reloads it only when it is idle: Modal refuses to
    reload a volume with open files (``modal.Volume.reload``)."""

    def __init__(self) -> None:
        self._users = 0
        self._free = asyncio.Event()
        self._free.set()
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def use(self) -> AsyncGenerator[None]:
        """Open files of the volume only inside."""
        async with self._turn:
            self._users += 1
            self._free.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._free.set()

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[None]:
        """Nobody else is inside."""
        async with self._turn:
            await self._free.wait()
            yield


class GatewayFiles:
    """Takes input files in and hands output files out.

    Args:
        folder: The mounted volume.
        local: Folder on the container's own disk, for uploads on their way in and for outputs that
            were asked for: a file that is being sent must not lie on the volume, as it would hold
            up reloads.
        cache_bytes: How much of ``local`` outputs may take; the least recently used go first.
    """

    def __init__(self, folder: SharedFolder, local: Path, *, cache_bytes: int = 4 << 30) -> None:
        self._folder = folder
        self._local = local
        self._cache_bytes = cache_bytes
        self._gate = ReloadGate()
        self._reload = GroupCall(self._gate, folder.reload)
        self._commit = GroupCall(self._gate, folder.commit)
        self._arriving = FileStore(local / "arriving")
        self._stored = FileStore(folder.root / INPUTS)
        self._uploads: Counter[tuple[str, str]] = Counter()
        """How often a file is on its way in right now."""
        self._fetching: dict[Path, asyncio.Lock] = {}

    async def has(self, owner: str, sha256: str) -> bool:
        """Whether the owner stored this input file, in whichever container."""
        if not self._stored.has(owner, sha256):
            await self._reload()
        return self._stored.has(owner, sha256)

    async def used(self, owner: str) -> int:
        """Bytes of the input files that the owner stored, in whichever container."""
        await self._reload()
        return await asyncio.to_thread(self._stored.used, owner)

    async def put(self, owner: str, sha256: str, chunks: AsyncIterator[bytes]) -> None:
        """Store an input file; see ``FileStore.put``. It is committed when this returns."""
        upload = (owner, sha256)
        self._uploads[upload] += 1
        try:
            arrived = await self._arriving.put(owner, sha256, chunks)
            async with self._gate.use():
                await self._stored.put(owner, sha256, file_chunks(arrived))
            await self._commit()
        finally:
            self._uploads[upload] -= 1
            if not self._uploads[upload]:  # or it would be taken from under another upload
                del self._uploads[upload]
                with suppress(BackendError):
                    self._arriving.path(owner, sha256).unlink()

    async def output(self, job_id: str, name: str) -> Path | None:
        """An output on the container's own disk; None: it is gone from the volume."""
        target = self._local / OUTPUTS / job_id / name
        lock = self._fetching.setdefault(target, asyncio.Lock())
        try:
            async with lock:
                if target.is_file():
                    target.touch()
                    return target
                return await self._fetch(job_id, name, target)
        finally:
            if not lock.locked():
                self._fetching.pop(target, None)

    async def _fetch(self, job_id: str, name: str, target: Path) -> Path | None:
        root = self._folder.root
        # earlier versions had no folders between
        places = (root / output_folder(job_id) / name, root / OUTPUTS / job_id / name)
        source = await asyncio.to_thread(_first_file, places)
        if source is None:
            await self._reload()
            source = await asyncio.to_thread(_first_file, places)
        try:
            async with self._gate.use():
                await asyncio.to_thread(_copy, source or places[0], target)
        except FileNotFoundError:
            return None
        await asyncio.to_thread(self._make_room, target)
        return target

    def _make_room(self, newest: Path) -> None:
        files = [(path.stat(), path) for path in (self._local / OUTPUTS).glob("*/*")]
        total = sum(stat.st_size for stat, _ in files)
        for stat, path in sorted(files, key=lambda entry: entry[0].st_mtime):
            if total <= self._cache_bytes:
                return
            if path != newest:
                path.unlink(missing_ok=True)
                total -= stat.st_size

    async def delete_outputs(self, job_ids: Collection[str]) -> None:
        """Delete the outputs of jobs, and the copies on this container's disk."""
        root = self._folder.root
        async with self._gate.alone():
            await self._folder.reload()
            folders = [root / output_folder(job_id) for job_id in job_ids]
            folders += [root / OUTPUTS / job_id for job_id in job_ids]
            await asyncio.to_thread(_remove, folders, root / OUTPUTS)
            await self._folder.commit()
        copies = [self._local / OUTPUTS / job_id for job_id in job_ids]
        await asyncio.to_thread(_remove, copies, self._local / OUTPUTS)

    async def purge(
        self, *, older_than: float, keep: Collection[str], owner: str | None, dry_run: bool
    ) -> list[int]:
        """Delete input files of one owner or of all; see ``FileStore.purge``."""
        async with self._gate.alone():
            await self._folder.reload()
            sizes = await asyncio.to_thread(
                self._stored.purge, older_than=older_than, keep=keep, owner=owner, dry_run=dry_run
            )
            if sizes and not dry_run:
                await self._folder.commit()
        return sizes

    async def sweep(
        self,
        *,
        older_than: float,
        is_due: Callable[[str], Awaitable[bool]],
        now: datetime,
        keep: Collection[str] = (),
    ) -> int:
        """Delete files of the volume.

        Args:
            older_than: Seconds that input files are kept, and outputs at least, by the time in the
                id of their job.
            is_due: Whether the outputs of a job that old may go.
            now: The clock of the jobs.
            keep: Hashes of input files that stay.

        Returns:
            How many jobs' outputs and input files were deleted.
        """
        async with self._gate.alone():
            await self._folder.reload()
            deleted = await asyncio.to_thread(self._stored.sweep, older_than=older_than, keep=keep)
            outputs = self._folder.root / OUTPUTS
            old = await asyncio.to_thread(_old_folders, outputs, now.timestamp() - older_than)
            for start in range(0, len(old), _ASKED_AT_ONCE):
                part = old[start : start + _ASKED_AT_ONCE]
                due = await asyncio.gather(*(is_due(folder.name) for folder in part))
                chosen = [folder for folder, go in zip(part, due, strict=True) if go]
                await asyncio.to_thread(_remove, chosen, outputs)
                deleted += len(chosen)
            await self._folder.commit()
        return deleted


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.copyfile(source, partial)
    partial.replace(target)


def _first_file(places: Sequence[Path]) -> Path | None:
    return next((place for place in places if place.is_file()), None)


def _old_folders(root: Path, limit: float) -> list[Path]:
    """Outputs of jobs that were accepted before ``limit``, in either layout."""
    old = [path for path in root.iterdir() if _is_older(path, limit)] if root.is_dir() else []
    jobs = [path for path in old if path.name.startswith("job_")]
    for shard in (path for path in old if not path.name.startswith("job_")):
        jobs += [path for path in shard.iterdir() if _is_older(path, limit)]
    return jobs


def _is_older(path: Path, limit: float) -> bool:
    accepted = accepted_at(path.name)
    return accepted is not None and accepted < limit and path.is_dir()


def _remove(folders: Iterable[Path], root: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.parent != root:
            with suppress(OSError):  # others are left in it
                folder.parent.rmdir()
