"""The gateway's side of the files volume, and what it keeps of it on its own disk."""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from comfysnap_server.backends.modal.platform import SharedFolder
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs import FileStore

INPUTS: Final = "inputs"
OUTPUTS: Final = "outputs"

_CHUNK: Final = 1024 * 1024


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
        self._arriving = FileStore(local / "arriving")
        self._stored = FileStore(folder.root / INPUTS)
        self._uploads: Counter[tuple[str, str]] = Counter()
        """How often a file is on its way in right now."""
        self._fetching: dict[Path, asyncio.Lock] = {}

    async def has(self, owner: str, sha256: str) -> bool:
        """Whether the owner stored this input file, in whichever container."""
        return self._stored.has(owner, sha256) or await self._has_after_reload(owner, sha256)

    async def _has_after_reload(self, owner: str, sha256: str) -> bool:
        async with self._gate.alone():
            await self._folder.reload()
        return self._stored.has(owner, sha256)

    async def put(self, owner: str, sha256: str, chunks: AsyncIterator[bytes]) -> None:
        """Store an input file; see ``FileStore.put``. It is committed when this returns."""
        upload = (owner, sha256)
        self._uploads[upload] += 1
        try:
            arrived = await self._arriving.put(owner, sha256, chunks)
            async with self._gate.use():
                await self._stored.put(owner, sha256, _chunks(arrived))
            async with self._gate.alone():
                await self._folder.commit()
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
                return await self._fetch(self._folder.root / OUTPUTS / job_id / name, target)
        finally:
            if not lock.locked():
                self._fetching.pop(target, None)

    async def _fetch(self, source: Path, target: Path) -> Path | None:
        if not await asyncio.to_thread(source.is_file):
            async with self._gate.alone():
                await self._folder.reload()
        try:
            async with self._gate.use():
                await asyncio.to_thread(_copy, source, target)
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

    async def sweep(self, *, older_than: float, keep: Collection[str] = ()) -> int:
        """Delete input and output files of the volume from before ``older_than`` seconds ago, but
        no input file whose hash is in ``keep``.

        Returns:
            How many jobs' outputs and input files were deleted.
        """
        async with self._gate.alone():
            await self._folder.reload()
            deleted = await asyncio.to_thread(self._stored.sweep, older_than=older_than, keep=keep)
            deleted += await asyncio.to_thread(
                _remove_old_folders, self._folder.root / OUTPUTS, older_than
            )
            await self._folder.commit()
        return deleted


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.copyfile(source, partial)
    partial.replace(target)


def _remove_old_folders(root: Path, older_than: float) -> int:
    if not root.is_dir():
        return 0
    limit = time.time() - older_than
    old = [folder for folder in root.iterdir() if folder.stat().st_mtime < limit]
    for folder in old:
        shutil.rmtree(folder, ignore_errors=True)
    return len(old)


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk
    finally:
        file.close()
