"""What the client raises; no exception of the HTTP library ever leaks.

Exception tree::

    ComfysnapError
    ├── ConnectionFailed        no answer: refused, broken or silent, after every attempt
    ├── UnexpectedResponse      an answer that is not of this API: a proxy's page, a redirect
    ├── DeadlineExceeded        the call's ``timeout`` passed (also a TimeoutError)
    ├── DownloadFailed          an output file came broken: wrong hash or length
    ├── APIError                the server refused; ``code`` tells why, unknown codes stay here
    │   ├── InvalidInput        the inputs do not fit the workflow; ``fields`` names each
    │   ├── Unauthorized        no key, a wrong one, or one without access
    │   ├── NotFound            no such workflow, job, output or file
    │   ├── ContractMismatch    the workflow changed: run ``comfysnap generate`` again
    │   ├── IdempotencyMismatch the key was used for another submit
    │   ├── OutputExpired       the job is known, its files are past retention
    │   ├── TooLarge            body or file is over the server's limit
    │   ├── RateLimited         too many requests or jobs, after every attempt
    │   └── ServerError         5xx, after every attempt
    └── JobError                the job ended without a result; ``record`` is the final job
        ├── JobFailed
        ├── JobCancelled
        ├── JobTimedOut
        └── JobExpired

A cancelled task gets its own ``asyncio.CancelledError``; ``job_id_of`` finds the job in it.
"""

from collections.abc import Iterator
from typing import TypeVar

from comfysnap_schema.wire import ErrorCode, FieldProblem, JobRecord, JobStatus, Problem


