"""Work in threads, for callers that may be cancelled meanwhile."""

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar


class Closable(Protocol):
    """What is closed after use."""

    def close(self) -> None: ...  # noqa: D102


C = TypeVar("C", bound=Closable)


async def opened(open_it: Callable[[], C]) -> C:
    """What ``open_it`` opens in a thread; closed if the caller is cancelled before it is there."""
    opening = asyncio.get_running_loop().run_in_executor(None, open_it)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close)
        raise


def _close(opening: "asyncio.Future[C]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
