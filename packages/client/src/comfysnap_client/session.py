"""The calls of the API, shared by a client and its job handles."""

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from comfysnap_client import requests
from comfysnap_client.downloads import Downloads
from comfysnap_client.dynamic import JobOutput, typed
from comfysnap_client.errors import (
    ComfysnapError,
    DeadlineExceeded,
    UnexpectedResponse,
    job_error,
    job_id_of,
    with_job,
)
from comfysnap_client.polling import LongPolls, Polled, PollPolicy
from comfysnap_client.retry import NO_RETRY, Deadline, RetryPolicy
from comfysnap_client.transport import Transport
from comfysnap_client.uploads import Uploads
from comfysnap_schema.base import WorkflowInput, WorkflowOutput, wire_inputs
from comfysnap_schema.wire import (
    READER_CONTEXT,
    JobEvent,
    JobRecord,
    JobStatus,
    Link,
    NamedOutput,
    OutputFile,
    Progress,
    SubmitOptions,
)

logger: logging.Logger = logging.getLogger("comfysnap_client")

ModelT = TypeVar("ModelT", bound=BaseModel)
OutputT = TypeVar("OutputT", bound=WorkflowOutput)

OnProgress = Callable[[Progress], object]
"""Called whenever a job's progress changes; must not block. Its exceptions are logged."""

CLEANUP_S = 5.0
"""Maximum seconds for cancelling the job of a call that ends early."""
_CLEANUP_RETRY = RetryPolicy(attempts=50, budget=CLEANUP_S, initial=0.1, maximum=0.5)


def submit_options(
    *, job_timeout: float | None, labels: Mapping[str, str] | None, **options: Any
) -> SubmitOptions:
    """The options of a job, which the server validates."""
    label = [f"{key}:{value}" for key, value in (labels or {}).items()]
    return SubmitOptions.model_construct(timeout=job_timeout, label=label, **options)


