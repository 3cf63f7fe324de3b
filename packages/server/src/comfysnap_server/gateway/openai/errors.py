"""Errors in OpenAI's shape, for all requests below ``/v1``."""

from typing import Any, Final

from pydantic import JsonValue

from comfysnap_schema.wire import Problem

PREFIX: Final = "/v1/"
NO_RETRY: Final = {"x-should-retry": "false"}
"""OpenAI's clients send a failed request again without an idempotency key: a second job."""

_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES: Final = {"unauthorized": "invalid_api_key", "unknown_workflow": "model_not_found"}


def is_openai(path: str) -> bool:
    """Whether a path answers in OpenAI's shape."""
    return path.startswith(PREFIX)


def status_of(status: int) -> int:
    """The status that OpenAI has for a refusal: 400 for inputs that are not valid."""
    return 400 if status == 422 else status


def error_body(problem: Problem) -> dict[str, Any]:
    """A problem as OpenAI's clients read it; ``param`` is the field."""
    status = status_of(problem.status or 500)
    field = problem.fields[0].field if problem.fields else None
    error: dict[str, JsonValue] = {
        "message": problem.detail or problem.title,
        "type": _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        "param": field,
        "code": _CODES.get(str(problem.code), str(problem.code)),
    }
    return {"error": error}
