"""Requests that are held open: counted by owner, ended by a hang-up, for newer ones, or
when the server stops."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Final, TypeVar

from starlette.types import Message, Receive

from comfysnap_server.gateway.capacity import Places

T = TypeVar("T")

_SHORTEST_HOLD_S: Final = 2.0
"""Before a request gives way; a new one is not held instead, and clients space their requests."""


class LongPolls:
    """The held requests of one gateway.

    Args:
        places: Limits the held requests of one owner, and of all.
        room: How many are held at once; None: any number. Where a server takes so many requests
            and no more, those that wait would keep out those that submit and cancel.
    """

    def __init__(self, places: Places, room: int | None = None) -> None:
        self._places = places
        self._room = room
        self._held: dict[Slot, None] = {}
        self._draining = False

    def drain(self) -> None:
        """End every held request now, and hold none from here on: the server is stopping."""
        self._draining = True
        for slot in self._held:
            slot.end()

    @property
    def draining(self) -> bool:
        """Whether the server is stopping."""
        return self._draining

    @property
    def held(self) -> int:
        """How many are held now."""
        return len(self._held)

    def slot(self, owner: str) -> "Slot":
        """One held request of an owner, to be entered.

        Raises:
            ProblemError: ``rate_limited``, too many are held; raised on entry.
        """
        return Slot(self, owner, self._places.take(owner))

    def take(self, slot: "Slot") -> None:
        """Hold a request; the longest held gives way when there is no room."""
        if self._draining or not self._make_room():
            slot.end()
        else:
            self._held[slot] = None

    def _make_room(self) -> bool:
        if self._room is None or len(self._held) < self._room:
            return True
        longest = next(iter(self._held))
        if time.monotonic() - longest.since < _SHORTEST_HOLD_S:
            return False
        del self._held[longest]
        longest.end()
        return True

    def free(self, slot: "Slot") -> None:
        """Hold it no more."""
        self._held.pop(slot, None)

    async def hold(
        self, owner: str, receive: Receive, work: Callable[[], Awaitable[T]]
    ) -> T | None:
        """The result of ``work``, or None when the client hung up first, or the request had to
        give way."""
        async with self.slot(owner) as slot:
            watcher = asyncio.create_task(_watch(receive, slot))
            try:
                return await slot.until_ended(work)
            finally:
                watcher.cancel()


class Slot:
    """One held request, while entered."""

    def __init__(self, polls: LongPolls, owner: str, place: AbstractContextManager[None]) -> None:
        self.owner = owner
        self.since = time.monotonic()
        self._polls = polls
        self._place = place
        self._ended = False
        self._timeout: asyncio.Timeout | None = None

    async def __aenter__(self) -> "Slot":
        """See ``LongPolls.slot``."""
        self._place.__enter__()
        self.since = time.monotonic()
        self._polls.take(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Free it."""
        self._polls.free(self)
        self._place.__exit__(None, None, None)

    def end(self) -> None:
        """Hold the request no longer."""
        self._ended = True
        timeout = self._timeout
        if timeout is not None and not timeout.expired():
            timeout.reschedule(asyncio.get_running_loop().time())

    async def until_ended(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """The result of ``work``, or None when the request is held no longer."""
        timeout = asyncio.timeout(0 if self._ended else None)
        try:
            async with timeout:
                self._timeout = timeout
                return await work()
        except TimeoutError:
            if timeout.expired():
                return None
            raise
        finally:
            self._timeout = None


async def _watch(receive: Receive, slot: Slot) -> None:
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()
    slot.end()
