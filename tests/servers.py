"""A real uvicorn server in a thread, for tests."""

import threading
from collections.abc import Generator
from contextlib import contextmanager

from fastapi import FastAPI

from comfysnap_server.gateway.serving import GatewayServer


@contextmanager
def running(app: FastAPI) -> Generator[GatewayServer]:
    """Serve ``app`` on a free loopback port until the block ends."""
    started = threading.Event()
    server = GatewayServer(app, host="127.0.0.1", port=0, announce=lambda _: started.set())

    def serve() -> None:
        try:
            server.run()
        finally:
            started.set()

    thread = threading.Thread(target=serve, name="gateway")
    thread.start()
    try:
        if not (started.wait(30) and server.started):
            raise RuntimeError("the server did not start")
        yield server
    finally:
        server.stop()
        thread.join(30)
        if thread.is_alive():
            raise RuntimeError("the server did not stop")
