"""Reads ``/object_info`` from a file or from a running ComfyUI."""

import json
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit, urlunsplit

from comfysnap_schema.wire import CatalogueError

MAX_OBJECT_INFO_BYTES: Final = 128 * 1024 * 1024
"""A plain install answers 0.5 MB; one with hundreds of node packs some tens."""
FETCH_TIMEOUT_S: Final = 60.0


def read_object_info(source: str, *, limit: int = MAX_OBJECT_INFO_BYTES) -> Any:
    """The JSON in a file, or at the ``/object_info`` of the server that a URL names.

    Raises:
        CatalogueError: ``unreadable``, ``unreachable``, ``too_large``, ``invalid_json``.
    """
    is_url = source.lower().startswith(("http://", "https://"))
    data = _fetch(source, limit) if is_url else _read(Path(source), limit)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CatalogueError("invalid_json", f"not JSON: {error}", file=source) from error


def _object_info_url(source: str) -> str:
    parts = urlsplit(source)
    path = parts.path.rstrip("/")
    if not path.endswith("/object_info"):
        path += "/object_info"
    return urlunsplit(parts._replace(path=path, fragment=""))


def _fetch(source: str, limit: int) -> bytes:
    # Only these handlers: no file:, no ftp:, no redirect to another place, no proxy.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    try:
        with opener.open(_object_info_url(source), timeout=FETCH_TIMEOUT_S) as response:
            return _within(response.read(limit + 1), limit, source)
    except HTTPError as error:
        error.close()
        raise CatalogueError(
            "unreachable", f"it answered HTTP {error.code} for /object_info", file=source
        ) from error
    except (URLError, HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise CatalogueError(
            "unreachable", f"no ComfyUI answers there: {reason}", file=source
        ) from error


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return _within(file.read(limit + 1), limit, str(path))
    except OSError as error:
        raise CatalogueError("unreadable", error.strerror or str(error), file=str(path)) from error


def _within(data: bytes, limit: int, source: str) -> bytes:
    if len(data) > limit:
        raise CatalogueError("too_large", f"larger than {limit} bytes", file=source)
    return data
