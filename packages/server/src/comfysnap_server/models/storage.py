"""Where model files are stored: a ``models/`` folder, or the models volume on Modal."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path, PurePosixPath
from shutil import rmtree
from tempfile import gettempdir
from threading import Lock
from typing import Any, Final, Protocol, TypedDict, cast

from comfysnap_server.models.content import content_problem
from comfysnap_server.models.download import PartialFile, sha256_of
from comfysnap_server.models.entry import is_safe_path
from comfysnap_server.models.sources import ModelFile

OWN_FOLDER: Final = ".comfysnap"
"""Holds partial downloads and the record. On the same disk, so that a move is atomic."""


class Record(TypedDict):
    """A file whose content was checked."""

    size: int
    sha256: str
    etag: str | None
    source: str


class ModelStorage(Protocol):
    """A ``models/`` folder or the models volume."""

    def files(self) -> Mapping[PurePosixPath, int]:
        """Path to size in bytes of every model file."""
        ...

    def records(self) -> Mapping[str, Record]:
        """Path to record of the files that a sync checked."""
        ...

    def remove(self, path: PurePosixPath) -> bool:
        """Delete a file; returns False if it does not exist."""
        ...


class FileState(StrEnum):
    """State of a file that should be there."""

    PRESENT = "present"
    MISSING = "missing"
    WRONG = "wrong"


@dataclass(frozen=True)
class ModelsFolder:
    """A ``models/`` folder on this machine's disk."""

    root: Path
    _lock: Lock

    @classmethod
    def at(cls, root: Path) -> "ModelsFolder":
        """Open a folder; creates it if it does not exist."""
        (root / OWN_FOLDER / "parts").mkdir(parents=True, exist_ok=True)
        return cls(root, Lock())

    @contextmanager
    def locked(self) -> Generator[None]:
        """Lock the folder against other syncs on this machine.

        Raises:
            TimeoutError: Another sync is using the folder.
        """
        from filelock import FileLock, Timeout

        # not in the folder itself: a Modal volume has no file locks
        name = sha256(str(self.root.resolve()).encode()).hexdigest()[:32]
        lock = FileLock(Path(gettempdir()) / f"comfysnap-{name}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise TimeoutError(f"another sync is using {self.root}") from error
        try:
            yield
        finally:
            lock.release()

    def records(self) -> dict[str, Record]:
        """Path to record of the files that were checked."""
        try:
            data: Any = json.loads((self.root / OWN_FOLDER / "record.json").read_text())
        except (OSError, ValueError):
            return {}
        return cast("dict[str, Record]", data) if isinstance(data, dict) else {}

    def check(self, file: ModelFile, *, verify: bool = False) -> tuple[FileState, str]:
        """State of a file, and the reason.

        Args:
            file: The expected file.
            verify: Read the whole file again even if it was checked before.
        """
        path = self.root / file.path
        if not path.is_file():
            return FileState.MISSING, "missing"
        size = path.stat().st_size
        if file.size is not None and size != file.size:
            return FileState.WRONG, f"expected {file.size} bytes, got {size}"
        record = self.records().get(str(file.path))
        if record is not None and record["size"] != size:
            record = None
        if record and file.sha256 is None and file.etag and record["etag"] != file.etag:
            return FileState.WRONG, "another version at its source"
        if file.sha256 is None and record is None:
            if problem := content_problem(path, file.path.name):
                return FileState.WRONG, problem
            self.note(file, sha256_of(path))
            return FileState.PRESENT, "existing file, its source has no hash to check it against"
        if record is None or verify:
            digest = sha256_of(path)
            expected = file.sha256 or (record["sha256"] if record else digest)
            if digest != expected:
                return FileState.WRONG, f"expected SHA-256 {expected}, got {digest}"
            self.note(file, digest)
        elif file.sha256 not in {None, record["sha256"]}:
            return FileState.WRONG, "another version at its source"
        return FileState.PRESENT, ""

    def part(self, file: ModelFile) -> PartialFile:
        """Path of the partial download."""
        name = sha256(f"{file.path}\n{file.url}".encode()).hexdigest()[:32]
        return PartialFile(self.root / OWN_FOLDER / "parts" / f"{name}.part")

    def staging(self, file: ModelFile) -> Path:
        """Folder for the Hugging Face library's own partial files."""
        return self.part(file).path.with_suffix("")

    def delete_parts(self) -> bool:
        """Delete all partial downloads; returns whether there were any."""
        parts = list((self.root / OWN_FOLDER / "parts").iterdir())
        for path in parts:
            rmtree(path) if path.is_dir() else path.unlink()
        return bool(parts)

    def place(self, file: ModelFile, part: Path, digest: str) -> None:
        """Move a checked file to its path in the folder."""
        target = self.root / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)
        self.note(file, digest)

    def note(self, file: ModelFile, digest: str) -> None:
        """Record a checked file."""
        size = (self.root / file.path).stat().st_size
        record = Record(size=size, sha256=digest, etag=file.etag, source=file.source)
        self._write(str(file.path), record)

    def remove(self, path: PurePosixPath) -> bool:
        """Delete a file; returns False if it does not exist.

        Raises:
            ValueError: The path is outside the folder.
        """
        if not is_safe_path(str(path)) or path.parts[0] == OWN_FOLDER:
            raise ValueError(f"{path} is not a path inside models/")
        target = self.root / path
        if not target.is_file():
            return False
        target.unlink()
        self._write(str(path), None)
        return True

    def files(self) -> dict[PurePosixPath, int]:
        """Path to size in bytes of every model file."""
        return {
            PurePosixPath(path.relative_to(self.root).as_posix()): path.stat().st_size
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and OWN_FOLDER not in path.relative_to(self.root).parts
        }

    def _write(self, path: str, record: Record | None) -> None:
        with self._lock:
            records = self.records()
            records.pop(path, None)
            if record is not None:
                records[path] = record
            target = self.root / OWN_FOLDER / "record.json"
            draft = target.with_suffix(".new")
            draft.write_text(json.dumps(records, indent=1, sort_keys=True))
            draft.replace(target)


class ModelsVolume:
    """The models volume on Modal, accessed without starting a container.

    Args:
        name: Name of the volume, which is created if it does not exist.
    """

    def __init__(self, name: str) -> None:
        import modal

        self._volume = modal.Volume.from_name(name, create_if_missing=True)

    def files(self) -> dict[PurePosixPath, int]:
        """Path to size in bytes of every model file."""
        from modal.types import FileEntryType

        return {
            path: entry.size
            for entry in self._volume.listdir("/", recursive=True)
            if entry.type == FileEntryType.FILE
            and (path := PurePosixPath(entry.path.lstrip("/"))).parts[0] != OWN_FOLDER
        }

    def records(self) -> dict[str, Record]:
        """Path to record of the files that a sync checked."""
        try:
            text = b"".join(self._volume.read_file(f"{OWN_FOLDER}/record.json"))
        except FileNotFoundError:
            return {}
        data: Any = json.loads(text)
        return cast("dict[str, Record]", data)

    def remove(self, path: PurePosixPath) -> bool:
        """Delete a file; returns False if it does not exist."""
        if path not in self.files():
            return False
        self._volume.remove_file(str(path))
        return True
