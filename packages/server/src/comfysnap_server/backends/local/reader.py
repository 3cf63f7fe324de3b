"""A thread that reads the job store."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from comfysnap_schema.wire import ErrorCode
from comfysnap_server.backends.local.migrations import open_reader
from comfysnap_server.errors import BackendError

T = TypeVar("T")


class Reader:
    """Runs queries one after the other, beside those of other readers.

    Args:
        path: The database.
        name: Of the thread.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._connection = open_reader(path)
        self._thread = ThreadPoolExecutor(1, name)

    async def run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """The result of a query.

        Raises:
            BackendError: ``unavailable``: the store cannot be read.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, operation, self._connection)
        except sqlite3.Error as error:
            raise BackendError(
                ErrorCode.UNAVAILABLE, f"the job store cannot be read: {error}", retry_after=5
            ) from error

    def close(self) -> None:
        """Wait for the query that runs, then close the connection."""
        self._thread.shutdown()
        self._connection.close()
