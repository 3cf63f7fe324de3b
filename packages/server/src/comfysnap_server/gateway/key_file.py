"""API keys in a file, which a running server follows."""

import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from filelock import FileLock

from comfysnap_server.gateway.keys import KeyRecord, Keys, KeyStoreError, KeyTable

log = logging.getLogger("comfysnap.gateway")

KEYS_FILE: Final = "keys.json"
"""In the data folder, by default."""
_LOCK_S: Final = 10.0


class KeyFile:
    """A ``KeyStore`` in a file of mode 0600, which is replaced whole.

    Args:
        path: The file; made by the first ``add``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = str(path)

    def read(self) -> KeyTable:
        """See ``KeyStore``; a missing file has no keys."""
        try:
            return KeyTable.parse(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return KeyTable()
        except (OSError, ValueError) as error:
            raise KeyStoreError("invalid_keys", f"{self.path}: {_reason(error)}") from error

    def add(self, record: KeyRecord) -> None:
        """See ``KeyStore``."""
        self._change(lambda table: table.added(record))

    def revoke(self, name: str) -> None:
        """See ``KeyStore``."""
        self._change(lambda table: table.without(name))

    def _change(self, change: Callable[[KeyTable], KeyTable]) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = self.path.with_name(f"{self.path.name}.lock")
            with FileLock(lock, timeout=_LOCK_S, mode=0o600):
                write_private(self.path, change(self.read()).to_json().encode())
        except OSError as error:
            raise KeyStoreError("no_store", f"{self.path}: {_reason(error)}") from error


class WatchedKeys(Keys):
    """The keys of a file as it is now, and fixed ones beside them.

    A damaged file changes nothing, and is logged once; without the file there are only the
    fixed keys.

    Args:
        path: The file.
        fixed: Keys of the settings.
    """

    def __init__(self, path: Path, fixed: Iterable[KeyRecord] = ()) -> None:
        self._file = KeyFile(path)
        self._fixed = tuple(fixed)
        self._seen: tuple[int, ...] | None = None
        super().__init__(self._fixed)
        self.refresh()

    def find(self, key: str) -> KeyRecord | None:
        """See ``Keys.find``; the file is read again when it changed."""
        self.refresh()
        return super().find(key)

    def refresh(self) -> None:
        """Read the file if it changed."""
        seen = self._state()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            records = self._file.read().keys
        except KeyStoreError as error:
            log.error("the keys stay as they were: %s", error)  # noqa: TRY400 -- the message has it
            return
        self.replace((*self._fixed, *records))
        log.info("%d keys in %s", len(records), self._file.path)

    def _state(self) -> tuple[int, ...]:
        try:
            stat = self._file.path.stat()
        except OSError:
            return ()
        return (stat.st_ino, stat.st_mtime_ns, stat.st_size, stat.st_ctime_ns)


def write_private(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Make a file that only its owner can read; it appears whole or not at all.

    Args:
        path: The file.
        content: What it holds.
        replace: Whether to replace one that is there.

    Raises:
        FileExistsError: There is one, and it is not to be replaced.
        OSError: It cannot be written.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 -- a descriptor, for its mode
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            new.replace(path)
        else:
            path.hardlink_to(new)
    finally:
        with contextlib.suppress(FileNotFoundError):
            new.unlink()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"not a list of keys: {str(error).splitlines()[0]}"
