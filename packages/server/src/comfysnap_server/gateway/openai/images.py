"""The routes of OpenAI's Images API: a workflow is a model, an image request is a job."""

import asyncio
import base64
import hashlib
import io
import json
import logging
import re
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from fastapi import APIRouter, Request
from pydantic import JsonValue
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from comfysnap_schema.wire import (
    ErrorCode,
    FieldProblem,
    JobRecord,
    JobStatus,
    OutputFile,
    Problem,
    SubmitOptions,
    routes,
)
from comfysnap_schema.workflow import Workflow
from comfysnap_server.backends.protocol import Backend
from comfysnap_server.errors import BackendError
from comfysnap_server.gateway.adapters import AdapterJobs, output_files
from comfysnap_server.gateway.bodies import BodyReader
from comfysnap_server.gateway.input_urls import is_full
from comfysnap_server.gateway.jobs import access_of, owner_of
from comfysnap_server.gateway.json_bodies import parse_json_object
from comfysnap_server.gateway.links import Links
from comfysnap_server.gateway.long_polls import LongPolls, Slot
from comfysnap_server.gateway.openai.errors import NO_RETRY, PREFIX, error_body
from comfysnap_server.gateway.openai.fields import (
    ImageRequest,
    image_outputs,
    prompt_of,
    read_request,
    set_files,
    typed_values,
)
from comfysnap_server.gateway.problems import ProblemError, invalid_input, problem_of
from comfysnap_server.gateway.settings import GatewaySettings
from comfysnap_server.gateway.submit import (
    IDEMPOTENCY_KEY_PATTERN,
    JobSubmitter,
    SubmitRequest,
    unknown_workflow,
)
from comfysnap_server.logs import fields

log = logging.getLogger("comfysnap.gateway")

_MAX_FILES: Final = 17
"""Sixteen images and a mask."""
_CHUNK: Final = 1 << 20
_STATUS: Final = {JobStatus.TIMED_OUT: 504, JobStatus.EXPIRED: 503, JobStatus.CANCELLED: 409}
"""HTTP status of a job that did not succeed; others are 500."""


@dataclass(frozen=True, kw_only=True)
class _Accepted:
    """A request whose job was accepted."""

    owner: str
    job: JobRecord
    wanted: ImageRequest
    workflow: Workflow
    base_url: str


@dataclass
class _Body:
    """What a request brought."""

    values: dict[str, JsonValue]
    files: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """``image`` and ``mask`` to hashes of uploaded files."""


