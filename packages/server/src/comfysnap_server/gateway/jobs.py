"""The routes of jobs: infer, status, list, cancel, events."""

import logging
import re
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from typing import Annotated, Any, Final, cast

from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, Field
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from comfysnap_schema.wire import (
    ErrorCode,
    JobEvent,
    JobPage,
    JobRecord,
    JobStatus,
    Label,
    SubmitOptions,
    routes,
)
from comfysnap_server.backends.protocol import Backend, SubmitResult
from comfysnap_server.errors import BackendError
from comfysnap_server.gateway.auth import Access
from comfysnap_server.gateway.bodies import BodyReader
from comfysnap_server.gateway.json_bodies import parse_json_object
from comfysnap_server.gateway.long_polls import LongPolls, Slot
from comfysnap_server.gateway.middleware import ACCESS_KEY
from comfysnap_server.gateway.parameters import (
    DirectRoute,
    parameters_of,
    read_headers,
    read_query,
)
from comfysnap_server.gateway.problems import ProblemError
from comfysnap_server.gateway.settings import GatewaySettings
from comfysnap_server.gateway.submit import (
    IDEMPOTENCY_KEY_PATTERN,
    JobSubmitter,
    SubmitRequest,
    label_map,
)
from comfysnap_server.logs import fields
from comfysnap_server.owner_locks import OwnerLocks

log = logging.getLogger("comfysnap.gateway")

_JOB_ID: Final = re.compile(routes.JOB_ID_PATTERN)
_VERSION: Final = re.compile(r"[0-9]{1,18}")
_SETTLE_S: Final = 0.01
"""How long the answer to a submit waits for the end of a job that a free worker took at once,
in seconds. An instant job then needs one request instead of two: 2.3 instead of 2.8 times a
bare pair of requests in ``benchmarks/round_trip.py``, on two cores."""
_ALL_OWNERS: Final = "*"
_NO_STORE: Final = {"Cache-Control": "no-store"}


class JobHeaders(BaseModel, frozen=True, use_attribute_docstrings=True):
    """Headers of an infer request."""

    idempotency_key: Annotated[
        str | None, Field(alias=routes.IDEMPOTENCY_KEY, pattern=IDEMPOTENCY_KEY_PATTERN)
    ] = None
    """The same key and body, within 24 h, is the same job."""
    contract: Annotated[str | None, Field(alias=routes.CONTRACT, max_length=64)] = None
    """Hash of the contract that the client was generated from."""


TOKEN_PARAMETER: Final = {
    "name": routes.LINK_PARAMETER, "in": "query", "required": False, "schema": {"type": "string"},
    "description": "Token of a link, in place of a key.",
}  # fmt: skip

_EVENT: Final = {"$ref": "#/components/schemas/JobEvent"}
_EVENT_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The events, each a JSON object in `data`",
        "content": {
            "text/event-stream": {
                # of an event's data: what generators of clients read in OpenAPI 3.1
                "schema": _EVENT,
                # of an event: OpenAPI 3.2
                "itemSchema": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string", "description": "Version of the job."},
                        "event": {"type": "string", "description": "The `type` of the data."},
                        "data": {
                            "type": "string",
                            "contentMediaType": "application/json",
                            "contentSchema": _EVENT,
                        },
                    },
                    "required": ["event", "data"],
                },
            }
        },
    },
    204: {"description": "`done` was received: `Last-Event-ID` is the final version"},
}

_INFER_PARAMETERS: Final = {
    "parameters": [*parameters_of(SubmitOptions, "query"), *parameters_of(JobHeaders, "header")]
}


