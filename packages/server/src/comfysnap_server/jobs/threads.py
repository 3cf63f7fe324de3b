"""Work in threads, for callers that may be cancelled meanwhile."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

T = TypeVar("T")


class Closable(Protocol):
    """What is closed after use."""

    def close(self) -> None: ...  # noqa: D102


C = TypeVar("C", bound=Closable)


def in_thread(name: str, work: Callable[[], T]) -> "asyncio.Future[T]":
    """The result of ``work`` in a thread of its own, which nobody waits for when the process ends.

    For networks that a stranger named: a name server that does not answer holds its thread for as
    long as it likes, and would fill a shared pool.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(set_value: Callable[[], None]) -> None:
        if not future.done():
            set_value()

    def run() -> None:
        set_value: Callable[[], None]
        try:
            set_value = partial(future.set_result, work())
        except Exception as error:
            set_value = partial(future.set_exception, error)
        try:
            loop.call_soon_threadsafe(deliver, set_value)
        except RuntimeError:  # the server has stopped
            return

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


async def opened(open_it: Callable[[], C]) -> C:
    """What ``open_it`` opens in a thread of the pool; closed if the caller is cancelled before it
    is there."""
    opening = asyncio.get_running_loop().run_in_executor(None, open_it)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close)
        raise


def _close(opening: "asyncio.Future[C]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
