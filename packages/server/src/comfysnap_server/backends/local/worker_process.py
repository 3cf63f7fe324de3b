"""The server's side of one worker process."""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from comfysnap_server.backends.local.channel import (
    WORKER_MESSAGE,
    DoneMessage,
    FailedMessage,
    InterruptOrder,
    OutputMessage,
    PreviewMessage,
    ProgressMessage,
    ReadyMessage,
    RunOrder,
    StartedMessage,
    WorkerMessage,
    frame,
    read_message,
)
from comfysnap_server.errors import ComfysnapServerError
from comfysnap_server.jobs import Outcome

logger = logging.getLogger(__name__)

_EXIT_CODE_WAIT_S: Final = 0.25
_EXIT_WAIT_S: Final = 5.0
TAKE_PATIENCE_S: Final = 30.0
"""A worker that says nothing of its job for so long hangs."""

OnMessage = Callable[[ProgressMessage | PreviewMessage | OutputMessage], None]


class WorkerLostError(ComfysnapServerError):
    """The worker process died; the message says how, ``had_job`` whether it began the job."""

    def __init__(self, reason: str, *, had_job: bool) -> None:
        self.had_job = had_job
        super().__init__(reason)


class WorkerStartError(ComfysnapServerError):
    """No worker could be started; the message says why."""


def boot_ticks() -> int:
    """Now, as /proc counts the start of a process; 0 where that is not known."""
    if sys.platform != "linux":
        return 0
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


@dataclass(frozen=True, kw_only=True)
class StartTimings:
    """How a worker came to be."""

    load: float
    """Seconds that the engine took to load, in this process or the one it was forked from."""
    attach: float
    device: str | None
    began: float
    """Wall clock when the start began."""
    ready: float
    """Wall clock when it was ready."""
    forked: bool
    """From a parent that was warm already."""


class WorkerProcess:
    """One worker process that is ready."""

    def __init__(
        self,
        pid: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        end_strays: Callable[[int], Awaitable[None]],
    ) -> None:
        self.pid = pid
        self.end_strays = end_strays
        """Ends what this worker, alive or dead, started since that tick of ``boot_ticks``, whatever
        became of its parents and sessions; returns when it is gone."""
        self.start: StartTimings
        self.jobs = 0
        self.lost = asyncio.Event()
        self.reason = "it ended"
        self._killed = False
        self._reader = reader
        self._writer = writer
        self._on_message: OnMessage | None = None
        self._began = False
        self._done: asyncio.Future[Outcome] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._exited = asyncio.Event()

    async def ready(self) -> tuple[float, str | None]:
        """Wait for the engine to be attached; the seconds that took, and the device.

        Raises:
            WorkerStartError: It could not be attached.
        """
        message = await read_message(self._reader, WORKER_MESSAGE)
        if isinstance(message, FailedMessage):
            raise WorkerStartError(message.detail)
        if not isinstance(message, ReadyMessage):
            raise WorkerStartError("the worker ended before it was ready")
        self._listening = asyncio.create_task(self._listen(), name="worker-listener")
        return message.attach, message.device

    async def run(self, order: RunOrder, on_message: OnMessage) -> Outcome:
        """Run one job.

        Raises:
            WorkerLostError: The process died.
        """
        self.jobs += 1
        self._on_message = on_message
        self._began = False
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        taking: asyncio.TimerHandle | None = None
        try:
            if self.lost.is_set():
                raise WorkerLostError(self.reason, had_job=False)
            self._writer.write(frame(order))
            taking = loop.call_later(TAKE_PATIENCE_S, self._check_began)
            return await self._done
        finally:
            if taking is not None:
                taking.cancel()
            self._on_message = self._done = None

    def _check_began(self) -> None:
        if not self._began:
            self.kill()
            self.reason = "it did not take the job"

    def interrupt(self, job_id: str) -> None:
        """Ask the engine to stop a job."""
        self._writer.write(frame(InterruptOrder(job_id=job_id)))

    def kill(self) -> None:
        """End the process and what it started, now; it takes no further job."""
        self._killed, self.reason = True, "the server ended it"
        with suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._died()

    def exited(self, reason: str) -> None:
        """The process is gone, and this is how."""
        if not self._killed:
            self.reason = reason
        self._exited.set()
        self._died()

    def _died(self) -> None:
        self.lost.set()
        if self._done is not None and not self._done.done():
            self._done.set_exception(WorkerLostError(self.reason, had_job=self._began))

    async def close(self) -> None:
        """Close the channel, which ends the process, and wait for its end."""
        self._writer.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_WAIT_S):
                await self._exited.wait()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _listen(self) -> None:
        while (message := await read_message(self._reader, WORKER_MESSAGE)) is not None:
            self._take(message)
        with suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_CODE_WAIT_S):
                await self._exited.wait()
        self._died()

    def _take(self, message: WorkerMessage) -> None:
        match message:
            case StartedMessage():
                self._began = True
            case DoneMessage():
                if self._done is not None and not self._done.done():
                    self._done.set_result(message.outcome)
            case ProgressMessage() | PreviewMessage() | OutputMessage():
                if self._on_message is not None:
                    self._on_message(message)
            case _:
                logger.error("worker %s sent %s out of turn", self.pid, message.op)
