"""The one thread that writes the job store, many transactions to a disk flush."""

import asyncio
import queue
import sqlite3
import threading
from collections import deque
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
        self._waiting: deque[_Pending] = deque()
        self._calls: queue.SimpleQueue[bool] = queue.SimpleQueue()
        """Operations wait; false: and no others will."""
        self._called = False
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
            operation: What to do. It may be done again from the start when another one fails.
            durable: Whether it has to survive a power cut.
            then: Called with its result in the loop, also when nobody waits any more; None: it
                failed.

        Returns:
            A future with what ``operation`` returned or raised, done after the commit; a failed
            commit is a ``StorageError``. Cancelling it does not undo the operation.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append(_Pending(operation, durable, loop, future, then))
        if not self._called:
            self._called = True
            # Not at once: two threads that both want to run Python cost each other half their
            # time, and the loop has more for the same commit.
            loop.call_soon(self._call)
        return future

    def _call(self) -> None:
        self._called = False
        self._calls.put(True)

    def close(self) -> None:
        """Write what is queued, then close the connection."""
        self._calls.put(False)
        self._thread.join()
        self._connection.close()

    def _work(self) -> None:
        more = True
        while more:
            more = self._calls.get()
            while self._commit_next():
                pass

    def _commit_next(self) -> bool:
        """Commit what waits; false when nothing does. Keeps nothing of it, which may be large."""
        batch: list[_Pending] = []
        while self._waiting and len(batch) < _MOST:
            batch.append(self._waiting.popleft())
        if not batch:
            return False
        self._commit(batch)
        batch[0].loop.call_soon_threadsafe(_deliver, batch)
        return True

    def _commit(self, batch: list[_Pending]) -> None:
        connection = self._connection
        try:
            self._set_flushing(any(item.durable for item in batch))
            while not _run_all(connection, [item for item in batch if item.error is None]):
                pass
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


def _run_all(connection: sqlite3.Connection, batch: list[_Pending]) -> bool:
    """Commit the operations, but for those that fail; false when one has failed that had changed
    something, and nothing is committed. Rare enough that no savepoint surrounds each."""
    connection.execute("BEGIN IMMEDIATE")
    for item in batch:
        changes = connection.total_changes
        try:
            item.result = item.operation(connection)
        except sqlite3.OperationalError:
            raise
        except Exception as error:
            item.error = error
            if connection.total_changes != changes:
                connection.execute("ROLLBACK")
                return False
    connection.execute("COMMIT")
    return True


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
