"""A real uvicorn server in a thread, for tests, and ports for servers that need theirs told."""

import secrets
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager

from fastapi import FastAPI

from comfysnap_server.gateway.serving import GatewayServer


def free_port() -> int:
    """A free port of those that the system gives to no connection and no other server by itself,
    so that it is still free when a process takes it later."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


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