class ImageRoutes:
    """Handlers around one backend.

    Args:
        backend: Where jobs run.
        submitter: Makes the jobs.
        workflows: What there is; those with a text input and an image output are models.
        default: The model of a request that names none.
        settings: Limits, and aliases of models.
        waits: Held requests.
        bodies: Receives JSON.
        uploads: Receives forms.
        links: Signs the URLs of images.
    """

    def __init__(
        self,
        backend: Backend,
        submitter: JobSubmitter,
        workflows: Mapping[str, Workflow],
        default: str | None,
        settings: GatewaySettings,
        *,
        waits: LongPolls,
        bodies: BodyReader,
        uploads: BodyReader,
        links: Links,
    ) -> None:
        self._backend = backend
        self._submitter = submitter
        self._default = default
        self._settings = settings
        self._waits = waits
        self._bodies = bodies
        self._uploads = uploads
        self._jobs = AdapterJobs(backend, links)
        self._since = int(time.time())
        usable = {
            name: workflow
            for name, workflow in workflows.items()
            if prompt_of(workflow) is not None and image_outputs(workflow)
        }
        aliases = settings.openai.aliases
        for alias, name in aliases.items():
            if name not in usable:
                log.warning("[serve.openai] aliases: %r is not a workflow for images: %r",
                            alias, name)  # fmt: skip
        self._models = usable | {
            alias: usable[name] for alias, name in aliases.items() if name in usable
        }

    def router(self) -> APIRouter:
        """The routes; OpenAI documents them."""
        router = APIRouter(include_in_schema=False, prefix=PREFIX.rstrip("/"))
        router.get("/models")(self.list_models)
        router.get("/models/{model}")(self.model)
        router.post("/images/generations")(self.generate)
        router.post("/images/edits")(self.edit)
        return router

    async def list_models(self) -> Response:
        """Workflows that draw what a text says, and aliases of them."""
        return JSONResponse({"object": "list", "data": [*map(self._model, self._models)]})

    async def model(self, model: str) -> Response:
        """One of them."""
        self._workflow(model)
        return JSONResponse(self._model(model))

    async def generate(self, request: Request) -> Response:
        """Images from a text."""
        values = await self._bodies.read_json(
            request,
            owner_of(request),
            self._settings.max_body_bytes,
            forms=self._settings.auth != "proxy",
            parse=parse_json_object,
        )
        return await self._run(request, _Body(values), "image_generation")

    async def edit(self, request: Request) -> Response:
        """Images from images and a text."""
        return await self._run(request, await self._read_form(request), "image_edit")

    def _model(self, name: str) -> dict[str, JsonValue]:
        return {"id": name, "object": "model", "created": self._since, "owned_by": "comfysnap"}

    def _workflow(self, name: JsonValue) -> Workflow:
        if name is None:
            name = self._default
        workflow = self._models.get(name) if isinstance(name, str) else None
        if workflow is None:
            error = unknown_workflow(str(name), self._models)
            error.fields = (FieldProblem(field="model", message=error.detail),)
            raise error
        return workflow

    async def _run(self, request: Request, body: _Body, event: str) -> Response:
        workflow = self._workflow(body.values.pop("model", None))
        values = body.values
        for name, digests in body.files.items():
            set_files(workflow, "mask" if name == "mask" else "image", digests, values)
        wanted = read_request(workflow, values)
        job = await self._submit(request, workflow, wanted)
        accepted = _Accepted(
            owner=owner_of(request),
            job=job,
            wanted=wanted,
            workflow=workflow,
            base_url=str(request.base_url).rstrip("/"),
        )
        headers = {"Location": f"{routes.CHECK_STATUS}/{job.id}", "Cache-Control": "no-store"}
        if wanted.stream:
            slot = self._waits.slot(accepted.owner)
            stream = self._stream(slot, accepted, event)
            response = _ImageStream(stream, ping=self._settings.keep_alive, headers=headers)
            response.slot = slot
            response.refused = lambda: self._jobs.cancel_soon(accepted.owner, accepted.job.id)
            return response
        with _once(job):
            done = await self._wait(request, accepted)
            return JSONResponse(await self._answer(accepted, done), headers=headers)

    async def _submit(
        self, request: Request, workflow: Workflow, wanted: ImageRequest
    ) -> JobRecord:
        key = request.headers.get(routes.IDEMPOTENCY_KEY)
        if key is not None and not re.fullmatch(IDEMPOTENCY_KEY_PATTERN, key):
            raise ProblemError(ErrorCode.INVALID_REQUEST, f"invalid {routes.IDEMPOTENCY_KEY}")
        try:
            submitted = await self._submitter.submit(
                SubmitRequest(
                    owner=owner_of(request),
                    budget=access_of(request).budget,
                    key_webhook=access_of(request).webhook,
                    workflow=workflow.name,
                    inputs=wanted.inputs,
                    options=SubmitOptions(previews=wanted.partial_images > 0),
                    idempotency_key=key,
                    contract=None,
                )
            )
        except ProblemError as error:
            raise wanted.renamed(error) from error
        return submitted.job

    async def _wait(self, request: Request, accepted: _Accepted) -> JobRecord:
        """The finished job.

        Raises:
            ProblemError: 504 when it takes longer than a request is held. The job goes on, unless
                its caller hung up.
        """
        owner, job = accepted.owner, accepted.job
        seconds = self._settings.max_sync_wait
        if not job.is_final:
            try:
                newer = await self._waits.hold(
                    owner,
                    request.receive,
                    lambda: self._backend.wait(owner, job.id, after=None, timeout=seconds),
                )
            except ProblemError:  # too many wait: nobody could collect the job
                self._jobs.cancel_soon(accepted.owner, accepted.job.id)
                raise
            if newer is None and await request.is_disconnected():
                self._jobs.cancel_soon(accepted.owner, accepted.job.id)
            job = newer or await self._backend.get(owner, job.id)
        if not job.is_final:
            raise ProblemError(
                ErrorCode.UNAVAILABLE,
                f"job {job.id} takes longer than this server holds a request; set stream, or ask"
                f" for it at {routes.CHECK_STATUS}/{job.id}",
                status=504,
            )
        return job

    async def _answer(self, accepted: _Accepted, job: JobRecord) -> dict[str, Any]:
        _check_succeeded(accepted, job)
        wanted = accepted.wanted
        data: list[dict[str, str]] = []
        used = ""
        for file in output_files(job, image_outputs(accepted.workflow)):
            item: dict[str, str] = {}
            used = file.content_type.removeprefix("image/")
            if wanted.response_format != "b64_json":
                item["url"] = await self._jobs.url(accepted.owner, job.id, file, accepted.base_url)
            if wanted.response_format != "url":
                content, used = await self._content(accepted, file)
                item["b64_json"] = base64.b64encode(content).decode()
            data.append(item)
        answer = {"created": _seconds(job), "data": data, "output_format": used}
        return answer | ({"size": _size(job)} if _size(job) else {})

    async def _stream(
        self, slot: Slot, accepted: _Accepted, kind: str
    ) -> AsyncIterator[ServerSentEvent]:
        owner, job, wanted = accepted.owner, accepted.job, accepted.wanted
        done, sent, fraction = False, 0, 0.0
        try:
            events = self._backend.events(owner, job.id, after=None)
            while event := await slot.until_ended(lambda: anext(events, None)):
                if event.progress is not None:
                    fraction = event.progress.fraction
                # spread over the run, not the first ones
                due = fraction >= (sent + 1) / (wanted.partial_images + 1)
                if event.preview is not None and sent < wanted.partial_images and due:
                    partial = {
                        "b64_json": event.preview.data,
                        "partial_image_index": sent,
                        "output_format": event.preview.content_type.removeprefix("image/"),
                    }
                    yield _event(f"{kind}.partial_image", job, wanted, partial)
                    sent += 1
                if event.type == "done" and event.job is not None:
                    done = True
                    _check_succeeded(accepted, event.job)
                    for file in output_files(event.job, image_outputs(accepted.workflow)):
                        content, used = await self._content(accepted, file)
                        final = {
                            "b64_json": base64.b64encode(content).decode(),
                            "output_format": used,
                            "usage": _USAGE,
                        }
                        yield _event(f"{kind}.completed", event.job, wanted, final)
            if not done:  # the server stops, or needs the place
                yield _failure(ProblemError(ErrorCode.UNAVAILABLE, "the stream was ended"))
        except (ProblemError, BackendError) as error:
            yield _failure(problem_of(error) if isinstance(error, BackendError) else error)
        except Exception:
            log.exception("an image stream failed", extra=fields(job=job.id))
            yield _failure(ProblemError(ErrorCode.INTERNAL, "the server failed; see its log"))
        finally:
            if not done:
                self._jobs.cancel_soon(accepted.owner, accepted.job.id)

    async def _content(self, accepted: _Accepted, file: OutputFile) -> tuple[bytes, str]:
        """The image in the format that is asked for, and that format."""
        content = await self._jobs.read(accepted.owner, accepted.job.id, file)
        stored, wanted = file.content_type.removeprefix("image/"), accepted.wanted
        if wanted.output_format in (None, stored):
            return content, stored
        return await asyncio.to_thread(
            _converted, content, wanted.output_format, wanted.compression
        ), wanted.output_format

    async def _read_form(self, request: Request) -> _Body:
        """Texts and files of a multipart body; the files are stored."""
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise ProblemError(
                ErrorCode.UNSUPPORTED_MEDIA_TYPE, "send the body as multipart/form-data"
            )
        owner = owner_of(request)
        chunks = self._uploads.stream(
            request, owner, self._settings.max_file_bytes, ErrorCode.FILE_TOO_LARGE
        )
        async with aclosing(chunks):
            try:
                form = await _FormParser(
                    request.headers,
                    chunks,
                    max_files=_MAX_FILES,
                    max_part_size=self._settings.max_body_bytes,
                ).parse()
            except (MultiPartException, KeyError) as error:
                raise ProblemError(
                    ErrorCode.INVALID_REQUEST, f"the form is not valid: {error}", status=400
                ) from error
        texts: dict[str, str] = {}
        body = _Body({})
        try:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    place = body.files.setdefault(name.removesuffix("[]"), [])
                    place.append(await self._store(request, value))
                else:
                    texts[name] = value
        finally:
            await form.close()
        if unknown := body.files.keys() - {"image", "mask"}:
            raise invalid_input(FieldProblem(field=min(unknown), message="unknown file"))
        model = texts.pop("model", None)
        body.values = {"model": model, **typed_values(self._workflow(model), texts)}
        return body

    async def _store(self, request: Request, file: UploadFile) -> str:
        digest = hashlib.sha256()
        async with aclosing(_chunks(file)) as chunks:
            async for chunk in chunks:
                digest.update(chunk)
        owner, name = owner_of(request), digest.hexdigest()
        if not await self._backend.has_file(owner, name):
            budget = access_of(request).budget
            await self._backend.put_file(owner, name, _chunks(file), budget)
        return name


