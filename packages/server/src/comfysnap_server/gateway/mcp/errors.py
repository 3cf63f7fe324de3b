"""Errors of JSON-RPC, for all requests to ``/mcp`` that are refused before a tool is called."""

from http import HTTPStatus
from typing import Any, Final

from comfysnap_schema.wire import ErrorCode, Problem

PATH: Final = "/mcp"

_INVALID_REQUEST: Final = -32600
_INTERNAL: Final = -32603
_PARSE_ERROR: Final = -32700


def is_mcp(path: str) -> bool:
    """Whether a path answers in JSON-RPC."""
    return path == PATH


def error_body(problem: Problem) -> dict[str, Any]:
    """A problem as MCP's clients read it; the HTTP status stays what it is."""
    status = problem.status or HTTPStatus.INTERNAL_SERVER_ERROR
    code = _INTERNAL if status >= HTTPStatus.INTERNAL_SERVER_ERROR else _INVALID_REQUEST
    if problem.code == ErrorCode.INVALID_JSON:
        code = _PARSE_ERROR
    data = problem.model_dump(
        mode="json", include={"code", "budget", "limit", "scope", "request_id"}, exclude_none=True
    )
    error = {"code": code, "message": problem.detail or problem.title, "data": data}
    return {"jsonrpc": "2.0", "id": None, "error": error}
