"""``Client``: the public async API."""

import math
import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, Unpack, overload

import httpx
from pydantic import RootModel

from comfysnap_client import requests
from comfysnap_client.job import Job
from comfysnap_client.polling import PollPolicy
from comfysnap_client.retry import Deadline, RetryPolicy
from comfysnap_client.session import OnProgress, Session, submit_options
from comfysnap_client.transport import Transport, checked_url, credentials
from comfysnap_schema.base import WorkflowInput, WorkflowOutput, output_type
from comfysnap_schema.wire import (
    DEFAULT_LINK_S,
    JobPage,
    JobRecord,
    JobStatus,
    Limits,
    OutputFile,
    WorkflowDetail,
    WorkflowSummary,
)

if TYPE_CHECKING:
    from comfysnap_client.dynamic import UntypedOutput
    from comfysnap_client.mapping import MapResult

OutputT = TypeVar("OutputT", bound=WorkflowOutput)

DEFAULT_TIMEOUT_S = 600.0


class _Workflows(RootModel[list[WorkflowSummary]], defer_build=True):
    """``GET /workflows``."""


class ClientOptions(TypedDict, total=False):
    """The keyword arguments of ``Client``, where they are documented."""

    api_key: str | None
    modal_key: str | None
    modal_secret: str | None
    timeout: float
    connect_timeout: float
    read_timeout: float
    max_connections: int
    retry: RetryPolicy | None
    polling: PollPolicy | None
    cancel_on_timeout: bool
    transport: httpx.AsyncBaseTransport | None
    event_hooks: Mapping[str, list[Callable[..., Any]]] | None


