"""The folder of models that jobs named by URL: bounded, shared by processes, laid out so that
ComfyUI finds them."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypedDict, cast

from comfysnap_server.jobs import REMOTE_FOLDER
from comfysnap_server.models.download import PartialFile
from comfysnap_server.models.remote_settings import CACHED_MODELS
from comfysnap_server.models.sources import ModelError

_SUFFIX: Final = ".safetensors"
_KEEP_FREE_BYTES: Final = 256 * 1024 * 1024
"""Of the disk, which downloads leave to others."""
_LOOK_S: Final = 0.1
"""Between looks at a lock that another holds."""


@dataclass(frozen=True)
class CachedModel:
    """A file of the cache, by what it is."""

    folder: str
    """Of ``models/``."""
    sha256: str

    @property
    def key(self) -> str:
        """Its name in the notes of the cache."""
        return f"{self.folder}~{self.sha256}"


class Origin(TypedDict):
    """What is known of an address."""

    sha256: str
    validator: str | None
    """ETag or date of the version; None: the server tells none."""
    checked: float
    """When the server last confirmed it."""


class ModelCache:
    """Files by hash, what addresses they came from, when they were used and by whom.

    Several processes may use the folder at once. Every file appears whole, by a rename. What a
    job uses is leased by it, and stays.

    Args:
        root: The folder; nothing is written elsewhere, but for ``locks``.
        max_bytes: Bound of the files, partial downloads included.
        locks: Folder of the locks where ``root`` has none, such as a Modal volume.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        root: Path,
        max_bytes: int,
        *,
        locks: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self._locks = locks or root / "locks"
        self._clock = clock
        self._reserved: dict[str, int] = {}
        """Key of a download in this process to its bytes, those to come included."""
        self._reserving = Lock()
        for name in ("parts", "origins", "used", "leases", CACHED_MODELS):
            (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._locks.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, model: CachedModel) -> Path:
        """Where the file is, or would be."""
        return path_in(self.root, model.folder, model.sha256)

    def part(self, key: str) -> PartialFile:
        """The partial download of an address."""
        return PartialFile(self.root / "parts" / f"{key}.part")

    def lease(self, model: CachedModel, holder: str, seconds: float) -> bool:
        """Keep a file for a job; returns False if it is not there.

        Args:
            model: The file.
            holder: The job.
            seconds: After which the lease ends by itself.
        """
        with self._locked("room"):
            found = self.path(model).is_file()
            if found:
                self._note_use(model, holder, seconds)
        return found

    def _note_use(self, model: CachedModel, holder: str, seconds: float) -> None:
        now = self._clock()
        _write(self.root / "leases" / f"{model.key}~{holder}", repr(now + seconds))
        _write(self.root / "used" / model.key, repr(now))

    def release(self, holder: str) -> None:
        """End the leases of a job."""
        for lease in (self.root / "leases").glob(f"*~{holder}"):
            lease.unlink(missing_ok=True)

    def release_all(self) -> None:
        """End all leases, of jobs that no longer run."""
        for lease in (self.root / "leases").iterdir():
            lease.unlink(missing_ok=True)

    def origin(self, key: str) -> Origin | None:
        """What is known of an address."""
        try:
            data: Any = json.loads((self.root / "origins" / f"{key}.json").read_text())
        except (OSError, ValueError):
            return None
        return cast("Origin", data) if isinstance(data, dict) and "sha256" in data else None

    def confirm(self, key: str, sha256: str, validator: str | None) -> None:
        """Remember that an address has this content now."""
        note = Origin(sha256=sha256, validator=validator, checked=self._clock())
        _write(self.root / "origins" / f"{key}.json", json.dumps(note))

    def age(self, origin: Origin) -> float:
        """Seconds since the server last confirmed it."""
        return self._clock() - origin["checked"]

    @contextmanager
    def downloading(self, key: str, stop: Callable[[], bool]) -> Generator[None]:
        """Hold an address, so that it is downloaded once at a time.

        Raises:
            InterruptedError: ``stop`` returned true while another held it.
        """
        with self._locked(key, stop):
            try:
                yield
            finally:
                with self._reserving:
                    self._reserved.pop(key, None)

    def reserve(self, key: str, size: int) -> None:
        """Make room for a download, whose address is held, by deleting what was not used longest.

        Raises:
            ModelError: ``cache_full`` or ``disk_full``.
        """
        part = self.part(key).size()
        free = shutil.disk_usage(self.root).free - _KEEP_FREE_BYTES
        if size - part > free:
            raise ModelError(
                "disk_full", f"{size - part} bytes are needed, {max(0, free)} are free"
            )
        with self._locked("room"):
            with self._reserving:
                self._reserved[key] = size
                reserved = dict(self._reserved)
            used = sum(path.stat().st_size for path in self._files())
            parts = {part.stem: part.stat().st_size for part in self._parts()}
            for name, more in reserved.items():
                parts[name] = max(parts.get(name, 0), more)
            over = used + sum(parts.values()) - self.max_bytes
            if over > 0:
                over -= self._delete_parts(over, keep=reserved)
            if over > 0:
                over -= self._delete_files(over)
            if over > 0:
                with self._reserving:
                    self._reserved.pop(key, None)
                raise ModelError(
                    "cache_full",
                    f"models of running jobs and downloads leave no room for {size} bytes in the"
                    f" {self.max_bytes} bytes of the cache",
                )

    def place(self, key: str, model: CachedModel, holder: str, seconds: float) -> None:
        """Move a finished download to its place, leased by a job."""
        part, target = self.part(key), self.path(model)
        with part.path.open("rb") as file:
            os.fsync(file.fileno())
        with self._locked("room"):
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.path.replace(target)
            target.chmod(0o444)
            self._note_use(model, holder, seconds)
        part.delete()

    def _files(self) -> Iterator[Path]:
        yield from (self.root / CACHED_MODELS).glob(f"*/{REMOTE_FOLDER}/*{_SUFFIX}")

    def _parts(self) -> Iterator[Path]:
        yield from (self.root / "parts").glob("*.part")

    def _delete_parts(self, wanted: int, keep: dict[str, int]) -> int:
        """Delete partial downloads that nobody holds, the oldest first; returns the bytes."""
        freed = 0
        for part in sorted(self._parts(), key=lambda path: path.stat().st_mtime):
            if freed >= wanted:
                break
            if part.stem not in keep:
                with suppress(BlockingIOError), self._locked(part.stem, patient=False):
                    freed += part.stat().st_size
                    self.part(part.stem).delete()
        return freed

    def _delete_files(self, wanted: int) -> int:
        """Delete files that no job uses, the least recently used first; returns the bytes."""
        leased = self._leased()
        freed = 0
        for path in sorted(self._files(), key=self._last_use):
            if freed >= wanted:
                break
            model = CachedModel(path.parent.parent.name, path.stem)
            if model.key not in leased:
                freed += path.stat().st_size
                path.unlink()
                (self.root / "used" / model.key).unlink(missing_ok=True)
                self._forget_origins(model.sha256)
        return freed

    def _leased(self) -> set[str]:
        found: set[str] = set()
        for lease in (self.root / "leases").iterdir():
            if (_read(lease) or 0.0) > self._clock():
                found.add(lease.name.rpartition("~")[0])
            else:
                lease.unlink(missing_ok=True)
        return found

    def _last_use(self, path: Path) -> float:
        model = CachedModel(path.parent.parent.name, path.stem)
        used = _read(self.root / "used" / model.key)
        return path.stat().st_mtime if used is None else used

    def _forget_origins(self, sha256: str) -> None:
        for note in (self.root / "origins").glob("*.json"):
            origin = self.origin(note.stem)
            if origin is None or origin["sha256"] == sha256:
                note.unlink(missing_ok=True)

    @contextmanager
    def _locked(
        self, name: str, stop: Callable[[], bool] = lambda: False, *, patient: bool = True
    ) -> Generator[None]:
        import fcntl  # absent on Windows, where deployments are made too

        path = self._locks / f"{name}.lock"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(descriptor, path):
                    break
                os.close(descriptor)  # its holder deleted it meanwhile
            except BlockingIOError:
                os.close(descriptor)
                if not patient:
                    raise
                if stop():
                    raise InterruptedError(name) from None
                time.sleep(_LOOK_S if name != "room" else _LOOK_S / 10)
        try:
            yield
        finally:
            if name != "room":
                path.unlink(missing_ok=True)
            os.close(descriptor)


def path_in(root: Path, folder: str, sha256: str) -> Path:
    """Where a cache has a file, or would have it."""
    return root / CACHED_MODELS / folder / REMOTE_FOLDER / f"{sha256}{_SUFFIX}"


def address_key(folder: str, url: str) -> str:
    """The key of an address in the notes, which do not hold what it may contain of secrets."""
    return hashlib.sha256(f"{folder}\0{url}".encode()).hexdigest()


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return None
