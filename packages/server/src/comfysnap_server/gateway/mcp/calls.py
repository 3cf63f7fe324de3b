"""What a call of a tool does: submit a job and wait for it, ask for one, cancel one."""

import asyncio
import difflib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import unquote, urlsplit

from mcp_types import CallToolResult, TextContent, Tool, ToolAnnotations
from pydantic import JsonValue
from starlette.requests import Request

from comfysnap_schema.wire import (
    ErrorCode,
    FieldProblem,
    JobRecord,
    Scope,
    SubmitOptions,
    routes,
)
from comfysnap_schema.workflow import Workflow
from comfysnap_server.backends.protocol import Backend, StoredFile, SubmitResult
from comfysnap_server.errors import BackendError
from comfysnap_server.gateway.adapters import AdapterJobs
from comfysnap_server.gateway.jobs import access_of, owner_of_job
from comfysnap_server.gateway.links import Links
from comfysnap_server.gateway.long_polls import LongPolls
from comfysnap_server.gateway.mcp import tools
from comfysnap_server.gateway.mcp.errors import SESSION_HEADER
from comfysnap_server.gateway.mcp.results import JobResults, refused, stage_of
from comfysnap_server.gateway.problems import (
    REQUEST_ID_KEY,
    ProblemError,
    invalid_input,
    problem_of,
)
from comfysnap_server.gateway.settings import GatewaySettings
from comfysnap_server.gateway.submit import (
    IDEMPOTENCY_KEY_PATTERN,
    JobSubmitter,
    SubmitRequest,
)
from comfysnap_server.logs import fields

log = logging.getLogger("comfysnap.gateway")

IDEMPOTENCY_META: Final = "comfysnap/idempotency_key"
"""In ``_meta`` of a call, for programs: as the header ``Idempotency-Key`` of other routes. Ids of
requests and tokens of progress are no such key: every connection counts them from one."""

_CHUNK: Final = 1 << 20
_OUTPUT: Final = re.compile(re.escape(routes.OUTPUTS) + r"/(job_[0-9A-Za-z]{16,40})/([^/]+)")


class Session(Protocol):
    """Where progress is reported to."""

    async def report_progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Send it, when the caller asked for it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Call:
    """A call of a tool."""

    name: str
    arguments: Mapping[str, JsonValue]
    request: Request
    session: Session
    meta: Mapping[str, Any]
    request_id: str | int | None = None

    @property
    def comes_back(self) -> bool:
        """Whether a caller that is gone can collect the job with the same call."""
        return IDEMPOTENCY_META in self.meta

    @property
    def key(self) -> tuple[str, str, str | int] | None:
        """What a later message that cancels it names; None when none can."""
        session = self.request.headers.get(SESSION_HEADER)
        if session is None or self.request_id is None:
            return None
        return access_of(self.request).owner, session, self.request_id


@dataclass
class _Running:
    """A call whose job may be cancelled by another message."""

    job: str | None = None
    cancelled: bool = False