class Client:
    """An async client for one comfysnap server.

    Use it as a context manager, or call ``aclose``::

        async with Client("http://127.0.0.1:8000") as client:
            output = await client.infer_sync(FluxInput(prompt="a fox"))

    Every call takes a ``timeout``: seconds for the whole call, including retries; None uses the
    client's, ``math.inf`` means no limit. Every call raises ``ComfysnapError``.

    Args:
        base_url: URL of the server, including its path prefix if it has one.
        api_key: Sent as ``Authorization: Bearer``, to this server only.
        modal_key: ID of a Modal proxy token; requires ``modal_secret``.
        modal_secret: Secret of that token.
        timeout: Default for calls that do not set their own: seconds for the whole call, including
            retries and waiting for a job. ``math.inf`` means no limit.
        connect_timeout: Seconds for establishing one connection.
        read_timeout: Seconds without data before a connection counts as broken, in addition to
            the time that the server may hold a request.
        max_connections: Maximum number of concurrent connections, at least 2. Waiting for more
            jobs than that is fine.
        retry: When and how often requests are retried. None uses ``RetryPolicy()``.
        polling: How to wait for jobs. None uses ``PollPolicy()``.
        cancel_on_timeout: Whether a job is cancelled when ``timeout`` passes or the waiting task
            is cancelled. Calls may override it.
        transport: Replaces the network, for tests: an ``httpx.AsyncBaseTransport``.
        event_hooks: Passed to httpx: ``{"request": [...], "response": [...]}``. For example, an
            async request hook that calls ``opentelemetry.propagate.inject(request.headers)``
            propagates the trace context.

    Raises:
        ValueError: An argument is not valid.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        modal_key: str | None = None,
        modal_secret: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
        max_connections: int = 100,
        retry: RetryPolicy | None = None,
        polling: PollPolicy | None = None,
        cancel_on_timeout: bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
        event_hooks: Mapping[str, list[Callable[..., Any]]] | None = None,
    ) -> None:
        self.base_url: str = checked_url(base_url)
        self.timeout = timeout
        Deadline.after(timeout)
        if max_connections < MIN_CONNECTIONS:
            raise ValueError(f"max_connections must be at least {MIN_CONNECTIONS}")
        connection = Transport(
            self.base_url,
            credentials=credentials(api_key, modal_key, modal_secret),
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            max_connections=max_connections,
            retry=retry or RetryPolicy(),
            transport=transport,
            event_hooks=event_hooks,
        )
        # Polls must not use up the connections that submits, cancels and files need.
        self._session = Session(
            connection,
            polling=polling or PollPolicy(),
            poll_slots=max(1, max_connections * 4 // 5),
            cancel_on_timeout=cancel_on_timeout,
        )

    @classmethod
    def from_env(cls, *, base_url: str | None = None, **options: Unpack[ClientOptions]) -> Self:
        """Create a client from environment variables.

        Reads ``COMFYSNAP_URL``, ``COMFYSNAP_API_KEY``, ``MODAL_KEY`` and ``MODAL_SECRET``::

            async with Client.from_env(timeout=60) as client: ...

        Args:
            base_url: Takes precedence over ``COMFYSNAP_URL``.
            options: Other arguments of ``Client``; they take precedence over the environment.

        Raises:
            ValueError: ``COMFYSNAP_URL`` is not set, or a value is not valid.
        """
        base_url = base_url or os.environ.get("COMFYSNAP_URL")
        if not base_url:
            raise ValueError("COMFYSNAP_URL is not set (for example http://127.0.0.1:8000)")
        options.setdefault("api_key", os.environ.get("COMFYSNAP_API_KEY") or None)
        options.setdefault("modal_key", os.environ.get("MODAL_KEY") or None)
        options.setdefault("modal_secret", os.environ.get("MODAL_SECRET") or None)
        return cls(base_url, **options)

    def __repr__(self) -> str:
        """The base URL, without keys."""
        return f"<Client {self.base_url}>"

    async def __aenter__(self) -> Self:
        """Return the client; connections are opened by the first call."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; see ``aclose``."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections, after at most 5 s for cancellations in progress.

        Example::

            client = Client(url)
            await client.aclose()
        """
        await self._session.aclose()

    async def infer_sync(
        self,
        inputs: WorkflowInput[OutputT],
        *,
        timeout: float | None = None,
        job_timeout: float | None = None,
        labels: Mapping[str, str] | None = None,
        webhook: str | None = None,
        idempotency_key: str | None = None,
        cancel_on_timeout: bool | None = None,
        on_progress: OnProgress | None = None,
    ) -> OutputT:
        """Run a workflow and return its outputs: submit, then wait.

        Args:
            inputs: A generated input model.
            timeout: Seconds for the whole call: uploads, retries, time in the queue and the run.
                None uses the client's; ``math.inf`` means no limit.
            job_timeout: Maximum run time on the server, in seconds. None uses ``timeout``, or the
                server's default if the job is not cancelled on timeout.
            labels: Stored with the job; ``jobs`` can filter by them.
            webhook: URL that receives the job once it ended; see ``verify_webhook``. The server
                must allow its host.
            idempotency_key: Prevents a second job if this program submits again after a restart.
            cancel_on_timeout: Whether the job is cancelled when ``timeout`` passes or the calling
                task is cancelled. None uses the client's.
            on_progress: Called whenever the progress changes.

        Raises:
            InvalidInput: The server rejected the inputs; see ``fields``.
            JobError: The job failed, was cancelled, timed out or expired.
            DeadlineExceeded: ``timeout`` passed; the error carries the job's ID.
            ComfysnapError: The server is unreachable or rejected the request.
            OSError: An input file cannot be read.

        Example::

            output = await client.infer_sync(FluxInput(prompt="a fox"), timeout=120)
            await output.images[0].save("fox.png")
        """
        if cancel_on_timeout is None:
            cancel_on_timeout = self._session.cancel_on_timeout
        seconds = self.timeout if timeout is None else timeout
        deadline = Deadline.after(seconds)
        if job_timeout is None and cancel_on_timeout and math.isfinite(seconds):
            job_timeout = seconds
        options = submit_options(job_timeout=job_timeout, labels=labels, webhook=webhook)
        record = await self._session.submit(
            inputs, options, deadline,
            idempotency_key=idempotency_key, cancel_on_timeout=cancel_on_timeout,
        )  # fmt: skip
        record = await self._session.wait(
            record.id, deadline, known=record,
            cancel_on_timeout=cancel_on_timeout, on_progress=on_progress,
        )  # fmt: skip
        return self._session.outcome(record, output_type(type(inputs)))

    async def infer_async(
        self,
        inputs: WorkflowInput[OutputT],
        *,
        timeout: float | None = None,
        job_timeout: float | None = None,
        labels: Mapping[str, str] | None = None,
        webhook: str | None = None,
        previews: bool = False,
        idempotency_key: str | None = None,
        cancel_on_timeout: bool | None = None,
    ) -> Job[OutputT]:
        """Submit a job and return its handle; other arguments are those of ``infer_sync``.

        Args:
            inputs: A generated input model.
            timeout: Seconds for the submit, including uploads and retries. None uses the client's.
            job_timeout: Maximum run time on the server, in seconds. None uses the server's.
            previews: Whether the job's events include preview frames.
            cancel_on_timeout: Whether to cancel a job that was already created when this call is
                cancelled or times out before the job's ID arrives. None uses the client's.

        Raises:
            InvalidInput: The server rejected the inputs; see ``fields``.
            OSError: An input file cannot be read.

        Example::

            job = await client.infer_async(FluxInput(prompt="a fox"))
            output = await job.result()
        """
        options = submit_options(
            job_timeout=job_timeout, labels=labels, webhook=webhook, previews=previews
        )
        record = await self._session.submit(
            inputs, options, self._deadline(timeout),
            idempotency_key=idempotency_key, cancel_on_timeout=cancel_on_timeout,
        )  # fmt: skip
        output = output_type(type(inputs))
        return Job(self._session, record.id, output, timeout=self.timeout, record=record)

    async def check_status(self, job_id: str, *, timeout: float | None = None) -> JobRecord:
        """Return the current state of a job.

        Raises:
            NotFound: Unknown job, or one of another API key.

        Example::

            record = await client.check_status(job.id)
        """
        request = requests.status(job_id)
        return await self._session.call(request, JobRecord, self._deadline(timeout))

    async def cancel(self, job_id: str, *, timeout: float | None = None) -> JobRecord:
        """Request cancellation of a job; has no effect on a job that is final.

        Raises:
            NotFound: Unknown job, or one of another API key.

        Example::

            record = await client.cancel(job.id)
        """
        request = requests.cancel(job_id)
        return await self._session.call(request, JobRecord, self._deadline(timeout))

    @overload
    def job(self, job_id: str) -> "Job[UntypedOutput]": ...
    @overload
    def job(self, job_id: str, output: type[OutputT]) -> Job[OutputT]: ...
    def job(self, job_id: str, output: type[WorkflowOutput] | None = None) -> Job[Any]:
        """Return a handle for an existing job, for example after a restart. Sends no request.

        Args:
            job_id: The ID from ``Job.id``.
            output: The generated output model. Default: untyped outputs.

        Example::

            output = await client.job(saved_id, FluxOutput).result()
        """
        if output is None:
            from comfysnap_client.dynamic import UntypedOutput

            output = UntypedOutput
        return Job(self._session, job_id, output, timeout=self.timeout)

    async def jobs(
        self,
        *,
        status: JobStatus | None = None,
        workflow: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[JobRecord]:
        """Iterate over the jobs of this API key, newest first; pages are fetched as needed.

        Args:
            status: Only jobs with this status.
            workflow: Only jobs of this workflow.
            labels: Only jobs with all of these labels.
            timeout: Seconds for each page, including retries. None uses the client's.

        Example::

            async for record in client.jobs(status=JobStatus.RUNNING):
                print(record.id)
        """
        filters = [("label", f"{key}:{value}") for key, value in (labels or {}).items()]
        if status is not None:
            filters.append(("status", status.value))
        if workflow is not None:
            filters.append(("workflow", workflow))
        cursor: str | None = None
        while True:
            request = requests.jobs(tuple(filters), cursor)
            page = await self._session.call(request, JobPage, self._deadline(timeout))
            for record in page.jobs:
                yield record
            cursor = page.cursor
            if cursor is None:
                return

    async def workflow(self, name: str, *, timeout: float | None = None) -> WorkflowDetail:
        """Return the title, contract and schemas of a workflow.

        Raises:
            NotFound: Unknown workflow.

        Example::

            contract = (await client.workflow("flux")).contract
        """
        request = requests.workflow(name)
        return await self._session.call(request, WorkflowDetail, self._deadline(timeout))

    async def workflows(self, *, timeout: float | None = None) -> list[WorkflowSummary]:
        """List the workflows of the server.

        Example: ``names = [workflow.name for workflow in await client.workflows()]``
        """
        request = requests.workflows()
        return (await self._session.call(request, _Workflows, self._deadline(timeout))).root

    async def limits(self, *, timeout: float | None = None) -> Limits:
        """Return what this API key may do, and how much of each budget is used.

        Example::

            used = (await client.limits()).budgets["max_unfinished_jobs"].used
        """
        return await self._session.call(requests.limits(), Limits, self._deadline(timeout))

    async def link(
        self,
        job_id: str,
        output: OutputFile | str | None = None,
        *,
        expires_in: int = DEFAULT_LINK_S,
        timeout: float | None = None,
    ) -> str:
        """Return a URL that opens one output, or the events, of a job without a key.

        For browsers, whose ``<img>`` and ``EventSource`` send no headers. Whoever has the URL can
        use it until it expires.

        Args:
            job_id: ID of the job.
            output: The output file, or its name. None: the event stream.
            expires_in: Seconds, 1 to 3600.
            timeout: Seconds, including retries. None uses the client's.

        Raises:
            NotFound: Unknown job, or one of another API key.
            ValueError: An argument is not valid.

        Example::

            url = await client.link(job.id, output.images[0])
        """
        deadline = self._deadline(timeout)
        return await self._session.link(job_id, output, expires_in, deadline)

    def map(
        self,
        inputs: Iterable[WorkflowInput[OutputT]] | AsyncIterable[WorkflowInput[OutputT]],
        *,
        concurrency: int = 8,
        ordered: bool = True,
        timeout: float | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> "AsyncGenerator[MapResult[OutputT]]":
        """Run many inputs concurrently; a failure is reported in its result and stops nothing.

        Inputs are read as results are consumed, at most ``2 * concurrency`` ahead of the caller.
        Leaving the iteration early cancels the running jobs, at once with
        ``contextlib.aclosing``::

            async with aclosing(client.map(inputs, concurrency=4)) as results:
                async for result in results:
                    print(result.index, result.error or result.output)

        Args:
            inputs: Generated input models, from an iterable or async iterable.
            concurrency: Maximum number of jobs in progress.
            ordered: Whether results come in the order of the inputs or as they finish.
            timeout: Seconds for each input. None uses the client's.
            labels: Stored with each job.

        Raises:
            ValueError: ``concurrency`` is less than 1.
        """

        from comfysnap_client.mapping import run_map  # keeps the import of Client fast

        async def run(one: WorkflowInput[OutputT]) -> OutputT:
            return await self.infer_sync(one, timeout=timeout, labels=labels)

        return run_map(run, inputs, concurrency=concurrency, ordered=ordered)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline.after(self.timeout if timeout is None else timeout)


MIN_CONNECTIONS = 2
"""One for polls, one for all other requests."""
