"""The handle of a job."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Generic, TypeVar

from comfysnap_client import tracing
from comfysnap_client.deadline import Deadline
from comfysnap_client.session import Session
from comfysnap_schema.base import WorkflowOutput
from comfysnap_schema.wire import JobEvent, JobRecord, Progress

O_co = TypeVar("O_co", bound=WorkflowOutput, covariant=True)

OnProgress = Callable[[Progress], object]
"""Called with each change of a job's progress; returns at once. What it raises is logged."""


class Job(Generic[O_co]):
    """A job on the server, made by ``Client.infer_async`` or ``Client.job``.

    Attributes:
        id: The job's id; ``client.job(id, OutputType)`` makes the handle again after a restart.
        record: The job as this handle last saw it; None before the first answer.
    """

    def __init__(
        self,
        session: Session,
        job_id: str,
        output: type[O_co],
        *,
        timeout: float,
        record: JobRecord | None = None,
    ) -> None:
        self.id = job_id
        self.record = record
        self._session = session
        self._output = output
        self._timeout = timeout

    def __repr__(self) -> str:
        """``<Job job_... running>``."""
        return f"<Job {self.id} {self.record.status if self.record else 'not asked yet'}>"

    async def status(self, *, timeout: float | None = None) -> JobRecord:
        """Ask for the job as it is now.

        Args:
            timeout: Seconds for the call, retries included; None: the client's.

        Raises:
            NotFound: The server knows no such job for this key.
            ComfysnapError: No answer in time, or a refusal.
        """
        self._see(await self._session.status(self.id, self._deadline(timeout)))
        assert self.record is not None  # noqa: S101 -- _see has just set it
        return self.record

    async def wait(
        self,
        *,
        timeout: float | None = None,
        cancel_on_timeout: bool | None = None,
        on_progress: OnProgress | None = None,
    ) -> JobRecord:
        """Wait for the final record, whatever it is; ``result`` raises when it is no success.

        Args: as for ``result``.

        Raises:
            DeadlineExceeded: ``timeout`` passed.
            NotFound: The server knows no such job for this key.
            ComfysnapError: The server refused to tell.
        """
        if self.record is not None and self.record.is_final:
            if on_progress is not None:  # called by the loop, which logs what it raises
                asyncio.get_running_loop().call_soon(on_progress, self.record.progress)
                await asyncio.sleep(0)
            return self.record
        cancel = self._session.cancel_on_timeout if cancel_on_timeout is None else cancel_on_timeout
        deadline = self._deadline(timeout)
        pump = asyncio.create_task(self._pump(on_progress)) if on_progress else None
        try:
            with tracing.span("wait", job_id=self.id):
                record = await self._session.wait(self.id, deadline, cancel=cancel, seen=self._see)
            if pump is not None:
                await asyncio.wait({pump}, timeout=PUMP_GRACE_S)
        finally:
            if pump is not None:
                pump.cancel()
                await asyncio.wait({pump})
        return record

    async def result(
        self,
        *,
        timeout: float | None = None,
        cancel_on_timeout: bool | None = None,
        on_progress: OnProgress | None = None,
    ) -> O_co:
        """Wait for the job and return its outputs; many tasks may wait, the server is polled once.

        Args:
            timeout: Seconds to wait; None: the client's; ``math.inf``: no limit.
            cancel_on_timeout: Whether the job is cancelled when ``timeout`` passes or the calling
                task is cancelled, unless others still wait for it; None: the client's.
            on_progress: Called with each change of the progress.

        Raises:
            JobError: The job failed, was cancelled, timed out or expired.
            DeadlineExceeded: ``timeout`` passed; it carries the id and the last record.
            ComfysnapError: The server refused to tell.
        """
        record = await self.wait(
            timeout=timeout, cancel_on_timeout=cancel_on_timeout, on_progress=on_progress
        )
        return self._session.outcome(record, self._output)

    async def cancel(self, *, timeout: float | None = None) -> JobRecord:
        """Ask for the job to stop: a request, not a guarantee; finishing first may win.

        Args:
            timeout: Seconds for the call, retries included; None: the client's.

        Raises:
            NotFound: The server knows no such job for this key.
            ComfysnapError: No answer in time, or a refusal.
        """
        record = await self._session.cancel(self.id, self._deadline(timeout))
        self._see(record)
        return record

    async def events(self) -> AsyncGenerator[JobEvent]:
        """The job's events until ``done``: status, progress, previews; reconnects by itself.

        Previews come when the job was submitted with ``previews=True``. States, not history: what
        passed between two connections is told by the present state.

        Raises:
            NotFound: The server knows no such job for this key.
            ComfysnapError: The server refused to tell.
        """
        async with aclosing(self._session.events(self.id)) as events:
            async for event in events:
                if event.job is not None:
                    self._see(event.job)
                yield event

    async def _pump(self, on_progress: OnProgress) -> None:
        """Feed the callback; the wait itself does not depend on it."""
        async with aclosing(self.events()) as events:
            async for event in events:
                if event.progress is not None:
                    on_progress(event.progress)

    def _see(self, record: JobRecord) -> None:
        if self.record is None or record.version >= self.record.version:
            self.record = record

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline.after(self._timeout if timeout is None else timeout)


PUMP_GRACE_S = 1.0
"""Seconds that a finished wait leaves the event stream to tell its last progress."""
