"""The exceptions of the client; those of the HTTP library never leak.

Exception tree::

    ComfysnapError
    ├── ConnectionFailed        no response after all attempts: refused, broken or timed out
    ├── UnexpectedResponse      not a response of this API: a proxy's error page, a redirect
    ├── DeadlineExceeded        the call's ``timeout`` passed (also a TimeoutError)
    ├── DownloadFailed          an output file has the wrong length or hash
    ├── InvalidWebhook          a webhook is not signed with the secret, or too old; see ``code``
    ├── APIError                the server rejected the request; see ``code``
    │   ├── InvalidInput        the inputs are not valid; see ``fields``
    │   ├── Unauthorized        the key is missing, wrong or lacks access
    │   ├── NotFound            unknown workflow, job, output or file
    │   ├── ContractMismatch    the workflow changed: run ``comfysnap generate`` again
    │   ├── IdempotencyMismatch the key was used for another submit
    │   ├── OutputExpired       the job still exists, its files have expired
    │   ├── TooLarge            the body or a file exceeds the server's limit
    │   ├── RateLimited         too many requests or jobs, after all attempts
    │   └── ServerError         5xx, after all attempts
    └── JobError                the job did not succeed; ``record`` is the final job
        ├── JobFailed
        ├── JobCancelled
        ├── JobTimedOut
        └── JobExpired

A cancelled task raises ``asyncio.CancelledError`` as usual; ``job_id_of`` finds its job.
"""

from collections.abc import Iterator
from typing import TypedDict, TypeVar, Unpack

from comfysnap_schema.wire import ErrorCode, FieldProblem, JobRecord, JobStatus, Problem


class ErrorDetails(TypedDict, total=False):
    """The keyword arguments of ``ComfysnapError``, where they are documented."""

    job_id: str | None
    record: JobRecord | None
    request_id: str | None
    attempts: int
    status: int | None
    retry_after: float | None
    idempotency_key: str | None


class ComfysnapError(Exception):
    """Base class of the client's errors.

    Attributes:
        job_id: ID of the job, if known; ``client.job(job_id, ...)`` returns its handle.
        record: The last known state of the job, or None.
        request_id: ``X-Request-Id`` of the last request, as in the server's log.
        attempts: Number of requests sent for the failed call.
        status: HTTP status of the last response, or None.
        retry_after: Seconds that the server asked to wait, or None.
        idempotency_key: Key of the failed submit; submitting with it again cannot create a
            second job.

    Example::

        try:
            output = await client.infer_sync(FluxInput(prompt="a fox"))
        except ComfysnapError as error:
            print(error, error.job_id)
    """

    def __init__(self, message: str, **details: Unpack[ErrorDetails]) -> None:
        self.message = message
        self.record: JobRecord | None = details.get("record")
        self.job_id: str | None = details.get("job_id") or (self.record and self.record.id)
        self.request_id: str | None = details.get("request_id")
        self.attempts: int = details.get("attempts", 0)
        self.status: int | None = details.get("status")
        self.retry_after: float | None = details.get("retry_after")
        self.idempotency_key: str | None = details.get("idempotency_key")
        super().__init__(message)

    def __str__(self) -> str:
        """The message, followed by the job, request, status and attempts if known."""
        known = (
            ("job", self.job_id),
            ("request", self.request_id),
            ("status", self.status),
            ("attempts", self.attempts if self.attempts > 1 else None),
        )
        details = ", ".join(f"{name} {value}" for name, value in known if value is not None)
        return f"{self.message} ({details})" if details else self.message


class ConnectionFailed(ComfysnapError):
    """No response after all attempts; the network error is the ``__cause__``."""


class UnexpectedResponse(ComfysnapError):
    """The response is not one of this API: check the URL, and any proxy in front of the server."""


class DeadlineExceeded(ComfysnapError, TimeoutError):
    """The ``timeout`` of the call passed; the ``__cause__`` is the last failure, if any.

    The job was cancelled unless ``cancel_on_timeout=False``; ``record`` is its last known state.
    """


class DownloadFailed(ComfysnapError):
    """The length or SHA-256 of a downloaded file does not match the job's record."""


class InvalidWebhook(ComfysnapError):
    """The request is not a webhook that this server sent just now.

    Attributes:
        code: ``missing_header``, ``invalid_timestamp``, ``too_old``, ``too_new``,
            ``invalid_signature`` or ``invalid_body``.

    Example::

        try:
            event = verify_webhook(headers, body, secret)
        except InvalidWebhook as error:
            print(error.code)
    """

    def __init__(self, code: str, message: str) -> None:
        self.code: str = code
        super().__init__(message)


class _WithProblem:
    """What errors have in common that the server explains."""

    problem: Problem

    @property
    def code(self) -> ErrorCode | str:
        """The error code; a plain ``str`` when it is newer than this client."""
        return self.problem.code

    @property
    def fields(self) -> tuple[FieldProblem, ...]:
        """The problems of single input fields."""
        return self.problem.fields


class APIError(_WithProblem, ComfysnapError):
    """The server rejected the request; branch on ``code``, never on the message.

    Attributes:
        problem: The complete problem+json body.

    Example::

        try:
            output = await client.infer_sync(FluxInput(prompt="a fox"))
        except APIError as error:
            print(error.code, [field.message for field in error.fields])
    """

    def __init__(self, problem: Problem, **details: Unpack[ErrorDetails]) -> None:
        self.problem: Problem = problem
        super().__init__(_sentence(problem), **details)
        self.request_id: str | None = self.request_id or problem.request_id


