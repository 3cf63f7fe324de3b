"""The routes of the mock server."""

import asyncio
import base64
import hashlib
import json
import struct
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar, cast

import httpx
import respx
from pydantic import BaseModel, RootModel, ValidationError

from comfysnap_client.client import Client
from comfysnap_client.polling import PollPolicy
from comfysnap_client.retry import RetryPolicy
from comfysnap_client.testing.jobs import MockJob, Scenario, next_fault, next_outcome
from comfysnap_schema.base import WorkflowInput, WorkflowOutput, output_type
from comfysnap_schema.wire import (
    CONTRACT,
    IDEMPOTENCY_KEY,
    MAX_FILE_BYTES,
    MAX_WAIT_S,
    PROBLEM_JSON,
    REQUEST_ID,
    RETRY_AFTER,
    BudgetName,
    BudgetUse,
    ErrorCode,
    FieldProblem,
    ImageFile,
    JobEvent,
    JobPage,
    JobRecord,
    Kind,
    Limits,
    Link,
    LinkRequest,
    NamedOutput,
    OutputFile,
    Problem,
    Scope,
    WorkflowDetail,
    WorkflowSummary,
    webhook_body,
    webhook_headers,
    webhook_id_of,
    webhook_key,
)

OutputT = TypeVar("OutputT", bound=WorkflowOutput)
InputT = TypeVar("InputT", bound=WorkflowInput[Any])
FileT = TypeVar("FileT", bound=OutputFile)

TICK_S = 0.005
"""Interval in seconds at which a held request checks for changes."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One accepted submit::

        assert [call.workflow for call in server.calls] == ["flux"]

    Attributes:
        workflow: Name of the workflow.
        inputs: The inputs, as the model passed to ``on``.
        job_id: ID of the created job.
        params: Options of the job: ``timeout``, ``webhook``, ``previews``, ``label``.
        headers: Headers of the request, without credentials.
    """

    workflow: str
    inputs: WorkflowInput[Any]
    job_id: str
    params: list[tuple[str, str]]
    headers: dict[str, str]


class WebhookRequest(NamedTuple):
    """What a server sends to a webhook URL, made by ``MockServer.webhook_request``.

    Example::

        request = server.webhook_request(job.id)
        event = verify_webhook(request.headers, request.body, server.webhook_secret)
    """

    headers: dict[str, str]
    body: bytes


