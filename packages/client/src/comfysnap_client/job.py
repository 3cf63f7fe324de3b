"""The handle of a job."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Generic, TypeVar

from comfysnap_client import requests
from comfysnap_client.dynamic import JobOutput
from comfysnap_client.errors import job_error
from comfysnap_client.retry import Deadline
from comfysnap_client.session import OnProgress, Session
from comfysnap_schema.base import WorkflowOutput
from comfysnap_schema.wire import DEFAULT_LINK_S, JobEvent, JobRecord, JobStatus, OutputFile

OutputT_co = TypeVar("OutputT_co", bound=WorkflowOutput, covariant=True)


class Job(Generic[OutputT_co]):
    """A job on the server, returned by ``Client.infer_async`` and ``Client.job``::

        job = await client.infer_async(FluxInput(prompt="a fox"))
        print(job.id)

    Calls take a ``timeout`` and raise ``ComfysnapError`` as those of ``Client``.

    Attributes:
        id: The job's ID; ``client.job(id, OutputType)`` returns a handle again after a restart.
        record: The last known state of the job, or None before the first response.
    """

    def __init__(
        self,
        session: Session,
        job_id: str,
        output: type[OutputT_co],
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
        return f"<Job {self.id} {self.record.status if self.record else 'not requested yet'}>"

    async def status(self, *, timeout: float | None = None) -> JobRecord:
        """Return the current state of the job.

        Raises:
            NotFound: Unknown job, or one of another API key.

        Example::

            print((await job.status()).progress.fraction)
        """
        request = requests.status(self.id)
        record = await self._session.call(request, JobRecord, self._deadline(timeout))
        self._update(record)
        return self.record or record

    async def wait(
        self,
        *,
        timeout: float | None = None,
        cancel_on_timeout: bool | None = None,
        on_progress: OnProgress | None = None,
    ) -> JobRecord:
        """Wait for the final record, without raising if the job did not succeed.

        Arguments and errors are those of ``result``, except ``JobError``.

        Example::

            record = await job.wait(timeout=60)
        """
        return await self._session.wait(
            self.id, self._deadline(timeout), known=self.record,
            cancel_on_timeout=cancel_on_timeout, on_record=self._update, on_progress=on_progress,
        )  # fmt: skip

    async def result(
        self,
        *,
        timeout: float | None = None,
        cancel_on_timeout: bool | None = None,
        on_progress: OnProgress | None = None,
    ) -> OutputT_co:
        """Wait for the job and return its outputs.

        Any number of tasks may wait for a job; they share one poll.

        Args:
            timeout: Seconds to wait. None uses the client's; ``math.inf`` means no limit.
            cancel_on_timeout: Whether the job is cancelled when ``timeout`` passes or the calling
                task is cancelled, unless other tasks still wait for it. None uses the client's.
            on_progress: Called whenever the progress changes.

        Raises:
            JobError: The job failed, was cancelled, timed out or expired.
            DeadlineExceeded: ``timeout`` passed; the error carries the last known state.
            ComfysnapError: The request failed.

        Example::

            output = await job.result(on_progress=lambda p: print(f"{p.fraction:.0%}"))
        """
        record = await self.wait(
            timeout=timeout, cancel_on_timeout=cancel_on_timeout, on_progress=on_progress
        )
        return self._session.outcome(record, self._output)

    async def cancel(self, *, timeout: float | None = None) -> JobRecord:
        """Request cancellation of the job; it may still finish first.

        Raises:
            NotFound: Unknown job, or one of another API key.

        Example::

            record = await job.cancel()
        """
        request = requests.cancel(self.id)
        record = await self._session.call(request, JobRecord, self._deadline(timeout))
        self._update(record)
        return record

    async def link(
        self,
        output: OutputFile | str | None = None,
        *,
        expires_in: int = DEFAULT_LINK_S,
        timeout: float | None = None,
    ) -> str:
        """Return a URL that opens one output, or the events, of the job without a key.

        Arguments and errors are those of ``Client.link``.

        Example::

            url = await job.link(output.images[0], expires_in=60)
        """
        return await self._session.link(self.id, output, expires_in, self._deadline(timeout))

    async def events(self) -> AsyncGenerator[JobEvent]:
        """Iterate over the job's events until ``done``, reconnecting as needed.

        The events are status changes, progress, outputs as they are complete, and previews if the
        job was submitted with ``previews=True``. What changed while disconnected is summed up by
        the current state.

        Raises:
            NotFound: Unknown job, or one of another API key.
            ComfysnapError: The request failed.

        Example::

            async for event in job.events():
                if event.progress is not None:
                    print(f"{event.progress.fraction:.0%}")
        """
        async with aclosing(self._session.events(self.id)) as events:
            async for event in events:
                if event.job is not None:
                    self._update(event.job)
                yield event

    async def outputs(self) -> AsyncGenerator[JobOutput]:
        """Iterate over the job's outputs, each as soon as it is complete, reconnecting as needed.

        An output comes once; again only if the job had to start over and made a different one.
        Those of a finished job come at once, in the order of the workflow.

        Raises:
            JobError: The job did not succeed; the outputs that it completed came before.
            NotFound: Unknown job, or one of another API key.
            ComfysnapError: The request failed.

        Example::

            async for output in job.outputs():
                for file in output.files:
                    await file.save("out")
        """
        async with aclosing(self.events()) as events:
            async for event in events:
                if event.output is not None:
                    yield self._session.job_output(event.output)
        if self.record is not None and self.record.status != JobStatus.SUCCEEDED:
            raise job_error(self.record)

    def _update(self, record: JobRecord) -> None:
        if self.record is None or record.version >= self.record.version:
            self.record = record

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline.after(self._timeout if timeout is None else timeout)