class InvalidInput(APIError):
    """The inputs are not valid for the workflow, or the server cannot download one of them.

    ``fields`` lists each problem.
    """


class Unauthorized(APIError):
    """The key is missing, wrong or lacks access."""


class NotFound(APIError):
    """Unknown workflow, job, output or file, or one of another API key."""


class ContractMismatch(APIError):
    """The workflow has changed since the models were generated."""


class IdempotencyMismatch(APIError):
    """The idempotency key was already used with different inputs or options."""


class OutputExpired(APIError):
    """The file has expired; the job's record still exists."""


class TooLarge(APIError):
    """The body or a file exceeds the server's limit."""


class RateLimited(APIError):
    """Too many requests or jobs; see ``retry_after``, and ``problem.budget`` for which limit."""


class ServerError(APIError):
    """The server failed (5xx)."""


class JobError(_WithProblem, ComfysnapError):
    """The job did not succeed.

    Attributes:
        record: The final state of the job.
        problem: The reason, as reported by the server.

    Example::

        try:
            output = await job.result()
        except JobError as error:
            print(error.code, error.record.status)
    """

    record: JobRecord  # pyright: ignore[reportIncompatibleVariableOverride] -- never None here

    def __init__(self, record: JobRecord) -> None:
        self.problem: Problem = record.error or Problem(title=f"The job is {record.status}")
        super().__init__(_sentence(self.problem), record=record)


class JobFailed(JobError):
    """The job failed; ``code`` is the reason (``node_failed``, ``out_of_memory``, ...)."""


class JobCancelled(JobError):
    """The job was cancelled."""


class JobTimedOut(JobError):
    """The job exceeded its timeout on the server."""


class JobExpired(JobError):
    """The job waited in the queue for too long."""


_BY_CODE: dict[ErrorCode, type[APIError]] = {
    ErrorCode.INVALID_INPUT: InvalidInput,
    ErrorCode.INPUT_UNAVAILABLE: InvalidInput,
    ErrorCode.UNAUTHORIZED: Unauthorized,
    ErrorCode.MISSING_SCOPE: Unauthorized,
    ErrorCode.UNKNOWN_WORKFLOW: NotFound,
    ErrorCode.UNKNOWN_JOB: NotFound,
    ErrorCode.UNKNOWN_OUTPUT: NotFound,
    ErrorCode.UNKNOWN_FILE: NotFound,
    ErrorCode.NOT_FOUND: NotFound,
    ErrorCode.CONTRACT_MISMATCH: ContractMismatch,
    ErrorCode.IDEMPOTENCY_MISMATCH: IdempotencyMismatch,
    ErrorCode.OUTPUT_EXPIRED: OutputExpired,
    ErrorCode.BODY_TOO_LARGE: TooLarge,
    ErrorCode.FILE_TOO_LARGE: TooLarge,
    ErrorCode.RATE_LIMITED: RateLimited,
    ErrorCode.QUOTA_EXCEEDED: RateLimited,
    ErrorCode.QUEUE_FULL: RateLimited,
}
_BY_STATUS: dict[int, type[APIError]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    410: OutputExpired,
    413: TooLarge,
    429: RateLimited,
}
_BY_JOB_STATUS: dict[JobStatus, type[JobError]] = {
    JobStatus.FAILED: JobFailed,
    JobStatus.CANCELLED: JobCancelled,
    JobStatus.TIMED_OUT: JobTimedOut,
    JobStatus.EXPIRED: JobExpired,
}


def api_error_type(problem: Problem, status: int) -> type[APIError]:
    """The error class for a problem, by its code, or by HTTP status if the code is unknown."""
    if isinstance(problem.code, ErrorCode) and problem.code in _BY_CODE:
        return _BY_CODE[problem.code]
    if status >= 500:
        return ServerError
    return APIError if isinstance(problem.code, ErrorCode) else _BY_STATUS.get(status, APIError)


def job_error(record: JobRecord) -> JobError:
    """The error for a final job that did not succeed."""
    status = record.status if isinstance(record.status, JobStatus) else JobStatus.FAILED
    return _BY_JOB_STATUS.get(status, JobFailed)(record)


_E = TypeVar("_E", bound=BaseException)
_NOTE = "comfysnap job: "


def with_job(error: _E, job_id: str, record: JobRecord | None = None) -> _E:
    """Attach the job to an exception: as attributes, or as a note on foreign exceptions."""
    if isinstance(error, ComfysnapError):
        error.job_id = error.job_id or job_id
        error.record = error.record or record
    else:
        error.add_note(f"{_NOTE}{job_id}")
    return error


def job_id_of(error: BaseException) -> str | None:
    """The ID of the job that ``error`` belongs to, or None.

    Searches causes and contexts too, so it finds the job behind the ``TimeoutError`` of
    ``asyncio.timeout`` and the ``CancelledError`` of a cancelled task::

        try:
            async with asyncio.timeout(60):
                output = await client.infer_sync(FluxInput(prompt="a fox"))
        except TimeoutError as error:
            save_for_later(job_id_of(error))
    """
    for one in chain(error):
        if isinstance(one, ComfysnapError) and one.job_id:
            return one.job_id
        for note in getattr(one, "__notes__", ()):
            if str(note).startswith(_NOTE):
                return str(note).removeprefix(_NOTE)
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The exception, then its causes and contexts; such chains can be circular."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _sentence(problem: Problem) -> str:
    """One line: the problem, then the fields not yet mentioned in it."""
    text = problem.detail or problem.title
    fields = "; ".join(
        f"{f.field}: {f.message}" if f.field else f.message
        for f in problem.fields
        if f.message not in text
    )
    return f"{text}: {fields}" if fields else text
