"""What a client and its job handles share: connections, policies, and the calls of the wire."""

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import to_json

from comfysnap_client import tracing
from comfysnap_client.deadline import Deadline
from comfysnap_client.downloads import Downloads
from comfysnap_client.errors import (
    ComfysnapError,
    DeadlineExceeded,
    UnexpectedResponse,
    job_error,
    job_id_of,
    with_job,
)
from comfysnap_client.polling import PollPolicy
from comfysnap_client.retry import RetryPolicy
from comfysnap_client.transport import Http, Request, job_url
from comfysnap_client.uploads import Uploads
from comfysnap_client.watch import Polled, Watches
from comfysnap_schema.base import WorkflowInput, WorkflowOutput, wire_inputs
from comfysnap_schema.wire import (
    CANCEL,
    CHECK_STATUS,
    CONTRACT,
    IDEMPOTENCY_KEY,
    INFER_ASYNC,
    READER_CONTEXT,
    JobEvent,
    JobRecord,
    JobStatus,
)

logger: logging.Logger = logging.getLogger("comfysnap_client")

O = TypeVar("O", bound=WorkflowOutput)  # noqa: E741 -- the output, as in every signature here

RESCUE_S = 5.0
"""Longest time that leaving a call spends on cancelling its job, in seconds."""
_RESCUE_RETRY = RetryPolicy(attempts=50, budget=RESCUE_S, initial=0.1, maximum=0.5)


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """Options of a job, which travel as query parameters."""

    job_timeout: float | None = None
    labels: Mapping[str, str] | None = None
    webhook: str | None = None
    previews: bool = False
    idempotency_key: str | None = None

    def params(self) -> tuple[tuple[str, str], ...]:
        """As the gateway reads them."""
        given: list[tuple[str, str]] = []
        if self.job_timeout is not None:
            given.append(("timeout", f"{self.job_timeout:.3f}"))
        if self.webhook is not None:
            given.append(("webhook", self.webhook))
        if self.previews:
            given.append(("previews", "true"))
        given.extend(("label", f"{key}:{value}") for key, value in (self.labels or {}).items())
        return tuple(given)


