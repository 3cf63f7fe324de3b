"""The jobs that wait for a worker, in the order they were submitted."""

import asyncio
from bisect import bisect_left
from typing import Final

from comfysnap_server.backends.local.live import LiveJob

_PUBLISH_S: Final = 0.5
"""Seconds between updates of queue positions."""


class JobQueue:
    """Keeps no job that was taken, cancelled or expired."""

    def __init__(self) -> None:
        self._order: list[int] = []
        """The ``seq`` of each waiting job, sorted."""
        self._waiting: dict[int, LiveJob] = {}
        self._filled = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, live: LiveJob) -> None:
        """Put a job at its place; one that comes back is at its old place again."""
        live.taken = False
        if live.seq not in self._waiting:
            self._order.insert(bisect_left(self._order, live.seq), live.seq)
        self._waiting[live.seq] = live
        self._filled.set()

    async def filled(self) -> None:
        """Wait until a job waits."""
        while self.empty:
            self._filled.clear()
            await self._filled.wait()

    @property
    def empty(self) -> bool:
        """Whether no job waits."""
        return not self._order

    def take(self) -> LiveJob | None:
        """The first job, now taken; None when none waits."""
        if not self._order:
            return None
        live = self._waiting[self._order[0]]
        self.drop(live)
        return live

    def drop(self, live: LiveJob) -> None:
        """A job no longer waits: it is taken, or ends before it was."""
        live.taken = True
        if self._waiting.pop(live.seq, None) is not None:
            del self._order[bisect_left(self._order, live.seq)]

    def position(self, live: LiveJob) -> int:
        """Jobs ahead of this one in the queue."""
        return bisect_left(self._order, live.seq)

    def moved(self) -> None:
        """A job left: watchers of other jobs get the new positions, a little later and for all
        moves until then at once."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PUBLISH_S, self._publish)

    def close(self) -> None:
        """Stop publishing positions."""
        if self._timer is not None:
            self._timer.cancel()

    def _publish(self) -> None:
        self._timer = None
        for live in self._waiting.values():
            if live.watched:
                live.touch()
