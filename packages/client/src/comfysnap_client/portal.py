"""An event loop on a thread of its own, for callers without one."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")

LEAVE_S = 6.0
"""Longest time that an interrupted call is given to cancel its job, in seconds."""


class Portal:
    """Runs coroutines of one loop for any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="comfysnap", daemon=True
        )
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._loop.is_closed()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine; an interrupt (Ctrl-C) cancels it and sees it ended.

        Raises:
            RuntimeError: The portal is closed, or this is its own thread.
        """
        if self.closed or threading.current_thread() is self._thread:
            coroutine.close()
            reason = "the client is closed" if self.closed else "a callback cannot call the client"
            raise RuntimeError(reason)
        ended = threading.Event()

        async def supervised() -> T:
            try:
                return await coroutine
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(supervised(), self._loop)
        try:
            return future.result()
        except BaseException:
            if not ended.is_set():
                future.cancel()
                ended.wait(LEAVE_S)
            raise

    def iterate(self, source: AsyncGenerator[T]) -> Generator[T]:
        """The items of an async iterator, drawn as they are asked for."""
        end = object()

        async def draw() -> T | object:
            return await anext(source, end)

        try:
            while (item := self.run(draw())) is not end:
                yield item  # pyright: ignore[reportReturnType] -- only the end is no T
        finally:
            if not self.closed:
                self.run(source.aclose())

    def close(self) -> None:
        """Cancel what still runs and end the thread."""

        async def clear() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._loop.shutdown_asyncgens()
            await self._loop.shutdown_default_executor()

        self.run(clear())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