class ToolCalls:
    """Tools over one backend.

    Args:
        backend: Where jobs run.
        submitter: Makes the jobs.
        workflows: Each is a tool.
        settings: Limits.
        waits: Held requests.
        links: Signs the links to files.
    """

    def __init__(
        self,
        backend: Backend,
        submitter: JobSubmitter,
        workflows: Mapping[str, Workflow],
        settings: GatewaySettings,
        *,
        waits: LongPolls,
        links: Links,
    ) -> None:
        self._backend = backend
        self._submitter = submitter
        self._settings = settings
        self._max_wait = settings.mcp.max_wait
        self._waits = waits
        self._jobs = AdapterJobs(backend, links)
        self._results = JobResults(self._jobs, workflows)
        self._workflows = {
            name: workflow for name, workflow in workflows.items() if name not in tools.FIXED
        }
        for name in workflows.keys() & tools.FIXED:
            log.warning("the workflow %r is not an MCP tool: its name is reserved", name)
        self._running: dict[tuple[str, str, str | int], _Running] = {}
        self._tools = {name: _tool(workflow) for name, workflow in self._workflows.items()}
        self._fixed = _fixed_tools(self._max_wait)
        self._called: Mapping[str, Callable[[Call], Awaitable[CallToolResult]]] = {
            tools.GET_JOB: self._get_job,
            tools.CANCEL_JOB: self._cancel_job,
        }

    def schema(self, name: str) -> Mapping[str, Any] | None:
        """The input schema of a tool, or None for an unknown one."""
        tool = self._tools.get(name) or self._fixed.get(name)
        return tool and tool.input_schema

    def tools(self, request: Request) -> list[Tool]:
        """The tools that the key of a request may call."""
        scopes = access_of(request).scopes
        offered = list(self._tools.values()) if Scope.INFER in scopes else []
        if scopes & {Scope.INFER, Scope.ADMIN}:
            return [*offered, *self._fixed.values()]
        return [self._fixed[tools.GET_JOB]]

    async def call(self, call: Call) -> CallToolResult:
        """The result of a call; one that is refused is a result too, which the model reads."""
        try:
            return await self._called.get(call.name, self._run)(call)
        except ProblemError as error:
            return refused(error, call.name)
        except BackendError as error:
            return refused(problem_of(error), call.name)
        except Exception:
            log.exception("a call of an MCP tool failed", extra=fields(tool=call.name))
            request_id = call.request.scope.get(REQUEST_ID_KEY)
            text = f"{call.name} failed: the server's log has the reason (request {request_id})."
            return CallToolResult(content=[TextContent(text=text)], is_error=True)

    def cancelled(self, owner: str, session: str, request_id: str | int) -> None:
        """Cancel the job of a call, which then ends with it. In the newer era of the protocol a
        client closes the connection instead."""
        running = self._running.get((owner, session, request_id))
        if running is not None:
            running.cancelled = True
            if running.job is not None:
                self._jobs.cancel_soon(owner, running.job)

    async def _run(self, call: Call) -> CallToolResult:
        workflow = self._workflows.get(call.name)
        if workflow is None:
            return self._unknown(call.name)
        access = access_of(call.request)
        access.require(Scope.INFER)
        end = asyncio.get_running_loop().time() + self._max_wait
        running, key = _Running(), call.key
        if key is not None:
            self._running[key] = running
        try:
            job = (await self._submit(call, workflow)).job
            running.job = job.id
            if running.cancelled:
                self._jobs.cancel_soon(access.owner, job.id)
            return await self._outcome(call, access.owner, job, end)
        finally:
            if key is not None:
                self._running.pop(key, None)

    async def _outcome(self, call: Call, owner: str, job: JobRecord, end: float) -> CallToolResult:
        try:
            try:
                job = await self._wait(call, owner, job, end)
            except (ProblemError, BackendError) as error:
                log.info("a job is answered without a wait: %s", error, extra=fields(job=job.id))
            return await self._results.result(owner, job, str(call.request.base_url))
        except asyncio.CancelledError:  # by the caller, or it hung up
            if not self._waits.draining and not call.comes_back:
                self._jobs.cancel_soon(owner, job.id)
            raise
        except Exception:  # any other answer would have the model run it again
            log.exception("the result of a job cannot be returned", extra=fields(job=job.id))
            text = (
                f"{call.name} was accepted as job {job.id}, but its result cannot be returned now."
                f" Call {tools.GET_JOB} with job={job.id}."
            )
            return CallToolResult(content=[TextContent(text=text)], is_error=True)

    async def _submit(self, call: Call, workflow: Workflow) -> SubmitResult:
        """Accept a job. A caller that cancels meanwhile leaves none behind."""
        owner = access_of(call.request).owner
        task = asyncio.create_task(self._submitted(call, workflow))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not call.comes_back:
                task.add_done_callback(lambda done: self._abandon(owner, done))
            raise

    def _abandon(self, owner: str, task: asyncio.Task[SubmitResult]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._jobs.cancel_soon(owner, task.result().job.id)

    async def _submitted(self, call: Call, workflow: Workflow) -> SubmitResult:
        key = call.meta.get(IDEMPOTENCY_META)
        if key is not None and not (
            isinstance(key, str) and re.fullmatch(IDEMPOTENCY_KEY_PATTERN, key)
        ):
            raise ProblemError(ErrorCode.INVALID_REQUEST, f"invalid _meta {IDEMPOTENCY_META}")
        access = access_of(call.request)
        inputs = tools.inputs_of(workflow, call.arguments)
        await self._take_outputs(call, workflow, inputs)
        return await self._submitter.submit(
            SubmitRequest(
                owner=access.owner,
                budget=access.budget,
                key_webhook=access.webhook,
                workflow=workflow.name,
                inputs=inputs,
                options=SubmitOptions(),
                idempotency_key=key,
                contract=None,
            )
        )

    async def _get_job(self, call: Call) -> CallToolResult:
        job_id = _job_argument(call, {"job", "wait"})
        wait = call.arguments.get("wait")
        seconds = self._max_wait if wait is None else wait
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise _refused("wait", "must be a number of seconds")
        owner = await owner_of_job(self._backend, call.request, job_id)
        job = await self._backend.get(owner, job_id)
        end = asyncio.get_running_loop().time() + min(seconds, self._max_wait)
        job = await self._wait(call, owner, job, end)
        return await self._results.result(owner, job, str(call.request.base_url))

    async def _cancel_job(self, call: Call) -> CallToolResult:
        access_of(call.request).require(Scope.INFER, Scope.ADMIN)
        job_id = _job_argument(call, {"job"})
        owner = await owner_of_job(self._backend, call.request, job_id)
        job = await self._backend.cancel(owner, job_id)
        return await self._results.result(
            owner, job, str(call.request.base_url), failed_is_error=False
        )

    async def _wait(self, call: Call, owner: str, job: JobRecord, end: float) -> JobRecord:
        """The job once it is final, or as it is at ``end`` of the loop's time.

        Raises:
            ProblemError: ``rate_limited``, too many requests wait.
            BackendError: It is gone.
        """
        loop = asyncio.get_running_loop()
        report = _Progress(call.session)
        await report(job)  # at once: hosts wait a minute for the first byte
        async with self._waits.slot(access_of(call.request).owner) as slot:
            while not job.is_final and (left := end - loop.time()) > 0:
                wait = partial(self._backend.wait, owner, job.id, after=job.version, timeout=left)
                found = await slot.until_ended(wait)
                if found is None:  # the server stops, or needs the place
                    break
                job = found
                await report(job)
        return job

    def _unknown(self, name: str) -> CallToolResult:
        known = [*self._tools, *self._fixed]
        near = difflib.get_close_matches(name[:100], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"available: {', '.join(known)}"
        text = f"unknown tool {name[:100]!r}; {hint}"
        return CallToolResult(content=[TextContent(text=text)], is_error=True)

    async def _take_outputs(
        self, call: Call, workflow: Workflow, inputs: dict[str, JsonValue]
    ) -> None:
        """Replace links to results of this server by the files, which it need not download."""
        for name, value in inputs.items():
            if not tools.is_file(workflow.parameters.get(name)):
                continue
            if isinstance(value, list):
                inputs[name] = [
                    await self._taken(call, f"{name}[{index}]", item)
                    for index, item in enumerate(value)
                ]
            else:
                inputs[name] = await self._taken(call, name, value)

    async def _taken(self, call: Call, field: str, value: JsonValue) -> JsonValue:
        url = value.get("url") if isinstance(value, dict) else None
        place = _output_of(url, str(call.request.base_url)) if isinstance(url, str) else None
        if place is None:
            return value
        access = access_of(call.request)
        try:
            # the caller's own, whatever token the link has
            file = await self._backend.open_output(access.owner, *place)
        except BackendError as error:
            raise _refused(field, error.detail) from error
        if not isinstance(file, StoredFile):
            return {"url": file.url}
        if file.size > self._settings.max_file_bytes:
            raise _refused(field, f"may have at most {self._settings.max_file_bytes} bytes")
        if not await self._backend.has_file(access.owner, file.sha256):
            await self._backend.put_file(
                access.owner, file.sha256, _chunks(file.path), access.budget
            )
        return {"sha256": file.sha256}


class _Progress:
    """Reports how far a job is; each value is above the one before, as MCP has it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._percent = -1.0
        self._text: str = ""

    async def __call__(self, job: JobRecord) -> None:
        percent, text = 100 * job.progress.fraction, stage_of(job)
        if percent <= self._percent and text == self._text:
            return
        self._percent = max(percent, self._percent + 0.01)
        self._text = text
        if self._percent > 100:
            return
        await self._session.report_progress(self._percent, 100, text)


def _tool(workflow: Workflow) -> Tool:
    return Tool(
        name=workflow.name,
        title=workflow.spec.title or workflow.name,
        description=tools.description(workflow),
        input_schema=tools.input_schema(workflow),
        output_schema=tools.output_schema(workflow.contract.output_schema["properties"]),
        annotations=ToolAnnotations(
            read_only_hint=False,
            destructive_hint=False,
            idempotent_hint=False,
            open_world_hint=False,
        ),
    )


def _fixed_tools(max_wait: float) -> dict[str, Tool]:
    return {
        tools.GET_JOB: Tool(
            name=tools.GET_JOB,
            title="Get a job",
            description="Waits for a job that another tool started, and returns its results.",
            input_schema=tools.get_job_schema(max_wait),
            output_schema=tools.output_schema(),
            annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
        ),
        tools.CANCEL_JOB: Tool(
            name=tools.CANCEL_JOB,
            title="Cancel a job",
            description="Cancels a job. Does nothing if the job has ended.",
            input_schema=tools.cancel_job_schema(),
            output_schema=tools.output_schema(),
            annotations=ToolAnnotations(
                read_only_hint=False,
                destructive_hint=True,
                idempotent_hint=True,
                open_world_hint=False,
            ),
        ),
    }


def _job_argument(call: Call, known: set[str]) -> str:
    if unknown := call.arguments.keys() - known:
        name = min(unknown)
        raise _refused(name, f"unknown argument {name[:100]!r}; known: {', '.join(sorted(known))}")
    job = call.arguments.get("job")
    if not isinstance(job, str):
        raise _refused("job", "must be the ID of a job: job_...")
    return job


def _refused(name: str, message: str) -> ProblemError:
    return invalid_input(FieldProblem(field=name[:100], message=message))


def _output_of(url: str, base_url: str) -> tuple[str, str] | None:
    """Job and name of a file, of a link to this server."""
    try:
        parts, own = urlsplit(url), urlsplit(base_url)
    except ValueError:
        return None
    found = _OUTPUT.fullmatch(parts.path)
    if found is None or (parts.scheme, parts.netloc) != (own.scheme, own.netloc):
        return None
    return found[1], unquote(found[2])


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk
