"""Interrupts that are never lost and never hit another job."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

REMEMBERED: Final = 4096
"""Interrupts kept for jobs that did not start yet."""


class Interrupts:
    """Remembers who is to stop; ComfyUI's own flag is global, cleared when a prompt starts and
    when a node swallows the exception, so it only ever follows this."""

    def __init__(self, raise_flag: Callable[[], None]) -> None:
        self._raise_flag = raise_flag
        self._lock = threading.Lock()
        self._asked: OrderedDict[str, None] = OrderedDict()
        self._current: str | None = None
        self._wake: Callable[[], object] | None = None

    def request(self, job_id: str) -> None:
        """Stop ``job_id``: now, when it starts, or never if it ended. Called from any thread."""
        with self._lock:
            self._asked[job_id] = None
            if len(self._asked) > REMEMBERED:
                self._asked.popitem(last=False)
            if self._current == job_id:
                self._raise_flag()
                if self._wake is not None:
                    self._wake()

    @contextmanager
    def running(self, job_id: str) -> Generator[None]:
        """The job runs inside the block.

        Raises:
            RuntimeError: Another one does.
        """
        with self._lock:
            if self._current is not None:
                raise RuntimeError(f"the engine is busy with {self._current}")
            self._current = job_id
        try:
            yield
        finally:
            with self._lock:
                self._current = self._wake = None
                self._asked.pop(job_id, None)

    @property
    def requested(self) -> bool:
        """Whether the job that runs is to stop."""
        with self._lock:
            return self._current in self._asked

    def wake_with(self, wake: Callable[[], object] | None) -> None:
        """Call ``wake`` on an interrupt of the job that runs; never after this was called again."""
        with self._lock:
            self._wake = wake

    def insist(self) -> None:
        """Raise ComfyUI's flag again if it was cleared meanwhile."""
        if self.requested:
            self._raise_flag()