class MockServer:
    """An in-memory server, created by ``mock_server`` or the fixture ``comfysnap_server``::

        with mock_server("https://another.test") as server:
            server.on(FluxInput).hangs()

    Attributes:
        url: The base URL.
        calls: Accepted submits in order; submits with the same idempotency key count once.
        requests: All requests, as ``"GET /check_status/job_..."``.
        router: The underlying respx router.
        webhook_secret: Signs ``webhook_request``.
    """

    def __init__(self, url: str) -> None:
        self.url: str = url.rstrip("/")
        self.calls: list[Call] = []
        self.requests: list[str] = []
        self.router: respx.MockRouter = respx.MockRouter(base_url=self.url, assert_all_called=False)
        self.router.route().mock(side_effect=self._handle)
        self.webhook_secret: str = "whsec_" + base64.b64encode(bytes(range(32))).decode()
        self._scenarios: dict[str, tuple[type[WorkflowInput[Any]], Scenario[Any]]] = {}
        self._jobs: dict[str, MockJob] = {}
        self._keys: dict[str, str] = {}
        self._outputs: dict[str, tuple[str, bytes]] = {}
        self._files: dict[str, bytes] = {}

    def on(self, inputs: type[WorkflowInput[OutputT]]) -> Scenario[OutputT]:
        """Return the scenario of a workflow, by its input model, which also validates submits.

        Example: ``server.on(FluxInput).answers(503).succeeds(FluxOutput(images=[server.image()]))``
        """
        known = self._scenarios.get(inputs.__workflow__)
        if known is None:
            known = self._scenarios[inputs.__workflow__] = (inputs, Scenario[OutputT]())
        return cast("Scenario[OutputT]", known[1])

    def inputs_of(self, model: type[InputT]) -> list[InputT]:
        """Return the submitted inputs of this model, in order.

        Example: ``assert server.inputs_of(FluxInput)[0].prompt == "a fox"``
        """
        return [call.inputs for call in self.calls if isinstance(call.inputs, model)]

    def client(self) -> Client:
        """Create a client of this server, with short pauses for tests.

        Example::

            async with server.client() as client:
                output = await client.infer_sync(FluxInput(prompt="a fox"))
        """
        return Client(
            self.url,
            retry=RetryPolicy(initial=0.001, maximum=0.01),
            polling=PollPolicy(initial=0.001, maximum=0.01),
        )

    def file(
        self,
        name: str,
        content: bytes,
        *,
        model: type[FileT] = OutputFile,
        kind: Kind = Kind.FILE,
        content_type: str = "application/octet-stream",
    ) -> FileT:
        """Create an output file that can be downloaded::

            video = server.file("fox.mp4", b"...", kind=Kind.VIDEO)

        Args:
            name: File name within the job.
            content: Content of the file.
            model: Type of the output field: ``VideoFile``, ``AudioFile``, ...
            kind: Kind of the file.
            content_type: MIME type of the file.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        url = f"/outputs/{sha256[:16]}/{name}"
        self._outputs[url] = (content_type, content)
        return model(
            name=name, kind=kind, content_type=content_type, size=len(content), sha256=sha256,
            url=url,
        )  # fmt: skip

    def image(self, name: str = "image.png", *, width: int = 8, height: int = 8) -> ImageFile:
        """Create a gray PNG image::

            output = FluxOutput(images=[server.image(width=64)])

        Args:
            name: File name within the job.
            width: Width in pixels.
            height: Height in pixels.
        """
        content = _png(width, height)
        return self.file(name, content, model=ImageFile, kind=Kind.IMAGE, content_type="image/png")

    def webhook_request(self, job_id: str, *, signed_at: float | None = None) -> WebhookRequest:
        """Create the webhook of a job, which runs to its end first::

            headers, body = server.webhook_request(job.id)
            event = verify_webhook(headers, body, server.webhook_secret, FluxOutput)

        Args:
            job_id: ID of a job of this server.
            signed_at: Seconds since 1970, for a webhook that is too old. None: now.

        Raises:
            ValueError: Unknown job, or one that hangs or needs more time.
        """
        job = self._jobs.get(job_id)
        while job is not None and job.advance():
            pass
        if job is None or not job.is_final:
            raise ValueError(f"{job_id} is not a job that has ended")
        record = job.record()
        body = webhook_body(record)
        stamp = int(time.time() if signed_at is None else signed_at)
        webhook_id = webhook_id_of(record.id, record.status)
        headers = webhook_headers([webhook_key(self.webhook_secret)], webhook_id, stamp, body)
        return WebhookRequest(headers, body)

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix(httpx.URL(self.url).path.rstrip("/"))
        self.requests.append(f"{request.method} {path}")
        route, _, name = path.strip("/").partition("/")
        handlers: dict[str, Callable[[httpx.Request, str], Awaitable[httpx.Response]]] = {
            "infer_async": self._infer, "check_status": self._status, "cancel": self._cancel,
            "events": self._events, "outputs": self._output, "files": self._file,
            "jobs": self._list, "workflows": self._workflows, "limits": self._limits,
            "links": self._link,
        }  # fmt: skip
        handler = handlers.get(route)
        if handler is None:
            return _problem(request, 404, ErrorCode.NOT_FOUND)
        return await handler(request, name)

    async def _infer(self, request: httpx.Request, workflow: str) -> httpx.Response:
        if workflow not in self._scenarios:
            return _problem(request, 404, ErrorCode.UNKNOWN_WORKFLOW)
        model, scenario = self._scenarios[workflow]
        if scenario.delay:
            await asyncio.sleep(scenario.delay)
        fault = next_fault(scenario)
        if fault is not None and fault.status is not None:
            return _problem(request, fault.status, fault.code, retry_after=fault.retry_after)
        if fault is not None and not fault.delivered:
            raise httpx.ReadError("the connection was dropped", request=request)
        response = self._accept(request, model, scenario)
        if fault is not None:
            raise httpx.ReadError("the connection was dropped", request=request)
        return response

    def _accept(
        self, request: httpx.Request, model: type[WorkflowInput[Any]], scenario: Scenario[Any]
    ) -> httpx.Response:
        if request.headers.get(CONTRACT, model.__contract__) != model.__contract__:
            return _problem(request, 409, ErrorCode.CONTRACT_MISMATCH)
        key = request.headers.get(IDEMPOTENCY_KEY)
        if key in self._keys:
            return _json(request, self._jobs[self._keys[key]].record(), 202)
        try:
            inputs = model.model_validate_json(request.content)
        except ValidationError as error:
            return _problem(request, 422, ErrorCode.INVALID_INPUT, fields=_field_problems(error))
        params = request.url.params.multi_items()
        job = MockJob(
            id=f"job_{len(self._jobs):026d}", workflow=model.__workflow__, inputs=inputs,
            outcome=next_outcome(scenario),
            labels=dict(value.split(":", 1) for name, value in params if name == "label"),
        )  # fmt: skip
        self._jobs[job.id] = job
        if key is not None:
            self._keys[key] = job.id
        headers = {n: v for n, v in request.headers.items() if n not in _CREDENTIALS}
        self.calls.append(
            Call(
                workflow=job.workflow, inputs=inputs, job_id=job.id, params=params, headers=headers
            )
        )
        return _json(request, job.record(), 202)

    async def _status(self, request: httpx.Request, job_id: str) -> httpx.Response:
        job = self._jobs.get(job_id)
        if job is None:
            return _problem(request, 404, ErrorCode.UNKNOWN_JOB)
        after = request.url.params.get("after")
        await _held(job, float(request.url.params.get("wait", 0)), after and int(after))
        return _json(request, job.record())

    async def _events(self, request: httpx.Request, job_id: str) -> httpx.Response:
        job = self._jobs.get(job_id)
        if job is None:
            return _problem(request, 404, ErrorCode.UNKNOWN_JOB)
        step = int(request.headers.get("last-event-id") or 0)
        events: list[str] = []
        while not events:
            while job.advance():
                pass
            events = [text for at in range(step, job.step + 1) for text in _sse(job.record(at))]
            if not events and job.is_final:  # a cancellation is not a step
                events = _sse(job.record())
            if not events:
                await asyncio.sleep(TICK_S)
        return httpx.Response(
            200, request=request, text=f"retry: 1\n{''.join(events)}",
            headers={"content-type": "text/event-stream"},
        )  # fmt: skip

    async def _cancel(self, request: httpx.Request, job_id: str) -> httpx.Response:
        job = self._jobs.get(job_id)
        if job is None:
            return _problem(request, 404, ErrorCode.UNKNOWN_JOB)
        job.cancelled = job.cancelled or not job.is_final
        return _json(request, job.record())

    async def _list(self, request: httpx.Request, _: str) -> httpx.Response:
        return _json(request, JobPage(jobs=[j.record() for j in reversed(self._jobs.values())]))

    async def _workflows(self, request: httpx.Request, name: str) -> httpx.Response:
        known = {
            workflow: WorkflowDetail(
                name=workflow, title=workflow, contract=getattr(model, "__contract__", ""),
                input_schema=model.model_json_schema(),
                output_schema=output_type(model).model_json_schema(),
            )
            for workflow, (model, _) in self._scenarios.items()
        }  # fmt: skip
        if not name:
            return _json(request, RootModel[list[WorkflowSummary]](list(known.values())))
        if name not in known:
            return _problem(request, 404, ErrorCode.UNKNOWN_WORKFLOW)
        return _json(request, known[name])

    async def _output(self, request: httpx.Request, name: str) -> httpx.Response:
        if f"/outputs/{name}" not in self._outputs:
            return _problem(request, 404, ErrorCode.UNKNOWN_OUTPUT)
        content_type, content = self._outputs[f"/outputs/{name}"]
        return httpx.Response(
            200, request=request, content=content, headers={"content-type": content_type}
        )

    async def _limits(self, request: httpx.Request, _: str) -> httpx.Response:
        unfinished = sum(not job.is_final for job in self._jobs.values())
        limits = Limits(
            owner="local", scopes=list(Scope),
            budgets={
                BudgetName.REQUESTS_PER_MINUTE: BudgetUse(),
                BudgetName.MAX_UNFINISHED_JOBS: BudgetUse(used=unfinished),
                BudgetName.MAX_QUEUED_BYTES: BudgetUse(),
                BudgetName.MAX_STORED_BYTES: BudgetUse(),
            },
            max_body_bytes=4 * 1024**2, max_file_bytes=MAX_FILE_BYTES,
            max_wait=MAX_WAIT_S, max_sync_wait=140.0, max_timeout=3600.0,
        )  # fmt: skip
        return _json(request, limits)

    async def _link(self, request: httpx.Request, _: str) -> httpx.Response:
        wanted = LinkRequest.model_validate_json(request.content)
        if wanted.job_id not in self._jobs:
            return _problem(request, 404, ErrorCode.UNKNOWN_JOB)
        path = f"/events/{wanted.job_id}"
        if wanted.output is not None:
            named = (url for url in self._outputs if url.endswith(f"/{wanted.output}"))
            path = next(named, f"/outputs/{wanted.job_id}/{wanted.output}")
        expires_at = datetime.now(UTC) + timedelta(seconds=wanted.expires_in)
        link = Link(url=f"{path}?token=mock", expires_at=expires_at)
        return _json(request, link, 201)

    async def _file(self, request: httpx.Request, sha256: str) -> httpx.Response:
        if request.method == "HEAD":
            return httpx.Response(200 if sha256 in self._files else 404, request=request)
        self._files[sha256] = request.content
        return httpx.Response(201, request=request)


_CREDENTIALS = frozenset({"authorization", "modal-key", "modal-secret"})


async def _held(job: MockJob, wait: float, after: int | None) -> None:
    """Hold a status request as a real server does; without ``wait``, take one step."""
    if not wait:
        job.advance()
        return
    clock = asyncio.get_running_loop().time
    until = clock() + wait
    while not job.is_final and clock() < until:
        if after is not None and job.record().version > after:
            return
        if not job.advance():
            await asyncio.sleep(TICK_S)


def _sse(record: JobRecord) -> list[str]:
    """A record as server-sent events."""
    outputs = [
        NamedOutput(name=name, value=value) for name, value in (record.outputs or {}).items()
    ]
    events = [JobEvent(type="output", output=output) for output in outputs]
    events.append(JobEvent(type="done" if record.is_final else "status", job=record))
    if not record.is_final:
        events.append(JobEvent(type="progress", progress=record.progress))
    return [
        f"event: {event.type}\n{_id(event)}data: {event.model_dump_json()}\n\n" for event in events
    ]


def _id(event: JobEvent) -> str:
    return "" if event.job is None else f"id: {event.job.version}\n"


def _json(request: httpx.Request, model: BaseModel, status: int = 200) -> httpx.Response:
    headers = {"content-type": "application/json"}
    if request_id := request.headers.get(REQUEST_ID):
        headers[REQUEST_ID] = request_id
    return httpx.Response(status, request=request, text=model.model_dump_json(), headers=headers)


def _problem(
    request: httpx.Request,
    status: int,
    code: ErrorCode | str,
    *,
    fields: tuple[FieldProblem, ...] = (),
    retry_after: float | None = None,
) -> httpx.Response:
    problem = Problem(title=str(code), code=code, status=status, fields=fields)
    headers = {"content-type": PROBLEM_JSON}
    if retry_after is not None:
        headers[RETRY_AFTER] = f"{retry_after:g}"
    return httpx.Response(status, request=request, text=problem.model_dump_json(), headers=headers)


def _field_problems(error: ValidationError) -> tuple[FieldProblem, ...]:
    return tuple(
        FieldProblem(field=str(found["loc"][0]) if found["loc"] else None, message=found["msg"])
        for found in json.loads(error.json())
    )


def _png(width: int, height: int) -> bytes:
    """A gray 8-bit PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * width) * height)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
