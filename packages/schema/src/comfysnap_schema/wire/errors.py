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
    """Known values of ``Problem.code``, each with its cause and its cure; a server may send newer
    ones, so the field is open.

    Example: ``is_retryable = error.code == ErrorCode.QUEUE_FULL``
    """

    # of a request
    INVALID_JSON = "invalid_json"
    """Cause: the body is not JSON, has a duplicate key, or is nested too deeply.
    Cure: send one object, for example ``{"prompt": "a fox"}``."""
    INVALID_REQUEST = "invalid_request"
    """Cause: a query parameter or header is unknown or has an invalid value.
    Cure: correct the one that ``detail`` names; inputs of a workflow go into the body."""
    INVALID_INPUT = "invalid_input"
    """Cause: an input is missing, unknown or outside its bounds.
    Cure: correct the inputs in ``fields``; ``GET /workflows/NAME`` has their schema."""
    BODY_TOO_LARGE = "body_too_large"
    """Cause: the JSON body is larger than ``serve.max_body_bytes``.
    Cure: upload files first (``PUT /files/SHA256``) instead of sending them inline."""
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    """Cause: the body is not ``application/json``, or a file is not of the input's kind.
    Cure: send the content type, or the kind of file, that ``detail`` names."""
    NOT_FOUND = "not_found"
    """Cause: the server has no such route.
    Cure: compare the URL with ``/docs`` of the server."""
    METHOD_NOT_ALLOWED = "method_not_allowed"
    """Cause: the route does not support this method.
    Cure: use one of those in the ``Allow`` header."""
    UNKNOWN_WORKFLOW = "unknown_workflow"
    """Cause: the server does not serve a workflow of this name.
    Cure: ``GET /workflows`` lists the names; one that was just added needs a restart or a
    deploy."""
    UNKNOWN_JOB = "unknown_job"
    """Cause: the id is wrong, the job belongs to another owner, or it was deleted after
    ``keep_jobs``.
    Cure: use the id and the key with which the job was submitted."""
    UNKNOWN_OUTPUT = "unknown_output"
    """Cause: the job has no output file of this name.
    Cure: use the ``url`` of the file in the job."""
    UNKNOWN_FILE = "unknown_file"
    """Cause: an input names a SHA-256 that this owner has not uploaded.
    Cure: upload the file with ``PUT /files/SHA256`` and submit again; the clients do."""
    MODEL_REFUSED = "model_refused"
    """Cause: the URL of a model is not allowed, or its content is refused; jobs can have it too.
    Cure: use a host in ``serve.remote_models.hosts``, and a safetensors file with the right
    hash."""
    OUTPUT_EXPIRED = "output_expired"
    """Cause: the file was deleted after ``keep_outputs`` (``deploy.retention_hours`` on Modal).
    Cure: run the job again; keep files longer, or download them when the job ends."""
    UNAUTHORIZED = "unauthorized"
    """Cause: no key, a wrong one, or one that was revoked or has expired.
    Cure: set ``COMFYSNAP_API_KEY``, or ``MODAL_KEY`` and ``MODAL_SECRET`` behind Modal's proxy
    auth."""
    FORBIDDEN = "forbidden"
    """Cause: the ``Host`` or ``Origin`` of the request is not allowed.
    Cure: add it to ``serve.hosts`` or ``serve.origins``."""
    MISSING_SCOPE = "missing_scope"
    """Cause: the key lacks the scope in ``scope``.
    Cure: use another key, or add one: ``comfysnap keys add NAME --scope SCOPE``."""
    CONTRACT_MISMATCH = "contract_mismatch"
    """Cause: the caller's generated module is not compatible with the workflow as it is served
    now.
    Cure: run ``comfysnap generate`` where the caller is built."""
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    """Cause: the idempotency key was used before, with another body or workflow.
    Cure: use a new key for a new job."""
    FILE_TOO_LARGE = "file_too_large"
    """Cause: a file is larger than ``serve.max_file_bytes``.
    Cure: send a smaller one, or raise the limit."""
    HASH_MISMATCH = "hash_mismatch"
    """Cause: the uploaded bytes do not have the SHA-256 in the URL.
    Cure: upload the file again; check that nothing on the way changes it."""
    RANGE_NOT_SATISFIABLE = "range_not_satisfiable"
    """Cause: the ``Range`` starts after the end of the file.
    Cure: ask for a part that exists; ``Content-Range`` has the size."""
    QUOTA_EXCEEDED = "quota_exceeded"
    """Cause: the owner's budget in ``budget`` is used up.
    Cure: wait until jobs end or files pass their retention; ``GET /limits`` shows what is used."""
    QUEUE_FULL = "queue_full"
    """Cause: the server's queue is full.
    Cure: try again after ``Retry-After`` seconds; the clients do."""
    RATE_LIMITED = "rate_limited"
    """Cause: more requests than the key may make in a minute, or more than may be held open.
    Cure: try again after ``Retry-After`` seconds; the clients do."""
    UNAVAILABLE = "unavailable"
    """Cause: the server is starting, stopping, short of disk, or cannot reach what it needs.
    Cure: try again after ``Retry-After`` seconds; ``GET /ready`` says when it is ready."""
    INTERNAL = "internal"
    """Cause: an error of the server.
    Cure: look for the ``request_id`` in its log, which has the traceback."""
    # of a job that did not succeed
    GRAPH_INVALID = "graph_invalid"
    """Cause: ComfyUI refuses the graph with these inputs: a node class, a model or a link is
    missing.
    Cure: correct what ``fields`` names; ``comfysnap check`` and ``comfysnap doctor`` find it
    earlier."""
    NODE_FAILED = "node_failed"
    """Cause: a node raised an exception.
    Cure: ``fields`` names the node; the traceback is in the log of the worker."""
    OUT_OF_MEMORY = "out_of_memory"
    """Cause: the GPU or the machine ran out of memory.
    Cure: make the picture or the batch smaller, or use a larger GPU."""
    WORKER_LOST = "worker_lost"
    """Cause: the process or container that ran the job ended.
    Cure: submit it again; ``max_attempts`` lets the server do so by itself."""
    ENGINE_FAILED = "engine_failed"
    """Cause: ComfyUI did not start, or lost its GPU.
    Cure: read the worker's log; run ``comfysnap doctor``."""
    INPUT_UNAVAILABLE = "input_unavailable"
    """Cause: an input file could not be fetched from its URL.
    Cure: check that the URL is public and answers; upload the file instead."""
    MODEL_UNAVAILABLE = "model_unavailable"
    """Cause: a model could not be downloaded: the host is down, a token is missing, or the cache
    is full.
    Cure: the same job may succeed later; check ``HF_TOKEN`` and ``CIVITAI_TOKEN``."""
    OUTPUT_MISSING = "output_missing"
    """Cause: the graph ran, but did not make an output of the map.
    Cure: check ``node`` and ``kind`` of the output in ``workflow.toml``."""
    OUTPUT_NOT_STORED = "output_not_stored"
    """Cause: the output files could not be put into the bucket, and ``when_down`` is ``"fail"``.
    Cure: check the bucket and its credentials; ``"wait"`` keeps the job until it is back."""
    JOB_CANCELLED = "job_cancelled"
    """Cause: someone cancelled the job, or its caller stopped waiting.
    Cure: submit it again; ``cancel_on_timeout=False`` keeps jobs whose callers leave."""
    JOB_TIMED_OUT = "job_timed_out"
    """Cause: the job ran longer than its ``timeout``.
    Cure: give it more, up to ``serve.max_timeout`` (``deploy.timeout`` on Modal)."""
    JOB_EXPIRED = "job_expired"
    """Cause: the job did not start within ``serve.queue_timeout``.
    Cure: submit it again, or add workers."""


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
        found = [f"{message} (node {', '.join(at)})" for message, at in nodes.items()]
        lines = found[0] if len(found) == 1 else "".join(f"\n  {each}" for each in found)
        super().__init__(
            "not_convertible",
            f"only ComfyUI itself can export this workflow: {lines}".replace(": \n", ":\n"),
            file=file,
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