_USAGE: Final = {
    "input_tokens": 0, "output_tokens": 0, "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}  # fmt: skip


class _FormParser(MultiPartParser):
    """Refuses a form that breaks off, of which Starlette would take the first parts, texts that
    take more memory than a JSON body may, and files for which the disk has no room."""

    _ended = False
    _text_bytes = 0
    _unchecked = 0

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is not None:
            self._unchecked += end - start
            if self._unchecked > _CHUNK:
                self._unchecked = 0
                if is_full(Path(tempfile.gettempdir())):
                    raise ProblemError(
                        ErrorCode.UNAVAILABLE,
                        "the disk of the server is almost full",
                        retry_after=60,
                    )
        else:
            self._text_bytes += end - start
            if self._text_bytes > self.max_part_size:
                raise ProblemError(
                    ErrorCode.BODY_TOO_LARGE,
                    f"the texts of a form may have at most {self.max_part_size} bytes",
                )
        super().on_part_data(data, start, end)

    def on_end(self) -> None:
        self._ended = True

    async def parse(self) -> FormData:
        form = await super().parse()
        if not self._ended:
            for file in self._files_to_close_on_error:
                file.close()
            raise MultiPartException("it breaks off")
        return form


class _ImageStream(EventSourceResponse):
    """Takes its slot before the first byte, while the request can still be refused."""

    slot: Slot
    refused: Any

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold the slot while events flow."""
        try:
            await self.slot.__aenter__()
        except ProblemError as error:
            self.refused()
            error.headers |= NO_RETRY
            raise
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.slot.__aexit__(None, None, None)


@contextmanager
def _once(job: JobRecord) -> Generator[None]:
    """Keep clients from sending a request again whose job was accepted."""
    try:
        yield
    except (ProblemError, BackendError) as error:
        refusal = problem_of(error) if isinstance(error, BackendError) else error
        refusal.headers |= NO_RETRY
        raise refusal from error
    except Exception as error:
        log.exception("the images of a job cannot be sent", extra=fields(job=job.id))
        raise ProblemError(
            ErrorCode.INTERNAL,
            f"the images of job {job.id} cannot be sent; the server's log has the reason",
            headers=NO_RETRY,
        ) from error


def _check_succeeded(accepted: _Accepted, job: JobRecord) -> None:
    if job.status is JobStatus.SUCCEEDED:
        return
    problem = job.error or Problem(title="the job did not succeed")
    status = _STATUS.get(cast("JobStatus", job.status), 500)
    raise accepted.wanted.renamed(
        ProblemError(
            cast("ErrorCode", problem.code),
            f"{problem.detail or problem.title} (job {job.id})",
            status=status,
            fields=problem.fields,
        )
    )


def _event(
    kind: str, job: JobRecord, wanted: ImageRequest, content: dict[str, Any]
) -> ServerSentEvent:
    data = {
        "type": kind,
        "created_at": _seconds(job),
        "size": _size(job) or "auto",
        "quality": "auto",
        "background": "auto",
        **content,
    }
    return ServerSentEvent(json.dumps(data), event=kind)


def _failure(error: ProblemError) -> ServerSentEvent:
    problem = Problem(
        title=error.detail,
        detail=error.detail,
        code=error.code,
        status=error.status,
        fields=error.fields,
    )
    return ServerSentEvent(json.dumps({"type": "error", **error_body(problem)}), event="error")


def _seconds(job: JobRecord) -> int:
    return int((job.finished_at or job.created_at).timestamp())


def _size(job: JobRecord) -> str | None:
    width, height = job.inputs.get("width"), job.inputs.get("height")
    return f"{width}x{height}" if isinstance(width, int) and isinstance(height, int) else None


def _converted(content: bytes, kind: str | None, quality: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as image:
        flat = image.convert("RGB") if kind == "jpeg" else image
        flat.save(buffer, kind, **({} if kind == "png" else {"quality": quality}))
    return buffer.getvalue()


async def _chunks(file: UploadFile) -> AsyncGenerator[bytes]:
    await file.seek(0)
    while chunk := await file.read(_CHUNK):
        yield chunk