class ComfysnapError(Exception):
    """Base of everything the client raises for a server, a network or a job.

    Attributes:
        job_id: The job concerned, if its id is known; ``client.job(job_id, ...)`` resumes it.
        record: The job as last seen, or None.
        request_id: ``X-Request-Id`` of the last request, as in the server's log.
        attempts: Requests sent for the call that failed.
        status: HTTP status of the last answer; None when there was none.
        retry_after: Seconds the server asked to wait, or None.
        idempotency_key: Key of the submit that failed; passing it again cannot make a second job.
    """

    def __init__(
        self,
        message: str,
        *,
        job_id: str | None = None,
        record: JobRecord | None = None,
        request_id: str | None = None,
        attempts: int = 0,
        status: int | None = None,
        retry_after: float | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        self.message = message
        self.job_id: str | None = job_id if job_id or not record else record.id
        self.record = record
        self.request_id = request_id
        self.attempts = attempts
        self.status = status
        self.retry_after = retry_after
        self.idempotency_key = idempotency_key
        super().__init__(message)

    def __str__(self) -> str:
        """The message, then what is known of job, request and attempts."""
        known = (
            ("job", self.job_id),
            ("request", self.request_id),
            ("status", self.status),
            ("attempts", self.attempts if self.attempts > 1 else None),
        )
        told = ", ".join(f"{name} {value}" for name, value in known if value is not None)
        return f"{self.message} ({told})" if told else self.message


class ConnectionFailed(ComfysnapError):
    """No answer came after every attempt; the network's own error is the ``__cause__``."""


class UnexpectedResponse(ComfysnapError):
    """Something that does not speak this API answered: check the address and what is before it."""


class DeadlineExceeded(ComfysnapError, TimeoutError):
    """The ``timeout`` of the call passed; the ``__cause__`` is the last failure, if there was one.

    The job was cancelled unless ``cancel_on_timeout=False``; ``record`` is the job as last seen.
    """


class DownloadFailed(ComfysnapError):
    """A downloaded file does not have the length or the SHA-256 that the job told."""


class APIError(ComfysnapError):
    """The server refused the request; branch on ``code``, never on the message.

    Attributes:
        problem: The whole problem+json body.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        job_id: str | None = None,
        request_id: str | None = None,
        attempts: int = 0,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.problem = problem
        super().__init__(
            _sentence(problem),
            job_id=job_id,
            request_id=request_id or problem.request_id,
            attempts=attempts,
            status=status,
            retry_after=retry_after,
        )

    @property
    def code(self) -> ErrorCode | str:
        """The error code; a plain ``str`` when it is newer than this client."""
        return self.problem.code

    @property
    def fields(self) -> tuple[FieldProblem, ...]:
        """Findings by input field."""
        return self.problem.fields


class InvalidInput(APIError):
    """The inputs do not fit the workflow; ``fields`` names each."""


class Unauthorized(APIError):
    """The key is missing or wrong, or has no access."""


class NotFound(APIError):
    """No such workflow, job, output or file for this key."""


class ContractMismatch(APIError):
    """The models were generated from a workflow that has changed since."""


class IdempotencyMismatch(APIError):
    """The idempotency key was already used with other inputs or options."""


class OutputExpired(APIError):
    """The file is past retention; the job itself is still known."""


class TooLarge(APIError):
    """The body or a file is over the server's limit."""


class RateLimited(APIError):
    """Too many requests, queued jobs or a quota; ``retry_after`` holds the server's hint."""


class ServerError(APIError):
    """The server failed (5xx)."""


class JobError(ComfysnapError):
    """A job ended without a result.

    Attributes:
        record: The final job.
        problem: Why, as the server tells it.
    """

    record: JobRecord

    def __init__(self, record: JobRecord) -> None:
        self.problem: Problem = record.error or Problem(title=f"The job is {record.status}")
        super().__init__(_sentence(self.problem), record=record)

    @property
    def code(self) -> ErrorCode | str:
        """The error code; a plain ``str`` when it is newer than this client."""
        return self.problem.code

    @property
    def fields(self) -> tuple[FieldProblem, ...]:
        """Findings by input field, where the engine could name them."""
        return self.problem.fields


class JobFailed(JobError):
    """The job failed; ``code`` tells why (``node_failed``, ``out_of_memory``, ...)."""


class JobCancelled(JobError):
    """The job was cancelled."""


class JobTimedOut(JobError):
    """The job ran longer than its timeout on the server."""


class JobExpired(JobError):
    """The job did not start in time."""


_BY_CODE: dict[ErrorCode, type[APIError]] = {
    ErrorCode.INVALID_INPUT: InvalidInput,
    ErrorCode.UNAUTHORIZED: Unauthorized,
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
    """The class for a problem: by code, else by status when the code is no known one."""
    if isinstance(problem.code, ErrorCode) and problem.code in _BY_CODE:
        return _BY_CODE[problem.code]
    if status >= 500:
        return ServerError
    return APIError if isinstance(problem.code, ErrorCode) else _BY_STATUS.get(status, APIError)


def job_error(record: JobRecord) -> JobError:
    """The error of a final job that did not succeed."""
    status = record.status if isinstance(record.status, JobStatus) else JobStatus.FAILED
    return _BY_JOB_STATUS.get(status, JobFailed)(record)


_E = TypeVar("_E", bound=BaseException)
_NOTE = "comfysnap job: "


def with_job(error: _E, job_id: str, record: JobRecord | None = None) -> _E:
    """Write the job onto an exception that leaves a wait; a cancellation gets it as a note."""
    if isinstance(error, ComfysnapError):
        error.job_id = error.job_id or job_id
        error.record = error.record or record
    else:
        error.add_note(f"{_NOTE}{job_id}")
    return error


def job_id_of(error: BaseException) -> str | None:
    """The id of the job that a call was about when ``error`` ended it, or None.

    Looks through causes and contexts, so it also finds the job behind the ``TimeoutError`` of an
    ``asyncio.timeout`` and the ``CancelledError`` of a cancelled task.
    """
    for one in chain(error):
        if isinstance(one, ComfysnapError) and one.job_id:
            return one.job_id
        for note in getattr(one, "__notes__", ()):
            if str(note).startswith(_NOTE):
                return str(note).removeprefix(_NOTE)
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and what led to it; chains can be circular."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _sentence(problem: Problem) -> str:
    """One line: what happened, and each field at fault."""
    text = problem.detail or problem.title
    found = "; ".join(
        f"{f.field}: {f.message}" if f.field else f.message
        for f in problem.fields
        if f.message not in text
    )
    return f"{text}: {found}" if found else text
