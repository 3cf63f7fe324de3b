"""Requests that are held open: counted by owner, ended by a hang-up or when the server stops."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from starlette.types import Message, Receive

from comfysnap_schema.wire import ErrorCode
from comfysnap_server.gateway.problems import ProblemError

T = TypeVar("T")


class LongPolls:
    """The held requests of one gateway."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: Counter[str] = Counter()
        self._timeouts: set[asyncio.Timeout] = set()
        self._draining = False

    def drain(self) -> None:
        """End every held request now, and hold none from here on: the server is stopping."""
        if not self._draining:
            self._draining = True
            for timeout in self._timeouts:
                _expire(timeout)

    @asynccontextmanager
    async def slot(self, owner: str) -> AsyncGenerator[None]:
        """Count one held request.

        Raises:
            ProblemError: ``rate_limited``, the owner holds too many.
        """
        if self._open[owner] >= self._limit:
            raise ProblemError(
                ErrorCode.RATE_LIMITED,
                f"{self._limit} requests of yours are already waiting",
                retry_after=1,
            )
        self._open[owner] += 1
        try:
            yield
        finally:
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]

    async def hold(
        self, owner: str, receive: Receive, work: Callable[[], Awaitable[T]]
    ) -> T | None:
        """The result of ``work``, or None when the client hung up or the server stops first."""
        async with self.slot(owner):
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
