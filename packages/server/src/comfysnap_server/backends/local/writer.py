"""The one thread that writes the job store, many transactions to a disk flush."""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from comfysnap_schema.wire import ErrorCode
from comfysnap_server.errors import BackendError

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]

_MOST: Final = 128


class StorageError(BackendError):
    """The store cannot be written: disk full, read-only, broken."""

    def __init__(self, error: sqlite3.Error) -> None:
        super().__init__(
            ErrorCode.UNAVAILABLE, f"the job store cannot be written: {error}", retry_after=5
        )


@dataclass
class _Pending:
    operation: Operation[Any]
    durable: bool
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    then: Callable[[Any], object] | None
    result: Any = None
    error: Exception | None = None


class Writer:
    """Runs operations one after the other; those that wait at the same time share one commit.

    A durable operation has survived a power cut when its future is done. One that is not has
    survived the death of this process (its commit is in the file, only not flushed to the disk),
    and is flushed with the next durable one: enough for what is only asked again after a restart.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._flushing = True
        self._thread = threading.Thread(target=self._work, name="job-store", daemon=True)
        self._thread.start()

    def run(
        self,
        operation: Operation[T],
        *,
        durable: bool = True,
        then: Callable[[T | None], object] | None = None,
    ) -> "asyncio.Future[T]":
        """Queue an operation; it runs in a transaction of its own within the commit.

        Args:
            operation: What to do.
            durable: Whether it has to survive a power cut.
            then: Called with its result in the loop, also when nobody waits any more; None: it
                failed.

        Returns:
            A future with what ``operation`` returned or raised, done after the commit; a failed
            commit is a ``StorageError``. Cancelling it does not undo the operation.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Pending(operation, durable, loop, future, then))
        return future

    def close(self) -> None:
        """Write what is queued, then close the connection."""
        self._queue.put(None)
        self._thread.join()
        self._connection.close()

    def _work(self) -> None:
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Commit what waits; false at the end. Keeps nothing of it, which may be large."""
        first = self._queue.get()
        if first is None:
            return False
        batch = [first]
        last = False
        while len(batch) < _MOST and not self._queue.empty():
            item = self._queue.get()
            if item is None:
                last = True
                break
            batch.append(item)
        self._commit(batch)
        first.loop.call_soon_threadsafe(_deliver, batch)
        return not last

    def _commit(self, batch: list[_Pending]) -> None:
        connection = self._connection
        try:
            self._set_flushing(any(item.durable for item in batch))
            connection.execute("BEGIN IMMEDIATE")
            for item in batch:
                _run(connection, item)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            for item in batch:
                item.error = StorageError(error)
            with suppress(sqlite3.Error):  # a broken disk; the next batch meets it again
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _set_flushing(self, flushing: bool) -> None:
        if flushing is not self._flushing:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if flushing else 'NORMAL'}")
            self._flushing = flushing


def _run(connection: sqlite3.Connection, item: _Pending) -> None:
    connection.execute("SAVEPOINT operation")
    try:
        item.result = item.operation(connection)
    except sqlite3.OperationalError:
        raise
    except Exception as error:
        item.error = error
        connection.execute("ROLLBACK TO operation")
    connection.execute("RELEASE operation")


def _deliver(batch: list[_Pending]) -> None:
    for item in batch:
        if item.then is not None:
            try:
                item.then(item.result if item.error is None else None)
            except Exception as error:
                item.error = error
        if item.future.cancelled():
            continue
        if item.error is not None:
            item.future.set_exception(item.error)
        else:
            item.future.set_result(item.result)
