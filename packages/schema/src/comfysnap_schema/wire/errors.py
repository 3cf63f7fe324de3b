"""Errors on the wire (RFC 9457) and the errors that reading a workflow raises.

Exception tree::

    SchemaError
    ├── GraphError       the graph file is not an API-format graph
    │   └── UiFormatError    a UI export cannot be converted faithfully
    ├── CatalogueError   /object_info or nodes.json cannot be read
    ├── WorkflowError    workflow.toml, contracts.json or prepare.py is wrong
    ├── InputError       inputs are not valid for a workflow (``fields`` lists each problem)
    └── ProjectError     comfysnap.toml is wrong
"""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, Field


class ErrorCode(StrEnum):
    """Known values of ``Problem.code``; a server may send newer ones, so the field is open.

    Example: ``is_retryable = error.code == ErrorCode.QUEUE_FULL``
    """

    # of a request
    INVALID_JSON = "invalid_json"
    INVALID_REQUEST = "invalid_request"
    INVALID_INPUT = "invalid_input"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNKNOWN_WORKFLOW = "unknown_workflow"
    UNKNOWN_JOB = "unknown_job"
    UNKNOWN_OUTPUT = "unknown_output"
    UNKNOWN_FILE = "unknown_file"
    MODEL_REFUSED = "model_refused"
    """The URL of a model is not allowed, or what it has is not the model; also of a job."""
    OUTPUT_EXPIRED = "output_expired"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    MISSING_SCOPE = "missing_scope"
    CONTRACT_MISMATCH = "contract_mismatch"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    FILE_TOO_LARGE = "file_too_large"
    HASH_MISMATCH = "hash_mismatch"
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    QUOTA_EXCEEDED = "quota_exceeded"
    QUEUE_FULL = "queue_full"
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"
    # of a job that did not succeed
    GRAPH_INVALID = "graph_invalid"
    NODE_FAILED = "node_failed"
    OUT_OF_MEMORY = "out_of_memory"
    WORKER_LOST = "worker_lost"
    ENGINE_FAILED = "engine_failed"
    INPUT_UNAVAILABLE = "input_unavailable"
    MODEL_UNAVAILABLE = "model_unavailable"
    """A model could not be downloaded; the same job may succeed later."""
    OUTPUT_MISSING = "output_missing"
    OUTPUT_NOT_STORED = "output_not_stored"
    JOB_CANCELLED = "job_cancelled"
    JOB_TIMED_OUT = "job_timed_out"
    JOB_EXPIRED = "job_expired"


class FieldProblem(BaseModel, frozen=True, extra="ignore", defer_build=True):
    """One problem with an API field or a node."""

    field: str | None = None
    """The API parameter concerned (``prompt``), or None when the place has no parameter."""
    message: str
    """What is wrong and what is valid, in one sentence."""
    node: str | None = None
    """The id of the node concerned, when there is one."""


class Problem(BaseModel, frozen=True, extra="ignore", defer_build=True):
    """A problem+json body, and the ``error`` of a job that did not succeed."""

    type: str = "about:blank"
    title: str
    status: int | None = None
    """The HTTP status; None inside a job."""
    detail: str | None = None
    code: Annotated[ErrorCode | str, Field(union_mode="left_to_right")] = ErrorCode.INTERNAL
    fields: tuple[FieldProblem, ...] = ()
    budget: str | None = None
    """The budget that is used up (``requests_per_minute``, ``max_unfinished_jobs``,
    ``max_stored_bytes``), when one is."""
    limit: int | None = None
    """The limit of that budget."""
    scope: str | None = None
    """The scope that the key lacks, with ``missing_scope``."""
    request_id: str | None = None


class SchemaError(Exception):
    """Base class of the errors that this package raises.

    Args:
        code: Stable, for programs and tests: ``unknown_key``, ``no_such_path``, ...
        message: What is wrong and what is valid.
        file: The file with the error, if any.
        field: The key in that file (``inputs.seed.path``) or the API field.
    """

    def __init__(
        self, code: str, message: str, *, file: str | None = None, field: str | None = None
    ) -> None:
        self.code = code
        self.message = message
        self.file = file
        self.field = field
        super().__init__(message)

    def __str__(self) -> str:
        """``file: field: message``, leaving out what is unknown."""
        return ": ".join(part for part in (self.file, self.field, self.message) if part)


class GraphError(SchemaError):
    """The graph is not an API-format export."""


class UiFormatError(GraphError):
    """A UI export has parts that only ComfyUI's own editor can convert to a graph.

    Args:
        refused: The parts that cannot be converted, as ``(code, node, message)``; codes are
            ``unknown_node``, ``custom_widget``, ``widget_values``, ``dynamic_prompt``,
            ``date_format``, ``broken_link``, ``hidden_links``, ``group_node``, ``too_large``.
        file: The file with the error, if any.
    """

    def __init__(
        self, refused: tuple[tuple[str, str, str], ...], *, file: str | None = None
    ) -> None:
        self.refused = refused
        nodes: dict[str, list[str]] = {}
        for _, node, message in refused:
            nodes.setdefault(message, []).append(node)
        details = "; ".join(f"{message} (node {', '.join(at)})" for message, at in nodes.items())
        super().__init__(
            "not_convertible", f"only ComfyUI itself can export this workflow: {details}", file=file
        )


class CatalogueError(SchemaError):
    """The node catalogue cannot be read, or is not a valid one."""


class WorkflowError(SchemaError):
    """A file of a workflow folder is wrong."""


class ProjectError(SchemaError):
    """``comfysnap.toml`` is wrong."""


class InputError(SchemaError):
    """Inputs are not valid for a workflow; ``fields`` lists every problem."""

    def __init__(self, fields: tuple[FieldProblem, ...]) -> None:
        self.fields = fields
        first = fields[0]
        super().__init__("invalid_input", first.message, field=first.field)
