"""The ``PromptServer`` that nodes see: everything but the sockets."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

Listener = Callable[[str, Any], None]


def make_prompt_server(
    server_module: Any, loop: asyncio.AbstractEventLoop, arguments: tuple[Any, ...]
) -> Any:
    """``PromptServer.instance`` as node packs expect it (``routes``, ``app``, ``loop``,
    ``prompt_queue``); what it would send goes to ``listener`` instead.

    Args:
        server_module: ComfyUI's module ``server``.
        loop: The loop that node packs see while they load.
        arguments: What this release's ``PromptServer`` takes after the loop.
    """

    class QuietServer(server_module.PromptServer):
        """Opens no socket; ``loop`` is a running loop once somebody asks for it after loading."""

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
            if self.listener is not None and isinstance(event, str):
                self.listener(event, data)

        def queue_updated(self) -> None:
            """Nobody watches the queue."""

    return QuietServer()


def _start_loop() -> asyncio.AbstractEventLoop:
    """A loop that runs on a thread of its own, as main.py's runs beside its worker."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="comfyui-server-loop", daemon=True).start()
    return loop
