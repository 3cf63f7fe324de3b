"""Keeps one worker ready: starts it, and another one when it is lost."""

import asyncio
import logging
import time
from typing import Final

from comfysnap_server.backends.local.fork_client import ForkServers
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
    """One worker of a server. ``start`` returns at once; ``worker`` waits for one.

    Args:
        fork_servers: Where it comes from.
        gpu: Index of the only GPU that it sees; None: all.
    """

    def __init__(self, fork_servers: ForkServers, gpu: int | None = None) -> None:
        self._fork_servers = fork_servers
        self._gpu = gpu
        self._worker: WorkerProcess | None = None
        self._ready = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._failures = 0
        self.started = False
        """Whether a worker was ever ready."""
        self._starting_since = time.monotonic()
        self.failure: str | None = None
        """Why the last start failed; None while all is well."""

    def start(self) -> None:
        """Begin to keep a worker."""
        self._keeper = asyncio.create_task(self._keep(), name="worker-keeper")

    @property
    def why_unhealthy(self) -> str | None:
        """Why no worker is there or about to be; None when there is."""
        if self._ready.is_set():
            return None
        if not self._fork_servers.loaded:
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
        """End the worker; none comes after it."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._worker is not None:
            if not self._worker.lost.is_set():
                self._worker.kill()
            await self._worker.close()

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)])
            self._starting_since = time.monotonic()
            try:
                self._worker = await self._fork_servers.spawn(self._gpu)
            except WorkerStartError as error:
                self._failures += 1
                self.failure = str(error)
                logger.error("no worker could be started%s: %s", self._where, error)  # noqa: TRY400 -- the worker logged its own traceback
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
            logger.warning(
                "worker %s%s is lost: %s", self._worker.pid, self._where, self._worker.reason
            )

    @property
    def _where(self) -> str:
        return "" if self._gpu is None else f" on GPU {self._gpu}"
