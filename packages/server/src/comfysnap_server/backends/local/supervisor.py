"""Keeps one worker ready: starts it, and another one when it is lost."""

import asyncio
import logging
import time
from typing import Final

from comfysnap_server.backends.local.fork_client import ForkServerClient, ProcessOptions
from comfysnap_server.backends.local.worker_process import WorkerProcess, WorkerStartError

logger = logging.getLogger(__name__)

_BACKOFF_S: Final = (0.0, 0.0, 1.0, 2.0, 5.0, 15.0, 30.0)
"""Before a start, by how many failed in a row."""
_SETTLED_S: Final = 5.0
"""A worker that lived this long, or ran a job, did not fail at its start."""
_FIRST_STARTS: Final = 3
"""So many failed starts, and none before that did not fail, are final."""
_START_PATIENCE_S: Final = 30.0
"""A worker that takes longer, of an engine that is loaded, may never come."""


class WorkerSupervisor:
    """The worker of a server. ``start`` returns at once; ``worker`` waits for one."""

    def __init__(self, options: ProcessOptions) -> None:
        self._options = options
        self._lock = -1
        self._parent: ForkServerClient | None = None
        self._worker: WorkerProcess | None = None
        self._ready = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._failures = 0
        self.started = False
        """Whether a worker was ever ready."""
        self._starting_since = time.monotonic()
        self.failure: str | None = None
        """Why the last start failed; None while all is well."""

    def start(self, lock: int) -> None:
        """Begin to keep a worker; the processes hold the descriptor ``lock`` open."""
        self._lock = lock
        self._keeper = asyncio.create_task(self._keep(), name="worker-keeper")

    @property
    def why_unhealthy(self) -> str | None:
        """Why no worker is there or about to be; None when there is."""
        if self._ready.is_set():
            return None
        if self._parent is None or self._parent.spawned == 0:
            return self.failure or "the engine is not loaded yet"
        if self._failures:
            return self.failure or "the workers die soon after their start"
        late = time.monotonic() - self._starting_since > _START_PATIENCE_S
        return "a worker takes long to start" if late else None

    @property
    def start_failure(self) -> str | None:
        """Why the first starts failed, all of them; None while the engine may be loaded yet."""
        return self.failure if not self.started and self._failures >= _FIRST_STARTS else None

    @property
    def thread_holders(self) -> list[str]:
        """Node packs (or threads) that keep the parent from forking; empty when it forks."""
        return self._parent.thread_holders if self._parent else []

    @property
    def present(self) -> WorkerProcess | None:
        """The worker, if there is one now."""
        return None if self._worker is None or self._worker.lost.is_set() else self._worker

    async def worker(self) -> WorkerProcess:
        """The worker, once it is ready."""
        while self._worker is None or self._worker.lost.is_set():
            self._ready.clear()
            await self._ready.wait()
        return self._worker

    async def stop(self) -> None:
        """End all processes."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._worker is not None:
            if not self._worker.lost.is_set():
                self._worker.kill()
            await self._worker.close()
        if self._parent is not None:
            await self._parent.stop()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)])
            self._starting_since = time.monotonic()
            try:
                self._worker = await self._start_one()
            except WorkerStartError as error:
                self._failures += 1
                self.failure = str(error)
                logger.error("no worker could be started: %s", error)  # noqa: TRY400 -- the worker logged its own traceback
                continue
            self.failure = None
            self.started = True
            self._ready.set()
            began = time.monotonic()
            await self._worker.lost.wait()
            self._ready.clear()
            await self._worker.close()
            settled = self._worker.jobs > 0 or time.monotonic() - began >= _SETTLED_S
            self._failures = 0 if settled else self._failures + 1
            logger.warning("worker %s is lost: %s", self._worker.pid, self._worker.reason)

    async def _start_one(self) -> WorkerProcess:
        parent = self._parent
        if parent is None or not parent.usable:
            parent = await self._replace_parent()
        return await parent.spawn()

    async def _replace_parent(self) -> ForkServerClient:
        if self._parent is not None:
            await self._parent.stop()
        # Kept from the first moment on, so that ``stop`` ends it whenever it comes.
        self._parent = parent = ForkServerClient(self._options, self._lock)
        try:
            await parent.start()
        except Exception:
            await parent.stop()
            self._parent = None
            raise
        if not parent.forks:
            logger.warning(
                "workers are started afresh instead of forked, because threads were left by: %s",
                ", ".join(parent.thread_holders),
            )
        return parent
