"""A ``models/`` folder: which files are there, which are right, and how one is put in place."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path, PurePosixPath
from shutil import rmtree
from tempfile import gettempdir
from threading import Lock
from typing import Any, Final, TypedDict, cast

from comfysnap_server.models.listed import is_safe_path
from comfysnap_server.models.sources import ModelFile
from comfysnap_server.models.transfer import Part, sha256_of

OWN_FOLDER: Final = ".comfysnap"
"""Holds unfinished files and the record; on the same disk, so that moving is atomic."""


class Record(TypedDict):
    """What is known of a file that was checked."""

    size: int
    sha256: str
    etag: str | None
    source: str


class State(StrEnum):
    """How a file that should be there is."""

    PRESENT = "present"
    MISSING = "missing"
    WRONG = "wrong"


@dataclass(frozen=True)
class ModelsFolder:
    """One folder on one disk."""

    root: Path
    _lock: Lock

    @classmethod
    def at(cls, root: Path) -> "ModelsFolder":
        """Open a folder, which is made if it is not there."""
        (root / OWN_FOLDER / "parts").mkdir(parents=True, exist_ok=True)
        return cls(root, Lock())

    @contextmanager
    def locked(self) -> Generator[None]:
        """Keep other runs of this machine out.

        Raises:
            TimeoutError: Another run has the folder.
        """
        from filelock import FileLock, Timeout

        # not in the folder itself, because a volume on Modal has no file locks
        name = sha256(str(self.root.resolve()).encode()).hexdigest()[:32]
        lock = FileLock(Path(gettempdir()) / f"comfysnap-{name}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise TimeoutError(f"another sync works in {self.root}") from error
        try:
            yield
        finally:
            lock.release()

    def records(self) -> dict[str, Record]:
        """Path to record, of files that were checked."""
        try:
            data: Any = json.loads((self.root / OWN_FOLDER / "record.json").read_text())
        except (OSError, ValueError):
            return {}
        return cast("dict[str, Record]", data) if isinstance(data, dict) else {}

    def check(self, file: ModelFile, *, verify: bool = False) -> tuple[State, str]:
        """How a file is, and why.

        Args:
            file: What should be there.
            verify: Read the whole file again, although it was checked before.
        """
        path = self.root / file.path
        if not path.is_file():
            return State.MISSING, "not there"
        size = path.stat().st_size
        if file.size is not None and size != file.size:
            return State.WRONG, f"{size} bytes instead of {file.size}"
        record = self.records().get(str(file.path))
        if record is not None and record["size"] != size:
            record = None
        if record and file.sha256 is None and file.etag and record["etag"] != file.etag:
            return State.WRONG, "another version at its source"
        if file.sha256 is None and record is None:
            self.note(file, sha256_of(path))
            return State.PRESENT, "was there, with nothing to check it by"
        if record is None or verify:
            digest = sha256_of(path)
            expected = file.sha256 or (record["sha256"] if record else digest)
            if digest != expected:
                return State.WRONG, f"SHA-256 {digest}, not {expected}"
            self.note(file, digest)
        elif file.sha256 not in {None, record["sha256"]}:
            return State.WRONG, "another version at its source"
        return State.PRESENT, ""

    def part(self, file: ModelFile) -> Part:
        """Where the unfinished file lies."""
        name = sha256(f"{file.path}\n{file.url}".encode()).hexdigest()[:32]
        return Part(self.root / OWN_FOLDER / "parts" / f"{name}.part")

    def staging(self, file: ModelFile) -> Path:
        """A folder for a downloader that wants one of its own."""
        return self.part(file).path.with_suffix("")

    def forget_parts(self) -> bool:
        """Delete what unfinished transfers left, once every file that is wanted is there; whether
        there was any."""
        left = list((self.root / OWN_FOLDER / "parts").iterdir())
        for path in left:
            rmtree(path) if path.is_dir() else path.unlink()
        return bool(left)

    def place(self, file: ModelFile, part: Path, digest: str) -> None:
        """Move a checked file to where it belongs."""
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
        """Delete a file; False when there is none.

        Raises:
            ValueError: The path leaves the folder.
        """
        if not is_safe_path(str(path)) or path.parts[0] == OWN_FOLDER:
            raise ValueError(f"{path} is no file below models/")
        target = self.root / path
        if not target.is_file():
            return False
        target.unlink()
        self._write(str(path), None)
        return True

    def files(self) -> dict[PurePosixPath, int]:
        """Every file with its size, without our own."""
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
