"""Requests that are held open: counted by owner, ended by a hang-up or when the server stops."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from starlette.types import Message, Receive

from comfysnap_server.gateway.capacity import Places

T = TypeVar("T")


class LongPolls:
    """The held requests of one gateway."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._timeouts: set[asyncio.Timeout] = set()
        self._draining = False

    def drain(self) -> None:
        """End every held request now, and hold none from here on: the server is stopping."""
        if not self._draining:
            self._draining = True
            for timeout in self._timeouts:
                _expire(timeout)

    def slot(self, owner: str) -> AbstractContextManager[None]:
        """Count one held request.

        Raises:
            ProblemError: ``rate_limited``, too many are held; raised on entry.
        """
        return self._places.take(owner)

    async def hold(
        self, owner: str, receive: Receive, work: Callable[[], Awaitable[T]]
    ) -> T | None:
        """The result of ``work``, or None when the client hung up or the server stops first."""
        with self.slot(owner):
            timeout = asyncio.timeout(0 if self._draining else None)
            watcher = asyncio.create_task(_watch(receive, timeout))
            try:
                return await self.until_drained(work, timeout)
            finally:
                watcher.cancel()

    async def until_drained(
        self, work: Callable[[], Awaitable[T]], timeout: asyncio.Timeout | None = None
    ) -> T | None:
        """The result of ``work``, or None when the server stops first."""
        timeout = timeout or asyncio.timeout(0 if self._draining else None)
        try:
            async with timeout:
                self._timeouts.add(timeout)
                return await work()
        except TimeoutError:
            if timeout.expired():
                return None
            raise
        finally:
            self._timeouts.discard(timeout)


async def _watch(receive: Receive, timeout: asyncio.Timeout) -> None:
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()
    _expire(timeout)


def _expire(timeout: asyncio.Timeout) -> None:
    if not timeout.expired():
        timeout.reschedule(asyncio.get_running_loop().time())
