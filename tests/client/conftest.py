"""A fake server on a real socket, and a client for it."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from comfysnap_client import Client
from tests.client.fakes import QUICK, QUICK_POLLS, FakeServer


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    """The fake server, listening on a free port."""
    fake = FakeServer()
    app = Starlette(routes=[
        Route("/{path:path}", fake.handle, methods=["GET", "HEAD", "POST", "PUT"])
    ])  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fake.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        running = uvicorn.Server(
            uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        )
        running.server_state.connections = fake.connections
        task = asyncio.create_task(running.serve(sockets=[listening]))
        yield fake
        running.should_exit = True
        await task


@pytest.fixture
async def client(server: FakeServer) -> AsyncIterator[Client]:
    """A client of the fake server, with short pauses."""
    async with Client(
        server.url, api_key="sesame", retry=QUICK, polling=QUICK_POLLS, timeout=60
    ) as made:
        yield made