class Session:
    """The calls of the API, and the cleanup of those that end early."""

    def __init__(
        self,
        transport: Transport,
        *,
        polling: PollPolicy,
        poll_slots: int,
        cancel_on_timeout: bool,
    ) -> None:
        self.cancel_on_timeout = cancel_on_timeout
        self.downloads: Downloads = Downloads(transport)
        self._transport = transport
        self._polling = polling
        self._uploads = Uploads(transport)
        self._polls = LongPolls(self._poll, polling, slots=poll_slots)
        self._cleanups: set[asyncio.Task[str | None]] = set()

    async def aclose(self) -> None:
        """Wait for cleanups in progress, which are bounded, then close the connections."""
        if self._cleanups:
            await asyncio.wait(self._cleanups)
        await self._transport.aclose()

    async def call(
        self,
        request: requests.Request,
        model: type[ModelT],
        deadline: Deadline,
        *,
        retry: RetryPolicy | None = None,
    ) -> ModelT:
        """Send a request and parse the response."""
        return (await self._transport.send(request, deadline, retry=retry)).parse(model)

    async def submit(
        self,
        inputs: WorkflowInput[Any],
        options: SubmitOptions,
        deadline: Deadline,
        *,
        idempotency_key: str | None,
        cancel_on_timeout: bool | None,
    ) -> JobRecord:
        """Submit a job, with one idempotency key for all attempts.

        If the call ends before the response arrives, the submit is repeated with the same key to
        learn the job's ID, and that job is cancelled unless ``cancel_on_timeout`` is False.
        """
        key = idempotency_key or uuid.uuid4().hex
        body = await self._uploads.wire(wire_inputs(inputs), deadline)
        request = requests.submit(
            inputs.__workflow__, getattr(inputs, "__contract__", ""), to_json(body),
            idempotency_key=key, params=options.params(),
        )  # fmt: skip
        try:
            record = await self.call(request, JobRecord, deadline)
        except (DeadlineExceeded, asyncio.CancelledError) as error:
            if isinstance(error, ComfysnapError):
                error.idempotency_key = key
            if self._cancels(cancel_on_timeout) and request.sent:
                job_id = await self._clean_up(lambda limit: self._undo(request, limit))
                if job_id is not None:
                    with_job(error, job_id)
            raise
        except ComfysnapError as error:
            error.idempotency_key = key
            raise
        logger.debug("job %s: %s of %s", record.id, record.status, record.workflow,
                     extra={"job_id": record.id})  # fmt: skip
        return record

    async def wait(
        self,
        job_id: str,
        deadline: Deadline,
        *,
        known: JobRecord | None,
        cancel_on_timeout: bool | None,
        on_record: Callable[[JobRecord], None] | None = None,
        on_progress: OnProgress | None = None,
    ) -> JobRecord:
        """Wait for the final record; the last waiter that ends early cancels the job.

        Args:
            job_id: ID of the job.
            deadline: When to stop waiting.
            known: The last known state of the job.
            cancel_on_timeout: Whether to cancel the job. None uses the client's default.
            on_record: Called with each new record.
            on_progress: Called whenever the progress changes.
        """
        last = known
        shown: Progress | None = None

        def report(record: JobRecord) -> None:
            nonlocal last, shown
            last = record
            if on_record is not None:
                on_record(record)
            if on_progress is not None and record.progress != shown:
                shown = record.progress
                try:
                    on_progress(record.progress)
                except Exception:  # a broken callback must not end the wait
                    logger.exception("job %s: on_progress failed", job_id,
                                     extra={"job_id": job_id})  # fmt: skip

        if known is not None:
            report(known)
            if known.is_final:
                return known
        try:
            return await self._polls.wait(
                job_id, deadline, report,
                after=known.version if known else None, changes=on_progress is not None,
            )  # fmt: skip
        except (DeadlineExceeded, asyncio.CancelledError) as error:
            with_job(error, job_id, last)
            if self._cancels(cancel_on_timeout) and not self._polls.is_awaited(job_id):
                await self._clean_up(lambda limit: self._abandon(job_id, limit))
            raise

    async def link(
        self, job_id: str, output: OutputFile | str | None, expires_in: int, deadline: Deadline
    ) -> str:
        """The URL of a link; see ``Client.link``."""
        name = output.name if isinstance(output, OutputFile) else output
        made = await self.call(requests.link(job_id, name, expires_in), Link, deadline)
        return str(self._transport.base.join(made.url.lstrip("/")))

    def events(self, job_id: str) -> AsyncGenerator[JobEvent]:
        """The job's events until ``done``."""
        from comfysnap_client.events import follow  # keeps the import of Client fast

        return follow(self._transport, self._polls, self._polling, job_id)

    def outcome(self, record: JobRecord, output: type[OutputT]) -> OutputT:
        """Return the typed outputs of a final job.

        Raises:
            JobError: The job did not succeed.
            UnexpectedResponse: The outputs are not valid for ``output``.
        """
        if record.status != JobStatus.SUCCEEDED:
            raise job_error(record)
        try:
            return output.model_validate(
                record.outputs or {}, context={READER_CONTEXT: self.downloads}
            )
        except ValidationError as error:
            raise UnexpectedResponse(
                f"the outputs are not valid for {output.__name__}; "
                "run `comfysnap generate` to update the models",
                record=record,
            ) from error

    def job_output(self, output: NamedOutput) -> JobOutput:
        """Return one output, with its files bound to this client.

        Raises:
            UnexpectedResponse: A file of it is not valid.
        """
        try:
            value = typed(output.value, {READER_CONTEXT: self.downloads})
        except ValidationError as error:
            raise UnexpectedResponse(f"the output {output.name!r} is not valid") from error
        return JobOutput(output.name, value)

    async def _poll(self, job_id: str, *, hold: float, after: int | None) -> Polled:
        """Send one status request, which the server may hold; the caller handles its failures."""
        request = requests.status(job_id, hold=hold, after=after)
        reply = await self._transport.send(request, retry=NO_RETRY)
        return reply.parse(JobRecord), reply.retry_after

    def _cancels(self, cancel_on_timeout: bool | None) -> bool:
        return self.cancel_on_timeout if cancel_on_timeout is None else cancel_on_timeout

    async def _abandon(self, job_id: str, limit: Deadline) -> str:
        """Cancel a job that nobody waits for."""
        await self.call(requests.cancel(job_id), JobRecord, limit, retry=_CLEANUP_RETRY)
        return job_id

    async def _undo(self, submit: requests.Request, limit: Deadline) -> str:
        """Learn the ID of a job whose submit had no response, and cancel the job."""
        record = await self.call(submit, JobRecord, limit, retry=_CLEANUP_RETRY)
        return record.id if record.is_final else await self._abandon(record.id, limit)

    async def _clean_up(self, work: Callable[[Deadline], Awaitable[str]]) -> str | None:
        """Finish ``work`` although the calling task is being cancelled.

        If the caller is cancelled again, the work continues in the background, within its limit.
        """

        async def bounded() -> str | None:
            try:
                return await work(Deadline.after(CLEANUP_S))
            except Exception as error:  # must not hide the error that ended the call
                job_id = job_id_of(error)
                logger.warning("job %s: cancelling the abandoned job failed: %s", job_id, error,
                               extra={"job_id": job_id})  # fmt: skip
                return job_id

        task = asyncio.create_task(bounded(), name="comfysnap cleanup")
        self._cleanups.add(task)
        task.add_done_callback(self._cleanups.discard)
        return await asyncio.shield(task)
