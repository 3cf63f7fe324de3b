"""The jobs that wait for a worker, in the order they were submitted."""

import asyncio
import heapq
from bisect import bisect_left
from typing import Final

from comfysnap_server.backends.local.live import LiveJob

_PUBLISH_S: Final = 0.5
"""Seconds between updates of queue positions."""


class JobQueue:
    """A job that was taken, cancelled or expired is dropped when its turn comes."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, LiveJob]] = []
        self._waiting: list[int] = []
        """The ``seq`` of each waiting job, sorted, for positions."""
        self._filled = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, live: LiveJob) -> None:
        """Put a job at its place; one that comes back is at its old place again."""
        live.taken = False
        place = bisect_left(self._waiting, live.seq)
        if self._waiting[place : place + 1] != [live.seq]:
            self._waiting.insert(place, live.seq)
        heapq.heappush(self._heap, (live.seq, live))
        self._filled.set()

    async def filled(self) -> None:
        """Wait until a job waits."""
        while self._next() is None:
            self._filled.clear()
            await self._filled.wait()

    @property
    def empty(self) -> bool:
        """Whether no job waits."""
        return self._next() is None

    def take(self) -> LiveJob | None:
        """The first job, now taken; None when none waits."""
        live = self._next()
        if live is not None:
            heapq.heappop(self._heap)
            self.drop(live)
        return live

    def drop(self, live: LiveJob) -> None:
        """A job no longer waits: it is taken, or ends before it was."""
        live.taken = True
        place = bisect_left(self._waiting, live.seq)
        if self._waiting[place : place + 1] == [live.seq]:
            del self._waiting[place]

    def position(self, live: LiveJob) -> int:
        """Jobs ahead of this one in the queue."""
        return bisect_left(self._waiting, live.seq)

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
        for _, live in self._heap:
            if live.watched and not live.taken:
                live.touch()

    def _next(self) -> LiveJob | None:
        while self._heap and self._heap[0][1].taken:
            heapq.heappop(self._heap)
        return self._heap[0][1] if self._heap else None