class StatusQuery(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How long ``/check_status`` may hold a request."""

    wait: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    """Seconds to hold until the job has ended; reduced to the server's limit (25 s)."""
    after: Annotated[int, Field(ge=0)] | None = None
    """With ``wait``: return at any version above this one."""


class JobsQuery(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Which jobs to list."""

    status: JobStatus | None = None
    workflow: Annotated[str, Field(max_length=64)] | None = None
    label: Annotated[list[Label], Field(max_length=routes.MAX_LABELS)] = []
    owner: Annotated[str, Field(max_length=200)] | None = None
    """Whose jobs; ``*``: those of all owners. Others than the caller's own need the scope
    ``admin``."""
    cursor: Annotated[str, Field(max_length=512)] | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class EventHeaders(BaseModel, frozen=True, use_attribute_docstrings=True):
    """Headers of an event stream."""

    last_event_id: Annotated[str | None, Field(alias="Last-Event-ID")] = None
    """Version of the job in the last event."""


def access_of(request: Request) -> Access:
    """What the middleware found that the request may do."""
    return cast("Access", request.scope[ACCESS_KEY])


def owner_of(request: Request) -> str:
    """The owner that the middleware found."""
    return access_of(request).owner


async def owner_of_job(backend: Backend, request: Request, job_id: str) -> str:
    """In whose name a job is asked for: the caller's, or for an admin that of the job.

    Raises:
        BackendError: ``unknown_job``.
    """
    access = access_of(request)
    checked = checked_job_id(job_id)
    # most servers have one owner or ask for their own jobs: no second look for them
    return await backend.owner_of(checked) if access.sees_all else access.owner


def checked_owner(request: Request, owner: str | None) -> str:
    """The owner that is asked about, by default the caller.

    Raises:
        ProblemError: ``missing_scope``: another one than the caller, who is no admin.
    """
    access = access_of(request)
    if owner is None or owner == access.owner:
        return access.owner
    access.require_admin()
    return owner


def checked_job_id(job_id: str) -> str:
    """A job id that is safe to hand on.

    Raises:
        BackendError: ``unknown_job``, for one that cannot be.
    """
    if not _JOB_ID.fullmatch(job_id):
        raise BackendError(ErrorCode.UNKNOWN_JOB, "unknown job")
    return job_id


class JobRoutes:
    """Handlers around one backend."""

    def __init__(
        self,
        backend: Backend,
        submitter: JobSubmitter,
        settings: GatewaySettings,
        waits: LongPolls,
        bodies: BodyReader,
        default: str | None,
    ) -> None:
        self._backend = backend
        self._bodies = bodies
        self._submitter = submitter
        self._settings = settings
        self._waits = waits
        self._default = default
        self._lists = OwnerLocks()

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(tags=["jobs"])
        # first what is asked most: each request is compared with one after the other
        router.add_api_route(
            routes.CHECK_STATUS + "/{job_id}",
            self.check_status,
            response_model=JobRecord,
            openapi_extra={"parameters": parameters_of(StatusQuery, "query")},
            route_class_override=DirectRoute,
        )
        for path in (routes.INFER_ASYNC + "/{workflow}", routes.INFER_ASYNC):
            router.add_api_route(
                path, self.infer_async, methods=["POST"], response_model=JobRecord,
                status_code=202, openapi_extra=_INFER_PARAMETERS, route_class_override=DirectRoute,
            )  # fmt: skip
        for path in (routes.INFER_SYNC + "/{workflow}", routes.INFER_SYNC):
            router.add_api_route(
                path, self.infer_sync, methods=["POST"], response_model=JobRecord,
                responses={202: {"model": JobRecord, "description": "Still running"}},
                openapi_extra=_INFER_PARAMETERS, route_class_override=DirectRoute,
            )  # fmt: skip
        router.get(routes.JOBS, response_model=JobPage)(self.list_jobs)
        router.post(routes.CANCEL + "/{job_id}", response_model=JobRecord)(self.cancel)
        router.get(
            routes.EVENTS + "/{job_id}",
            response_class=EventSourceResponse,
            responses=_EVENT_STREAM,
            openapi_extra={"parameters": [TOKEN_PARAMETER]},
        )(self.events)
        return router

    async def infer_sync(self, request: Request) -> Response:
        """Run a workflow and return the ended job (200), also if it failed.

        A job that takes longer than the server holds a request is returned unfinished (202), and so
        is one that cannot be waited for because too many requests wait already. Closing the
        connection does not cancel the job.
        """
        submitted = await self._submit(request)
        job = submitted.job
        if not job.is_final:
            with _accepted(job):
                job = await self._wait(request, job, None, self._settings.max_sync_wait)
        return _submitted_response(submitted, job, 200 if job.is_final else 202)

    async def infer_async(self, request: Request) -> Response:
        """Accept a job and return it at once (202); poll it at ``Location``.

        A job that a free worker took and ended within milliseconds, such as one whose nodes were
        all cached, comes back finished and needs no second request.
        """
        submitted = await self._submit(request)
        job = submitted.job
        if job.status is JobStatus.RUNNING and not submitted.replayed:
            owner = owner_of(request)
            with _accepted(job):
                job = await self._backend.wait(owner, job.id, after=None, timeout=_SETTLE_S)
        return _submitted_response(submitted, job, 202)

    async def check_status(self, request: Request, job_id: str) -> Response:
        """The job; the request is held for up to ``wait`` seconds while there is nothing new."""
        query = read_query(request, StatusQuery)
        owner = await owner_of_job(self._backend, request, job_id)
        job = await self._backend.get(owner, job_id)
        wait = min(query.wait, self._settings.max_wait)
        if wait > 0 and not _is_news(job, query.after):
            job = await self._wait(request, job, query.after, wait, owner=owner)
        return _job_response(job)

    async def list_jobs(self, request: Request, query: Annotated[JobsQuery, Query()]) -> Response:
        """The caller's jobs, newest first."""
        async with self._lists.hold(owner_of(request)):
            owner = checked_owner(request, query.owner)
            page = await self._backend.list_jobs(
                None if query.owner == _ALL_OWNERS else owner,
                status=query.status,
                workflow=query.workflow,
                labels=label_map(query.label) or None,
                cursor=query.cursor,
                limit=query.limit,
            )
        return Response(page.model_dump_json(), headers=_NO_STORE, media_type="application/json")

    async def cancel(self, request: Request, job_id: str) -> Response:
        """Request cancellation of a job. Repeating it, or for an ended job, changes nothing."""
        owner = await owner_of_job(self._backend, request, job_id)
        return _job_response(await self._backend.cancel(owner, job_id))

    async def events(
        self,
        request: Request,
        job_id: str,
        headers: Annotated[EventHeaders, Header()],
    ) -> Response:
        """Server-sent events: ``status``, ``progress``, ``preview``, ``output``, then ``done``.

        204, without events, when ``Last-Event-ID`` says that ``done`` was received.
        """
        owner = await owner_of_job(self._backend, request, job_id)
        job = await self._backend.get(owner, job_id)
        known = headers.last_event_id or ""
        after = int(known) if _VERSION.fullmatch(known) else None
        if job.is_final and after == job.version:
            return Response(status_code=204, headers=_NO_STORE)  # what ends an EventSource
        slot = self._waits.slot(owner_of(request))
        stream = self._stream(slot, owner, job.id, after)
        response = _EventStream(stream, ping=self._settings.keep_alive)
        response.slot = slot
        return response

    async def _stream(
        self, slot: Slot, owner: str, job_id: str, after: int | None
    ) -> AsyncIterator[ServerSentEvent]:
        try:
            events = self._backend.events(owner, job_id, after=after)
            while event := await slot.until_ended(lambda: anext(events, None)):
                yield ServerSentEvent(
                    event.model_dump_json(exclude=_unset(event)),
                    event=str(event.type),
                    id=_event_id(event),
                )
        except BackendError as error:
            log.warning("the event stream ended: %s", error, extra=fields(job=job_id))

    async def _submit(self, request: Request) -> SubmitResult:
        options, headers = read_query(request, SubmitOptions), read_headers(request, JobHeaders)
        workflow = request.path_params.get("workflow") or self._default
        if workflow is None:
            raise ProblemError(
                ErrorCode.UNKNOWN_WORKFLOW,
                "the server has several workflows and no default; name one:"
                f" {request.url.path}/NAME",
            )
        access = access_of(request)

        def parse(body: bytes) -> SubmitRequest:
            submission = SubmitRequest(
                owner=access.owner,
                budget=access.budget,
                key_webhook=access.webhook,
                workflow=workflow,
                inputs=parse_json_object(body),
                options=options,
                idempotency_key=headers.idempotency_key,
                contract=headers.contract,
            )
            _ = submission.fingerprint  # kept; it takes as long as the parsing
            return submission

        submission = await self._bodies.read_json(
            request,
            access.owner,
            self._settings.max_body_bytes,
            forms=self._settings.auth != "proxy",
            parse=parse,
        )
        return await self._submitter.submit(submission)

    async def _wait(
        self,
        request: Request,
        job: JobRecord,
        after: int | None,
        seconds: float,
        *,
        owner: str | None = None,
    ) -> JobRecord:
        owner = owner or owner_of(request)
        newer = await self._waits.hold(
            owner_of(request),
            request.receive,
            lambda: self._backend.wait(owner, job.id, after=after, timeout=seconds),
        )
        return newer or await self._backend.get(owner, job.id)


def _event_id(event: JobEvent) -> str | None:
    """The version that a stream goes on from; the final one only once all was sent."""
    if event.job is None or (event.job.is_final and event.type != "done"):
        return None
    return str(event.job.version)


class _EventStream(EventSourceResponse):
    """Takes its slot before the first byte, while the request can still be refused."""

    slot: Slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold the slot while events flow."""
        async with self.slot:
            await super().__call__(scope, receive, send)


@contextmanager
def _accepted(job: JobRecord) -> Generator[None]:
    """Keep what fails after a job was accepted from its answer: an error would have the caller
    submit the job again, and run it twice."""
    try:
        yield
    except (BackendError, ProblemError) as error:
        log.info("the job is answered without a wait: %s", error, extra=fields(job=job.id))
    except Exception:
        log.exception("waiting for the end of a job failed", extra=fields(job=job.id))


def _unset(event: JobEvent) -> set[str]:
    """Fields of other types of events; what the event has is as other routes return it."""
    return {name for name in JobEvent.model_fields if getattr(event, name) is None}


def _is_news(job: JobRecord, after: int | None) -> bool:
    return job.is_final or (after is not None and job.version > after)


def _job_response(
    job: JobRecord, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(
        job.model_dump_json(), status, {**_NO_STORE, **(headers or {})}, "application/json"
    )


def _submitted_response(submitted: SubmitResult, job: JobRecord, status: int) -> Response:
    headers = {"Location": f"{routes.CHECK_STATUS}/{job.id}"}
    if submitted.replayed:
        headers[routes.REPLAYED] = "true"
    return _job_response(job, status, headers)