class Session:
    """The calls of the wire, with what makes them safe to use."""

    def __init__(
        self, http: Http, *, polling: PollPolicy, poll_slots: int, cancel_on_timeout: bool
    ) -> None:
        self.http = http
        self.polling = polling
        self.cancel_on_timeout = cancel_on_timeout
        self.downloads: Downloads = Downloads(http)
        self._uploads = Uploads(http)
        self._watches = Watches(self.poll, polling, slots=poll_slots)
        self._rescues: set[asyncio.Task[str | None]] = set()

    async def aclose(self) -> None:
        """Let rescues under way end (they are bounded), then close the connections."""
        if self._rescues:
            await asyncio.wait(self._rescues)
        await self.http.aclose()

    async def status(self, job_id: str, deadline: Deadline) -> JobRecord:
        """The job as it is now."""
        request = Request(method="GET", url=job_url(CHECK_STATUS, job_id), job_id=job_id)
        return (await self.http.send(request, deadline=deadline)).parse(JobRecord)

    async def poll(self, job_id: str, *, hold: float, after: int | None) -> Polled:
        """One status request that the server may hold; the caller handles its losses."""
        params: tuple[tuple[str, str], ...] = ()
        if hold:
            params = (("wait", f"{hold:.3f}"),)
            if after is not None:
                params += (("after", str(after)),)
        request = Request(
            method="GET", url=job_url(CHECK_STATUS, job_id), params=params, hold=hold, job_id=job_id
        )
        answer = await self.http.once(request)
        return answer.parse(JobRecord), answer.pace

    async def cancel(self, job_id: str, deadline: Deadline) -> JobRecord:
        """Ask for the job to stop."""
        return await self._cancel(job_id, deadline, None)

    async def _cancel(
        self, job_id: str, deadline: Deadline, retry: RetryPolicy | None
    ) -> JobRecord:
        request = Request(method="POST", url=job_url(CANCEL, job_id), job_id=job_id)
        return (await self.http.send(request, deadline=deadline, retry=retry)).parse(JobRecord)

    async def submit(
        self,
        inputs: WorkflowInput[Any],
        options: SubmitOptions,
        deadline: Deadline,
        *,
        cancel: bool,
    ) -> JobRecord:
        """Submit under one idempotency key for all attempts.

        When the caller leaves before the answer came, the submit is replayed with its key to learn
        the job's id, and that job is cancelled, unless ``cancel`` is off.
        """
        key = options.idempotency_key or uuid.uuid4().hex
        workflow = inputs.__workflow__
        body = await self._uploads.wire(wire_inputs(inputs), deadline)
        headers = {IDEMPOTENCY_KEY: key, "Content-Type": "application/json"}
        if contract := getattr(inputs, "__contract__", ""):
            headers[CONTRACT] = contract
        tracing.propagate(headers)
        request = Request(
            method="POST", url=f"{INFER_ASYNC[1:]}/{workflow}", params=options.params(),
            headers=headers, content=to_json(body),
        )  # fmt: skip
        try:
            record = (await self.http.send(request, deadline=deadline)).parse(JobRecord)
        except (DeadlineExceeded, asyncio.CancelledError) as error:
            if isinstance(error, ComfysnapError):
                error.idempotency_key = key
            if cancel and request.sent:
                job_id = await self._rescue(lambda limit: self._undo(request, limit))
                if job_id is not None:
                    with_job(error, job_id)
            raise
        except ComfysnapError as error:
            error.idempotency_key = key
            raise
        tracing.annotate(job_id=record.id)
        logger.debug("job %s: %s of %s", record.id, record.status, workflow,
                     extra={"job_id": record.id})  # fmt: skip
        return record

    async def wait(
        self,
        job_id: str,
        deadline: Deadline,
        *,
        cancel: bool,
        seen: Callable[[JobRecord], None],
    ) -> JobRecord:
        """Wait for the final record; the last waiter that leaves early cancels the job."""
        last: JobRecord | None = None

        def keep(record: JobRecord) -> None:
            nonlocal last
            last = record
            seen(record)

        try:
            return await self._watches.final(job_id, deadline, keep)
        except (DeadlineExceeded, asyncio.CancelledError) as error:
            with_job(error, job_id, last)
            if cancel and not self._watches.watched(job_id):
                await self.abandon(job_id)
            raise

    async def abandon(self, job_id: str) -> None:
        """Cancel a job that nobody waits for any more: shielded, bounded, never raising."""

        async def stop(limit: Deadline) -> str:
            return (await self._cancel(job_id, limit, _RESCUE_RETRY)).id

        await self._rescue(stop)

    def events(self, job_id: str) -> AsyncGenerator[JobEvent]:
        """The job's events until ``done``."""
        from comfysnap_client.events import follow  # not everyone follows

        return follow(self.http, self.poll, self.polling, job_id)

    def outcome(self, record: JobRecord, output: type[O]) -> O:
        """The typed outputs of a final job.

        Raises:
            JobError: It did not succeed.
            UnexpectedResponse: The outputs are not those of ``output``.
        """
        if record.status != JobStatus.SUCCEEDED:
            raise job_error(record)
        try:
            return output.model_validate(
                record.outputs or {}, context={READER_CONTEXT: self.downloads}
            )
        except ValidationError as error:
            raise UnexpectedResponse(
                f"the outputs do not fit {output.__name__}: generate the models again",
                record=record,
            ) from error

    async def _undo(self, submit: Request, limit: Deadline) -> str:
        """Learn the id of a submit whose answer was lost, and cancel that job."""
        answer = await self.http.send(submit, deadline=limit, retry=_RESCUE_RETRY)
        record = answer.parse(JobRecord)
        if not record.is_final:
            await self._cancel(record.id, limit, _RESCUE_RETRY)
        return record.id

    async def _rescue(self, work: Callable[[Deadline], Awaitable[str]]) -> str | None:
        """Finish ``work`` although the calling task is being cancelled; it goes on in the
        background, within its own bound, when the caller is cancelled again."""

        async def bounded() -> str | None:
            try:
                return await work(Deadline.after(RESCUE_S))
            except Exception as error:  # the reason why the caller leaves must come through
                job_id = job_id_of(error)
                logger.warning("job %s was given up, cancelling it failed: %s", job_id, error,
                               extra={"job_id": job_id})  # fmt: skip
                return job_id

        task = asyncio.create_task(bounded(), name="comfysnap rescue")
        self._rescues.add(task)
        task.add_done_callback(self._rescues.discard)
        return await asyncio.shield(task)
