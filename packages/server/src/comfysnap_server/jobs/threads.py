"""Threads for work on a network that a stranger named.

A name server that does not answer holds its thread for as long as it likes: a shared pool would be
full of such threads, and one that is waited for would keep the process from ending.
"""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


def in_thread(name: str, work: Callable[[], T]) -> "asyncio.Future[T]":
    """The result of ``work`` in a thread that nobody waits for when the process ends."""
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
