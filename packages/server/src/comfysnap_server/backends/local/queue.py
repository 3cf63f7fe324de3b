"""The jobs that wait for a worker."""

import asyncio
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from comfysnap_server.backends.local.live import LiveJob

_PUBLISH_S: Final = 0.5
"""Seconds between updates of queue positions."""


class JobQueue:
    """Its owners have turns: one job of each, in the order of their submits, then the next of each.
    Who submits many jobs at once does not hold up those who submit few.

    Keeps no job that was taken, cancelled or expired.
    """

    def __init__(self) -> None:
        self._turns: OrderedDict[str, list[int]] = OrderedDict()
        """The ``seq`` of each waiting job of an owner, sorted; first the owner whose turn it is."""
        self._waiting: dict[int, LiveJob] = {}
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, live: LiveJob) -> None:
        """Put a job behind those that its owner submitted before; the turn of an owner without jobs
        comes after that of the others."""
        live.taken = False
        if live.seq not in self._waiting:
            mine = self._turns.setdefault(live.owner, [])
            mine.insert(bisect_left(mine, live.seq), live.seq)
        self._waiting[live.seq] = live
        self.wake()

    def put_back(self, live: LiveJob) -> None:
        """Put a job that was taken and did not run at its old place; it is its owner's turn."""
        self.add(live)
        self._turns.move_to_end(live.owner, last=False)

    async def until(self, ready: Callable[[], bool]) -> None:
        """Wait until ``ready``, which is asked again after ``add`` and ``wake``."""
        while not ready():
            self._changed.clear()
            await self._changed.wait()

    def wake(self) -> None:
        """Have those ask again who wait with ``until``."""
        self._changed.set()

    @property
    def empty(self) -> bool:
        """Whether no job waits."""
        return not self._waiting

    def take(self) -> LiveJob | None:
        """The first job, now taken; None when none waits. The next turn is another owner's."""
        if not self._turns:
            return None
        owner, mine = next(iter(self._turns.items()))
        live = self._waiting[mine[0]]
        self.drop(live)
        if owner in self._turns:
            self._turns.move_to_end(owner)
        return live

    def drop(self, live: LiveJob) -> None:
        """A job no longer waits: it is taken, or ends before it was."""
        live.taken = True
        if self._waiting.pop(live.seq, None) is not None:
            mine = self._turns[live.owner]
            del mine[bisect_left(mine, live.seq)]
            if not mine:
                del self._turns[live.owner]

    def position(self, live: LiveJob) -> int:
        """Jobs that would be taken before this one if no other came. It grows only when one is put
        before it: of an owner with fewer jobs ahead, or one that comes back."""
        mine = bisect_left(self._turns.get(live.owner, ()), live.seq)
        ahead, before = mine, True
        for owner, theirs in self._turns.items():
            if owner == live.owner:
                before = False
            else:
                ahead += min(len(theirs), mine + before)
        return ahead

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
