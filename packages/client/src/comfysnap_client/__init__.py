"""A typed async client for ComfyUI workflows served by comfysnap.

Names load when they are first used, so that the command line's help and pytest's start, which
only look for plug-ins, do not pay for the HTTP library.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comfysnap_client.client import Client
    from comfysnap_client.dynamic import UntypedOutput, untyped
    from comfysnap_client.errors import (
        APIError,
        ComfysnapError,
        ConnectionFailed,
        ContractMismatch,
        DeadlineExceeded,
        DownloadFailed,
        IdempotencyMismatch,
        InvalidInput,
        JobCancelled,
        JobError,
        JobExpired,
        JobFailed,
        JobTimedOut,
        NotFound,
        OutputExpired,
        RateLimited,
        ServerError,
        TooLarge,
        Unauthorized,
        UnexpectedResponse,
        job_id_of,
    )
    from comfysnap_client.job import Job, OnProgress
    from comfysnap_client.mapping import MapResult
    from comfysnap_client.polling import PollPolicy
    from comfysnap_client.retry import NO_RETRY, RetryPolicy
    from comfysnap_schema.wire import ErrorCode, JobEvent, JobRecord, JobStatus, Progress

__all__ = [
    "NO_RETRY",
    "APIError",
    "Client",
    "ComfysnapError",
    "ConnectionFailed",
    "ContractMismatch",
    "DeadlineExceeded",
    "DownloadFailed",
    "ErrorCode",
    "IdempotencyMismatch",
    "InvalidInput",
    "Job",
    "JobCancelled",
    "JobError",
    "JobEvent",
    "JobExpired",
    "JobFailed",
    "JobRecord",
    "JobStatus",
    "JobTimedOut",
    "MapResult",
    "NotFound",
    "OnProgress",
    "OutputExpired",
    "PollPolicy",
    "Progress",
    "RateLimited",
    "RetryPolicy",
    "ServerError",
    "TooLarge",
    "Unauthorized",
    "UnexpectedResponse",
    "UntypedOutput",
    "job_id_of",
    "untyped",
]

_ELSEWHERE = {
    "Client": "comfysnap_client.client",
    "Job": "comfysnap_client.job",
    "OnProgress": "comfysnap_client.job",
    "MapResult": "comfysnap_client.mapping",
    "PollPolicy": "comfysnap_client.polling",
    "NO_RETRY": "comfysnap_client.retry",
    "RetryPolicy": "comfysnap_client.retry",
    "UntypedOutput": "comfysnap_client.dynamic",
    "untyped": "comfysnap_client.dynamic",
    "ErrorCode": "comfysnap_schema.wire.errors",
    "JobEvent": "comfysnap_schema.wire.jobs",
    "JobRecord": "comfysnap_schema.wire.jobs",
    "JobStatus": "comfysnap_schema.wire.jobs",
    "Progress": "comfysnap_schema.wire.jobs",
}

if not TYPE_CHECKING:  # a type checker would take any name for existing

    def __getattr__(name: str) -> Any:
        """Load a public name; what is not elsewhere is an error class."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        home = import_module(_ELSEWHERE.get(name, "comfysnap_client.errors"))
        value = globals()[name] = getattr(home, name)
        return value
