"""Requests that are held open: counted by owner, ended by a hang-up or when the server stops."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.types import Receive

from comfysnap_schema.errors import ErrorCode
from comfysnap_server.gateway.problems import ProblemError

T = TypeVar("T")


class Waits:
    """The held requests of one gateway."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: Counter[str] = Counter()
        self._timeouts: set[asyncio.Timeout] = set()
        self._draining = False

    def drain(self) -> None:
        """End every held request now, and hold none from here on: the server is stopping."""
        self._draining = True
        now = asyncio.get_running_loop().time()
        for timeout in self._timeouts:
            timeout.reschedule(now)

    @property
    def draining(self) -> bool:
        """Whether the server is stopping."""
        return self._draining

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
        if self._draining:
            return None
        async with self.slot(owner):
            timeout = asyncio.timeout(None)
            watcher: asyncio.Task[None] | None = None
            try:
                async with timeout:
                    self._timeouts.add(timeout)
                    watcher = asyncio.create_task(_watch(receive, timeout))
                    return await work()
            except TimeoutError:
                if timeout.expired():
                    return None
                raise
            finally:
                self._timeouts.discard(timeout)
                if watcher is not None:
                    watcher.cancel()


async def _watch(receive: Receive, timeout: asyncio.Timeout) -> None:
    message: Any = {}
    while message.get("type") != "http.disconnect":
        message = await receive()
    timeout.reschedule(asyncio.get_running_loop().time())
