"""Problem responses (RFC 9457): every error of the gateway leaves through here."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from starlette.responses import Response
from starlette.types import Scope

from comfysnap_schema.wire import PROBLEM_JSON, RETRY_AFTER, ErrorCode, FieldProblem, Problem
from comfysnap_server.errors import BackendError, ComfysnapServerError
from comfysnap_server.gateway.lingering import LingeringResponse
from comfysnap_server.gateway.mcp import errors as mcp_errors
from comfysnap_server.gateway.openai.errors import error_body, is_openai, status_of

STATUS_OF: Final[Mapping[ErrorCode, int]] = {
    ErrorCode.INVALID_JSON: 400,
    ErrorCode.INVALID_REQUEST: 422,
    ErrorCode.INVALID_INPUT: 422,
    ErrorCode.INPUT_UNAVAILABLE: 422,
    ErrorCode.GRAPH_INVALID: 422,
    ErrorCode.BODY_TOO_LARGE: 413,
    ErrorCode.FILE_TOO_LARGE: 413,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: 415,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.UNKNOWN_WORKFLOW: 404,
    ErrorCode.UNKNOWN_JOB: 404,
    ErrorCode.UNKNOWN_OUTPUT: 404,
    ErrorCode.UNKNOWN_FILE: 404,
    ErrorCode.MODEL_REFUSED: 422,
    ErrorCode.OUTPUT_EXPIRED: 410,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.MISSING_SCOPE: 403,
    ErrorCode.CONTRACT_MISMATCH: 409,
    ErrorCode.IDEMPOTENCY_MISMATCH: 422,
    ErrorCode.HASH_MISMATCH: 422,
    ErrorCode.RANGE_NOT_SATISFIABLE: 416,
    ErrorCode.QUOTA_EXCEEDED: 429,
    ErrorCode.QUEUE_FULL: 429,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.INTERNAL: 500,
}
"""HTTP status of a refused request; what is not here is 500."""

REQUEST_ID_KEY: Final = "comfysnap.request_id"
"""Where the request id stands in the ASGI scope."""


PROBLEM_KEY: Final = "comfysnap.problem"
"""Where the code of a refusal stands in the ASGI scope."""


class ProblemError(ComfysnapServerError):
    """A refusal; ``code`` decides the status unless ``status`` is given."""

    def __init__(
        self,
        code: ErrorCode,
        detail: str,
        *,
        status: int | None = None,
        fields: tuple[FieldProblem, ...] = (),
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        budget: str | None = None,
        limit: int | None = None,
        scope: str | None = None,
    ) -> None:
        self.code = code
        self.detail = detail
        self.status = status or STATUS_OF.get(code, 500)
        self.fields = fields
        self.budget = budget
        self.limit = limit
        self.scope = scope
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers[RETRY_AFTER] = str(max(1, round(retry_after)))
        super().__init__(detail)


def problem_of(error: BackendError) -> ProblemError:
    """The refusal of a request that the backend refused."""
    return ProblemError(
        error.code,
        error.detail,
        retry_after=error.retry_after,
        budget=error.budget,
        limit=error.limit,
    )


def invalid_input(*fields: FieldProblem) -> ProblemError:
    """The refusal of a body that does not fit the contract."""
    return ProblemError(
        ErrorCode.INVALID_INPUT,
        "; ".join(f"{item.field}: {item.message}" if item.field else item.message
                  for item in fields[:3]),
        fields=fields,
    )  # fmt: skip


def problem_response(scope: Scope, error: ProblemError) -> Response:
    """The response to a refusal."""
    scope[PROBLEM_KEY] = error.code
    problem = Problem(
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        detail=error.detail,
        code=error.code,
        fields=error.fields,
        budget=error.budget,
        limit=error.limit,
        scope=error.scope,
        request_id=scope.get(REQUEST_ID_KEY),
    )
    headers = {"Cache-Control": "no-store", **error.headers}
    kind = LingeringResponse if error.status == 413 else Response
    if mcp_errors.is_mcp(scope["path"]):
        body = json.dumps(mcp_errors.error_body(problem))
        return kind(body, error.status, headers, media_type="application/json")
    if is_openai(scope["path"]):
        body, status = json.dumps(error_body(problem)), status_of(error.status)
        return kind(body, status, headers, media_type="application/json")
    return kind(problem.model_dump_json(), error.status, headers, media_type=PROBLEM_JSON)
