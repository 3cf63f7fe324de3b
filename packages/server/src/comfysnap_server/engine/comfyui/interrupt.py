"""Interrupts that are never lost and never stop another job."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

REMEMBERED: Final = 4096
"""Maximum number of interrupts kept for jobs that have not started."""


class Interrupts:
    """Interrupt requests by job.

    ComfyUI's own flag is global, and is cleared when a prompt starts and when a node catches the
    exception, so it is set from here again and again.
    """

    def __init__(self, raise_flag: Callable[[], None]) -> None:
        self._raise_flag = raise_flag
        self._lock = threading.Lock()
        self._asked: OrderedDict[str, None] = OrderedDict()
        self._current: str | None = None
        self._wake: Callable[[], object] | None = None

    def request(self, job_id: str) -> None:
        """Stop ``job_id`` now, or when it starts; ignored if it ended. Thread-safe."""
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
        """Mark the job as running inside the block.

        Raises:
            RuntimeError: Another job is running.
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
        """Whether an interrupt of the running job was requested."""
        with self._lock:
            return self._current in self._asked

    def wake_with(self, wake: Callable[[], object] | None) -> None:
        """Call ``wake`` when the running job is interrupted; replaces the previous ``wake``."""
        with self._lock:
            self._wake = wake

    def reassert(self) -> None:
        """Set ComfyUI's flag again if it was cleared before the running job stopped."""
        if self.requested:
            self._raise_flag()
