"""Runs the gateway under uvicorn so that it stops at once and cleanly."""

import asyncio
import gc
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Final, cast

import uvicorn
from fastapi import FastAPI

from comfysnap_server.gateway.app import capacity_of, drain
from comfysnap_server.gateway.connections import BoundedHttpProtocol, ConnectionTable

_GRACE_S: Final = 10
_SWITCH_S: Final = 0.001
"""How long a thread that computes keeps the others from running: a hop to a thread of the store
takes 2 ms beside one instead of 6 ms with Python's 5 ms."""
_YOUNG_OBJECTS: Final = 10_000
"""How many new objects make Python look for garbage in cycles. With its own 700 that takes a tenth
of the time of a submit, whose job stays in memory."""


class GatewayServer(uvicorn.Server):
    """A uvicorn server that ends held requests when it is asked to stop.

    Args:
        app: The gateway.
        host: Address to listen on.
        port: Port; 0: any that is free.
        announce: Called with the address once it listens.
        failure: Asked ten times a second; what it returns other than None ends the server.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        host: str,
        port: int,
        announce: Callable[[str], None] | None = None,
        failure: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._app = app
        self._failure = failure
        self.failure: str | None = None
        """Why it ended by itself."""
        self._announce = announce
        self._loop: asyncio.AbstractEventLoop | None = None
        capacity = capacity_of(app)
        protocol = partial(BoundedHttpProtocol, table=ConnectionTable(capacity.connections))
        super().__init__(
            uvicorn.Config(
                app,
                http=cast("type[BoundedHttpProtocol]", protocol),
                backlog=capacity.backlog,
                host=host,
                port=port,
                access_log=False,
                log_level="warning",
                log_config=None,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )

    @property
    def url(self) -> str:
        """Where it listens, once it does; the port that was picked when 0 was asked for."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Take the port, start the app, serve until asked to stop, stop the app.

        Raises:
            Exception: What the app's start raises, instead of uvicorn's log of it.
            SystemExit: The port is taken; the log says so.
        """
        with self.capture_signals():
            sys.setswitchinterval(_SWITCH_S)
            gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])
            bound = sockets or [self.config.bind_socket()]
            async with self._app.router.lifespan_context(self._app):
                await self._serve(bound)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started and self._announce is not None:
            self._announce(self.url)

    async def on_tick(self, counter: int) -> bool:
        """Whether to end now."""
        self.failure = self._failure()
        if self.failure is not None:
            self.stop()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop on a signal; long polls and event streams end with what is known."""
        super().handle_exit(sig, frame)
        self.stop()

    def stop(self) -> None:
        """Stop soon; callable from any thread."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it has stopped already
                self._loop.call_soon_threadsafe(drain, self._app)
