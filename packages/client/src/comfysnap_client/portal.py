"""An event loop in a background thread, for callers without one."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")

INTERRUPT_S = 6.0
"""Maximum seconds that an interrupted call may take to cancel its job."""


class Portal:
    """Runs coroutines in one event loop on behalf of any thread."""

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
        """Return the result of a coroutine; Ctrl-C cancels it and waits for its end.

        Raises:
            RuntimeError: The portal is closed, or the call comes from its own thread.
        """
        if self.closed or threading.current_thread() is self._thread:
            coroutine.close()
            reason = (
                "the client is closed" if self.closed else "the client cannot be used in a callback"
            )
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
                ended.wait(INTERRUPT_S)
            raise

    def iterate(self, source: AsyncGenerator[T]) -> Generator[T]:
        """Yield the items of an async generator as they are requested."""
        end = object()

        async def next_item() -> T | object:
            return await anext(source, end)

        try:
            while (item := self.run(next_item())) is not end:
                yield item  # pyright: ignore[reportReturnType] -- never the sentinel
        finally:
            if not self.closed:
                self.run(source.aclose())

    def close(self) -> None:
        """Cancel all tasks and stop the thread."""

        async def cancel_all() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._loop.shutdown_asyncgens()
            await self._loop.shutdown_default_executor()

        self.run(cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
