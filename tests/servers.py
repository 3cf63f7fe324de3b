"""A real uvicorn server in a thread, for tests."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

from fastapi import FastAPI

from comfysnap_server.gateway.serving import GatewayServer


@contextmanager
def running(app: FastAPI) -> Generator[GatewayServer]:
    """Serve ``app`` on a free loopback port until the block ends."""
    server = GatewayServer(app, host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run, name="gateway")
    thread.start()
    try:
        limit = time.monotonic() + 30
        while not server.started:
            if not thread.is_alive() or time.monotonic() > limit:
                raise RuntimeError("the server did not start")
            time.sleep(0.005)
        yield server
    finally:
        server.stop()
        thread.join(30)
        if thread.is_alive():
            raise RuntimeError("the server did not stop")
