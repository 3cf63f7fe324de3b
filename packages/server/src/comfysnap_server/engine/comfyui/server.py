"""The ``PromptServer`` that nodes use, without sockets."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

Listener = Callable[[Any, Any], None]
"""Called with an event, a name or the number of a kind of binary message, and its data."""


def make_prompt_server(
    server_module: Any, loop: asyncio.AbstractEventLoop, arguments: tuple[Any, ...]
) -> Any:
    """Create ``PromptServer.instance`` as node packs expect it (``routes``, ``app``, ``loop``,
    ``prompt_queue``); its messages go to ``listener``.

    Args:
        server_module: ComfyUI's module ``server``.
        loop: The event loop of node packs while they load.
        arguments: Arguments of this release's ``PromptServer`` after the loop.
    """

    class QuietServer(server_module.PromptServer):
        """Does not open sockets; after loading, ``loop`` is started when it is first used."""

        def __init__(self) -> None:
            self._loop: asyncio.AbstractEventLoop | None = loop
            self.listener: Listener | None = None
            super().__init__(loop, *arguments)  # pyright: ignore[reportUnknownMemberType]  the base is ComfyUI's

        @property
        def loop(self) -> asyncio.AbstractEventLoop:
            if self._loop is None or self._loop.is_closed():
                self._loop = _start_loop()
            return self._loop

        @loop.setter
        def loop(self, value: asyncio.AbstractEventLoop | None) -> None:
            self._loop = value

        def send_sync(self, event: Any, data: Any, sid: Any = None) -> None:
            if self.listener is not None:
                self.listener(event, data)

        def queue_updated(self) -> None:
            """Do nothing: the queue has no viewers."""

    return QuietServer()


def _start_loop() -> asyncio.AbstractEventLoop:
    """Start an event loop on its own thread, as in ``main.py``."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="comfyui-server-loop", daemon=True).start()
    return loop
