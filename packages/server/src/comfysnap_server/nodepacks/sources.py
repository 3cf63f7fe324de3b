"""Where node packs are fetched from, with which tokens, and how often it is tried."""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from comfysnap_server.errors import CommandError

ATTEMPTS: Final = 3

T = TypeVar("T")


class PackFetchError(CommandError):
    """A pack could not be fetched.

    Codes: ``access_denied``, ``commit_not_found``, ``ambiguous_commit``, ``git_failed``,
    ``version_not_found``, ``download_failed``, ``hash_mismatch``, ``bad_archive``,
    ``already_exists``, ``local_changes``.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(code, message)
        self.retryable = retryable
        """Whether the same request may succeed later."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where packs are fetched from, and with which tokens."""

    registry: str = "https://api.comfy.org"
    """Base URL of the Comfy registry."""
    files: Path = Path()
    """Folder with the single-file packs."""
    tokens: Mapping[str, str] = field(default_factory=dict[str, str])
    """Git host to the environment variable with its token."""
    pause: float = 2.0
    """Seconds before the second attempt; doubled for each further one."""

    def redact(self, text: str) -> str:
        """``text`` with the value of each token replaced."""
        for variable in self.tokens.values():
            if token := os.environ.get(variable):
                text = text.replace(token, "***")
        return text

    def retry(self, work: Callable[[], T]) -> T:
        """The result of ``work``, which is tried again after a retryable error."""
        for attempt in range(1, ATTEMPTS):
            try:
                return work()
            except PackFetchError as error:
                if not error.retryable:
                    raise
            time.sleep(self.pause * 2 ** (attempt - 1))
        return work()

    def forget_tokens(self) -> None:
        """Remove the tokens from this process before it starts code of packs."""
        for name in set(self.tokens.values()):
            os.environ.pop(name, None)
            with suppress(OSError, IndexError):  # where there is no /proc
                _erase_from_start(name)


def _erase_from_start(name: str) -> None:
    """Overwrite a variable that the process was started with: ``/proc/PID/environ`` keeps showing
    it to child processes, whatever ``os.environ`` has."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[47]), int(fields[48])  # env_start and env_end of proc(5)
    with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
        memory.seek(start)
        for entry in memory.read(end - start).split(b"\0"):
            if entry.startswith(os.fsencode(name) + b"="):
                memory.seek(start)
                memory.write(bytes(len(entry)))
            start += len(entry) + 1
