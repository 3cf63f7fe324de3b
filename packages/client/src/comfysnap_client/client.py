"""The client."""

import math
import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, Unpack, overload

import httpx

from comfysnap_client import tracing
from comfysnap_client.address import checked_url, credentials
from comfysnap_client.deadline import Deadline
from comfysnap_client.job import Job, OnProgress
from comfysnap_client.polling import PollPolicy
from comfysnap_client.retry import RetryPolicy
from comfysnap_client.session import Session, SubmitOptions
from comfysnap_client.transport import Http, Request
from comfysnap_schema.base import WorkflowInput, WorkflowOutput, output_type
from comfysnap_schema.wire import (
    JOBS,
    WORKFLOWS,
    JobPage,
    JobRecord,
    JobStatus,
    WorkflowDetail,
    WorkflowSummary,
)

if TYPE_CHECKING:
    from comfysnap_client.dynamic import UntypedOutput
    from comfysnap_client.mapping import MapResult

O = TypeVar("O", bound=WorkflowOutput)  # noqa: E741 -- the output, as in every signature here

DEFAULT_TIMEOUT_S = 600.0


class ClientOptions(TypedDict, total=False):
    """The keyword arguments of ``Client``, which tells their meaning."""

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
    """A connection to one comfysnap server; use it as an async context manager, or ``aclose`` it.

    Args:
        base_url: Address of the server, with its path prefix if it has one.
        api_key: Sent as ``Authorization: Bearer``, to this server only.
        modal_key: Id of a Modal proxy token, with ``modal_secret``.
        modal_secret: Secret of that token.
        timeout: Seconds for a call that names none, over everything it does; ``math.inf``: no
            limit. A call that waits for a job also waits no longer than this.
        connect_timeout: Seconds for making one connection.
        read_timeout: Seconds of silence after which a connection counts as broken, on top of the
            time for which a request is held.
        max_connections: Most connections at a time; many more jobs can be waited for.
        retry: When and how often requests are retried.
        polling: How jobs are waited for.
        cancel_on_timeout: Whether a job is cancelled when its ``timeout`` passes or the task that
            waits for it is cancelled; calls may override it.
        transport: Replaces the network, for tests: an ``httpx.AsyncBaseTransport``.
        event_hooks: Passed to httpx: ``{"request": [...], "response": [...]}``.

    Raises:
        ValueError: An argument is wrong.
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
            raise ValueError(f"max_connections is at least {MIN_CONNECTIONS}")
        http = Http(
            self.base_url,
            credentials=credentials(api_key, modal_key, modal_secret),
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            max_connections=max_connections,
            retry=retry or RetryPolicy(),
            transport=transport,
            event_hooks=event_hooks,
        )
        # Some connections stay free of polls, for submits, cancels and files.
        self._session = Session(
            http,
            polling=polling or PollPolicy(),
            poll_slots=max(1, max_connections * 4 // 5),
            cancel_on_timeout=cancel_on_timeout,
        )

    @classmethod
    def from_env(cls, *, base_url: str | None = None, **options: Unpack[ClientOptions]) -> Self:
        """A client from ``COMFYSNAP_URL``, ``COMFYSNAP_API_KEY``, ``MODAL_KEY``, ``MODAL_SECRET``.

        Args:
            base_url: Wins over ``COMFYSNAP_URL``.
            options: Further arguments of ``Client``; they win over the environment.

        Raises:
            ValueError: ``COMFYSNAP_URL`` is not set, or wrong.
        """
        base_url = base_url or os.environ.get("COMFYSNAP_URL")
        if not base_url:
            raise ValueError("COMFYSNAP_URL is not set; it is as http://127.0.0.1:8000")
        options.setdefault("api_key", os.environ.get("COMFYSNAP_API_KEY") or None)
        options.setdefault("modal_key", os.environ.get("MODAL_KEY") or None)
        options.setdefault("modal_secret", os.environ.get("MODAL_SECRET") or None)
        return cls(base_url, **options)

    def __repr__(self) -> str:
        """The address; never a key."""
        return f"<Client {self.base_url}>"

    async def __aenter__(self) -> Self:
        """Nothing is sent before the first call."""
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
        """Close all connections, after cancellations under way (5 s at most) have been sent."""
        await self._session.aclose()

    async def infer_sync(
        self,
        inputs: WorkflowInput[O],
        *,
        timeout: float | None = None,
        job_timeout: float | None = None,
        labels: Mapping[str, str] | None = None,
        webhook: str | None = None,
        idempotency_key: str | None = None,
        cancel_on_timeout: bool | None = None,
        on_progress: OnProgress | None = None,
    ) -> O:
        """Run a workflow and return its outputs: submit, then wait.

        Args:
            inputs: A generated input model.
            timeout: Seconds for everything: uploads, connecting, retries, queue, run; None: the
                client's; ``math.inf``: no limit.
            job_timeout: Longest run on the server in seconds; None: what ``timeout`` leaves, or
                the server's own when the job is not cancelled on timeout.
            labels: Kept with the job, for finding it with ``jobs``.
            webhook: Address that the server calls when the job is final.
            idempotency_key: For a submit that must not double across restarts of this program.
            cancel_on_timeout: Whether the job is cancelled when ``timeout`` passes or the calling
                task is cancelled; None: the client's.
            on_progress: Called with each change of the progress.

        Raises:
            InvalidInput: The server refused the inputs; ``fields`` names each.
            JobError: The job failed, was cancelled, timed out or expired.
            DeadlineExceeded: ``timeout`` passed; it carries the job's id.
            ComfysnapError: The server could not be reached or refused.
            OSError: An input file cannot be read.
        """
        cancel = self._session.cancel_on_timeout if cancel_on_timeout is None else cancel_on_timeout
        seconds = self.timeout if timeout is None else timeout
        deadline = Deadline.after(seconds)
        if job_timeout is None and cancel and math.isfinite(seconds):
            job_timeout = seconds
        with tracing.span("infer_sync", workflow=inputs.__workflow__):
            job = await self._submit(
                inputs,
                SubmitOptions(
                    job_timeout=job_timeout, labels=labels,
                    webhook=webhook, idempotency_key=idempotency_key,
                ),
                deadline,
                cancel=cancel,
            )  # fmt: skip
            return await job.result(
                timeout=deadline.remaining_or_inf(),
                cancel_on_timeout=cancel,
                on_progress=on_progress,
            )

    async def infer_async(
        self,
        inputs: WorkflowInput[O],
        *,
        timeout: float | None = None,
        job_timeout: float | None = None,
        labels: Mapping[str, str] | None = None,
        webhook: str | None = None,
        previews: bool = False,
        idempotency_key: str | None = None,
        cancel_on_timeout: bool | None = None,
    ) -> Job[O]:
        """Submit a job and return its handle.

        Args:
            inputs: A generated input model.
            timeout: Seconds for the submit, uploads and retries included; None: the client's.
            job_timeout: Longest run on the server in seconds; None: the server's.
            labels: Kept with the job, for finding it with ``jobs``.
            webhook: Address that the server calls when the job is final.
            previews: Whether the job's events hold preview frames.
            idempotency_key: For a submit that must not double across restarts of this program.
            cancel_on_timeout: Whether a job that was made is cancelled when this call is left
                before its id came back; None: the client's.

        Raises:
            InvalidInput: The server refused the inputs; ``fields`` names each.
            DeadlineExceeded: ``timeout`` passed.
            ComfysnapError: The server could not be reached or refused.
            OSError: An input file cannot be read.
        """
        cancel = self._session.cancel_on_timeout if cancel_on_timeout is None else cancel_on_timeout
        with tracing.span("infer_async", workflow=inputs.__workflow__):
            return await self._submit(
                inputs,
                SubmitOptions(
                    job_timeout=job_timeout, labels=labels,
                    webhook=webhook, previews=previews, idempotency_key=idempotency_key,
                ),
                self._deadline(timeout),
                cancel=cancel,
            )  # fmt: skip

    async def check_status(self, job_id: str, *, timeout: float | None = None) -> JobRecord:
        """The job as it is now.

        Args:
            job_id: As in ``Job.id``.
            timeout: Seconds for the call, retries included; None: the client's.

        Raises:
            NotFound: The server knows no such job for this key.
            ComfysnapError: No answer in time, or a refusal.
        """
        return await self._session.status(job_id, self._deadline(timeout))

    async def cancel(self, job_id: str, *, timeout: float | None = None) -> JobRecord:
        """Ask for a job to stop; asking again, or of a finished job, changes nothing.

        Args:
            job_id: As in ``Job.id``.
            timeout: Seconds for the call, retries included; None: the client's.

        Raises:
            NotFound: The server knows no such job for this key.
            ComfysnapError: No answer in time, or a refusal.
        """
        return await self._session.cancel(job_id, self._deadline(timeout))

    @overload
    def job(self, job_id: str) -> "Job[UntypedOutput]": ...
    @overload
    def job(self, job_id: str, output: type[O]) -> Job[O]: ...
    def job(self, job_id: str, output: type[WorkflowOutput] | None = None) -> Job[Any]:
        """The handle of a job that exists, for instance after a restart; asks nothing.

        Args:
            job_id: As in ``Job.id``.
            output: The generated output model; left out: outputs as they come.
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
        """The jobs of this key, newest first, page by page as they are read.

        Args:
            status: Only these.
            workflow: Only of this workflow.
            labels: Only with all of these.
            timeout: Seconds for each page, retries included; None: the client's.

        Raises:
            ComfysnapError: No answer in time, or a refusal.
        """
        wanted = [("label", f"{key}:{value}") for key, value in (labels or {}).items()]
        if status is not None:
            wanted.append(("status", status.value))
        if workflow is not None:
            wanted.append(("workflow", workflow))
        cursor: str | None = None
        while True:
            params = (*wanted, ("cursor", cursor)) if cursor else (*wanted,)
            request = Request(method="GET", url=JOBS[1:], params=params)
            answer = await self._session.http.send(request, deadline=self._deadline(timeout))
            page = answer.parse(JobPage)
            for record in page.jobs:
                yield record
            cursor = page.cursor
            if cursor is None:
                return

    async def workflow(self, name: str, *, timeout: float | None = None) -> WorkflowDetail:
        """Titles and contract of a workflow that the server has.

        Args:
            name: As in the routes.
            timeout: Seconds for the call, retries included; None: the client's.

        Raises:
            NotFound: The server has no such workflow.
            ComfysnapError: No answer in time, or a refusal.
        """
        request = Request(method="GET", url=f"{WORKFLOWS[1:]}/{name}")
        answer = await self._session.http.send(request, deadline=self._deadline(timeout))
        return answer.parse(WorkflowDetail)

    async def workflows(self, *, timeout: float | None = None) -> list[WorkflowSummary]:
        """The workflows that the server has.

        Args:
            timeout: Seconds for the call, retries included; None: the client's.

        Raises:
            ComfysnapError: No answer in time, or a refusal.
        """
        request = Request(method="GET", url=WORKFLOWS[1:])
        answer = await self._session.http.send(request, deadline=self._deadline(timeout))
        return answer.parse_list(WorkflowSummary)

    def map(
        self,
        inputs: Iterable[WorkflowInput[O]] | AsyncIterable[WorkflowInput[O]],
        *,
        concurrency: int = 8,
        ordered: bool = True,
        timeout: float | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> "AsyncGenerator[MapResult[O]]":
        """Run many inputs, some at a time; a failed one is told in its place and ends nothing.

        Inputs are drawn as results are consumed: at most ``2 * concurrency`` are ahead of the
        caller. Leaving the iteration early (use ``contextlib.aclosing``) cancels what runs.

        Args:
            inputs: Generated input models, from any iterable, async ones included.
            concurrency: Most jobs under way at a time.
            ordered: Results in the order of the inputs; else as they come.
            timeout: Seconds for each input; None: the client's.
            labels: Kept with each job.

        Raises:
            ValueError: ``concurrency`` is below 1.
        """

        from comfysnap_client.mapping import run_map  # not everyone maps

        async def run(one: WorkflowInput[O]) -> O:
            return await self.infer_sync(one, timeout=timeout, labels=labels)

        return run_map(run, inputs, concurrency=concurrency, ordered=ordered)

    async def _submit(
        self, inputs: WorkflowInput[O], options: SubmitOptions, deadline: Deadline, *, cancel: bool
    ) -> Job[O]:
        record = await self._session.submit(inputs, options, deadline, cancel=cancel)
        output = output_type(type(inputs))
        return Job(self._session, record.id, output, timeout=self.timeout, record=record)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline.after(self.timeout if timeout is None else timeout)


MIN_CONNECTIONS = 2
"""One for polls, one for everything else."""
