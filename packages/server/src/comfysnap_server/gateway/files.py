"""The routes of files: outputs of jobs, and uploads addressed by content."""

import re
from contextlib import AbstractContextManager, aclosing
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from comfysnap_schema.wire import ErrorCode, routes
from comfysnap_server.backends.protocol import Backend, OutputLink, StoredFile
from comfysnap_server.errors import BackendError
from comfysnap_server.gateway.bodies import BodyReader
from comfysnap_server.gateway.capacity import Places
from comfysnap_server.gateway.jobs import TOKEN_PARAMETER, access_of, owner_of, owner_of_job
from comfysnap_server.gateway.problems import ProblemError
from comfysnap_server.gateway.settings import GatewaySettings

_SHA256: Final = re.compile(routes.SHA256_PATTERN)
_RANGE: Final = re.compile(r"bytes=(?:(\d{1,19})-(\d{0,19})|-(\d{1,19}))")
_CONTENT_TYPE: Final = re.compile(r"[\w.+-]+/[\w.+-]+(; ?[\w.+-]+=[\w.+-]+)*", re.ASCII)
_INLINE: Final = frozenset({
    "image/png", "image/jpeg", "image/webp", "image/gif", "image/avif", "image/apng", "image/bmp",
    "video/mp4", "video/webm", "audio/mpeg", "audio/wav", "audio/x-wav", "audio/flac", "audio/ogg",
    "text/plain",
})  # fmt: skip
"""What a browser may show in place; the rest (SVG and HTML run scripts) is a download."""

_HARMLESS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Cache-Control": "private, max-age=31536000, immutable",
}


_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_CONTENT: Final = {"required": True, "content": {"application/octet-stream": _BINARY}}
_ANY: Final = {"application/octet-stream": _BINARY, "*/*": _BINARY}
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The file", "content": _ANY},
    206: {"description": "The range of it", "content": _ANY},
    302: {"description": "It is in an object store"},
    304: {"description": "The caller has it already"},
}
_RANGE_HEADERS: Final = [
    {"name": name, "in": "header", "required": False, "schema": {"type": "string"}}
    for name in ("Range", "If-Range", "If-None-Match")
]


class FileRoutes:
    """Handlers around one backend."""

    def __init__(
        self, backend: Backend, settings: GatewaySettings, bodies: BodyReader, downloads: Places
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._bodies = bodies
        self._downloads = downloads

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(tags=["files"])
        output = routes.OUTPUTS + "/{job_id}/{name}"
        router.get(
            output,
            response_class=FileResponse,
            responses=_ANSWERS,
            openapi_extra={"parameters": [*_RANGE_HEADERS, TOKEN_PARAMETER]},
        )(self.output)
        router.head(output, response_class=FileResponse, include_in_schema=False)(self.output)
        upload = routes.FILES + "/{sha256}"
        router.put(upload, status_code=204, openapi_extra={"requestBody": _CONTENT})(self.upload)
        router.head(upload, response_class=Response)(self.has_file)
        return router

    async def output(self, request: Request, job_id: str, name: str) -> Response:
        """A file that a job made; single ranges, ``If-Range`` and ``If-None-Match`` work."""
        owner = await owner_of_job(self._backend, request, job_id)
        file = await self._backend.open_output(owner, job_id, name)
        if isinstance(file, OutputLink):
            return RedirectResponse(file.url, 302, headers={"Cache-Control": "no-store"})
        etag = f'"{file.sha256}"'
        headers = {**_HARMLESS, "ETag": etag}
        if _matches(request.headers.get("if-none-match"), etag):
            return Response(status_code=304, headers=headers)
        _check_range(request, file)
        try:
            stat = file.path.stat()
        except FileNotFoundError as error:
            raise BackendError(ErrorCode.OUTPUT_EXPIRED, "the file is gone") from error
        # It comes from a node, and a line break in it would end the header.
        well_formed = _CONTENT_TYPE.fullmatch(file.content_type)
        content_type = file.content_type if well_formed else "application/octet-stream"
        kind = content_type.partition(";")[0].strip().lower()
        response = _Download(
            file.path,
            headers=headers,
            media_type=content_type,
            filename=name,
            stat_result=stat,
            content_disposition_type="inline" if kind in _INLINE else "attachment",
        )
        response.place = self._downloads.take(owner_of(request))
        return response

    async def upload(self, request: Request, sha256: str) -> Response:
        """Store an input file under the SHA-256 of its content."""
        digest = _checked_sha256(sha256)
        owner = owner_of(request)
        chunks = self._bodies.stream(
            request, owner, self._settings.max_file_bytes, ErrorCode.FILE_TOO_LARGE
        )
        async with aclosing(chunks):
            await self._backend.put_file(owner, digest, chunks, access_of(request).budget)
        return Response(status_code=204)

    async def has_file(self, request: Request, sha256: str) -> Response:
        """Whether the caller uploaded this file (200) or not (404)."""
        if not await self._backend.has_file(owner_of(request), _checked_sha256(sha256)):
            raise BackendError(ErrorCode.UNKNOWN_FILE, "unknown file")
        return Response()


class _Download(FileResponse):
    """Takes its place before the first byte, while the request can still be refused."""

    chunk_size = 256 * 1024  # each chunk is a hop to a thread: half the CPU time of 64 KiB
    place: AbstractContextManager[None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold the place while the file is sent."""
        with self.place:
            await super().__call__(scope, receive, send)


def _checked_sha256(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise ProblemError(
            ErrorCode.UNKNOWN_FILE, "a file is addressed by 64 lowercase hex digits of SHA-256"
        )
    return text


def _matches(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    given = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in given or etag in given


def _check_range(request: Request, file: StoredFile) -> None:
    """Leave one satisfiable range in the request: others are ignored, as RFC 9110 allows, or
    refused as a problem."""
    header = request.headers.get("range")
    if header is None:
        return
    found = _RANGE.fullmatch(header.strip())
    backwards = found and found[1] and found[2] and int(found[2]) < int(found[1])
    if not found or backwards:
        request.scope["headers"] = [
            (key, value) for key, value in request.scope["headers"] if key != b"range"
        ]
        return
    start = int(found[1]) if found[1] else file.size - int(found[3])
    if start >= file.size and (request.headers.get("if-range") in (None, f'"{file.sha256}"')):
        raise ProblemError(
            ErrorCode.RANGE_NOT_SATISFIABLE,
            f"the file has {file.size} bytes",
            headers={"Content-Range": f"bytes */{file.size}"},
        )
