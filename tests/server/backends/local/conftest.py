"""A local backend that is started, and the data folder it uses."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from comfysnap_server.backends.local import LocalBackend, LocalLimits
from tests.server.backends.suite import STEP_S

StartBackend = Callable[..., Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
async def start_backend(data: Path) -> AsyncIterator[StartBackend]:
    """Start backends on the data folder; they are stopped in the end."""
    async with AsyncExitStack() as stack:

        async def start(**options: Any) -> LocalBackend:
            options.setdefault("engine_options", {"step_seconds": STEP_S})
            options.setdefault("limits", LocalLimits(interrupt_grace=30, takeover_patience=30))
            backend = LocalBackend(data, **options)
            await backend.start()
            stack.push_async_callback(backend.stop)
            return backend

        yield start


@pytest.fixture
async def backend(start_backend: StartBackend) -> LocalBackend:
    return await start_backend()
