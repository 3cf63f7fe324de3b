"""A page for each workflow: ``/`` lists them, ``/w/{workflow}`` runs one.

The pages are files that say nothing of this server, so they are served without a key; they ask the
API for the rest, with a key that is typed in.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from comfysnap_schema.wire import ErrorCode
from comfysnap_server.gateway.problems import ProblemError

LIST: Final = "/"
WORKFLOW: Final = "/w/"
"""Followed by the name of a workflow."""
FILES: Final = "/page/"
"""Followed by a hash of all files and the name of one."""

_TYPES: Final = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:{files};"
    " media-src 'self' blob:{files}; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
_HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
Origin = Callable[[], Awaitable[str | None]]
_METHODS: Final = ["GET", "HEAD"]
_NO_CACHE: Final = "no-cache"
_FOR_EVER: Final = "public, max-age=31536000, immutable"


def is_page(path: str) -> bool:
    """Whether a path is one of a page, which needs no key."""
    return path == LIST or path.startswith((WORKFLOW, FILES))


def page_router(origin: Origin | None = None) -> APIRouter:
    """The pages and what they load. Files are read from the disk when they are first asked for.

    Args:
        origin: Returns where output files come from, if not from this server.
    """
    router = APIRouter(include_in_schema=False)

    @router.api_route(LIST, methods=_METHODS)
    async def list_page(request: Request) -> Response:
        return await _html(request, "list.html", "./", None)

    @router.api_route(WORKFLOW + "{name}", methods=_METHODS)
    async def workflow_page(request: Request, name: str) -> Response:
        return await _html(request, "workflow.html", "../", origin)

    @router.api_route(FILES + "{version}/{name}", methods=_METHODS)
    async def file(request: Request, version: str, name: str) -> Response:
        static = _static()
        found = static.files.get(name)
        kind = _TYPES.get(name[name.rfind(".") :])
        if found is None or kind is None:
            raise ProblemError(ErrorCode.NOT_FOUND, "Not Found")
        # another version is asked for while a deployment changes
        caching = _FOR_EVER if version == static.version else _NO_CACHE
        return _answer(request, found, kind, caching)

    return router


@dataclass(frozen=True)
class _Static:
    files: Mapping[str, bytes]
    version: str
    """A hash of all files, as modules import each other by relative names."""


@cache
def _static() -> _Static:
    folder = files("comfysnap_server.gateway.page") / "static"
    found = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(name.encode() + b"\0" + hashlib.sha256(found[name]).digest())
    return _Static(found, digest.hexdigest()[:16])


@cache
def _shell(name: str, root: str) -> bytes:
    static = _static()
    text = static.files[name].decode()
    path = f"{root}{FILES[1:]}{static.version}"
    return text.replace("{files}", path).replace("{root}", root).encode()


async def _html(request: Request, name: str, root: str, origin: Origin | None) -> Response:
    """A page; ``root`` is the way from it to the server's root, so that a prefix does no harm."""
    files = await origin() if origin else None
    return _answer(request, _shell(name, root), "text/html", _NO_CACHE, files)


def _answer(
    request: Request, content: bytes, kind: str, caching: str, origin: str | None = None
) -> Response:
    policy = _POLICY.format(files=f" {origin}" if origin else "")
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {
        **_HEADERS, "Content-Security-Policy": policy, "ETag": etag, "Cache-Control": caching
    }  # fmt: skip
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=kind)
