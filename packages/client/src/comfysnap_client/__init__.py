"""A typed async client for ComfyUI workflows served by comfysnap.

Names are imported on first use: ``--help`` and pytest's plug-in discovery must not pay for the
import of the HTTP library.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comfysnap_client.client import Client
    from comfysnap_client.dynamic import JobOutput, UntypedOutput, untyped
    from comfysnap_client.errors import (
        APIError,
        ComfysnapError,
        ConnectionFailed,
        ContractMismatch,
        DeadlineExceeded,
        DownloadFailed,
        IdempotencyMismatch,
        InvalidInput,
        InvalidWebhook,
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
    from comfysnap_client.job import Job
    from comfysnap_client.mapping import MapResult
    from comfysnap_client.polling import PollPolicy
    from comfysnap_client.retry import NO_RETRY, RetryPolicy
    from comfysnap_client.session import OnProgress
    from comfysnap_client.webhooks import WebhookEvent, verify_webhook
    from comfysnap_schema.wire import (
        ErrorCode,
        JobEvent,
        JobRecord,
        JobStatus,
        Lora,
        ModelUrl,
        Phase,
        Progress,
    )

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
    "InvalidWebhook",
    "Job",
    "JobCancelled",
    "JobError",
    "JobEvent",
    "JobExpired",
    "JobFailed",
    "JobOutput",
    "JobRecord",
    "JobStatus",
    "JobTimedOut",
    "Lora",
    "MapResult",
    "ModelUrl",
    "NotFound",
    "OnProgress",
    "OutputExpired",
    "Phase",
    "PollPolicy",
    "Progress",
    "RateLimited",
    "RetryPolicy",
    "ServerError",
    "TooLarge",
    "Unauthorized",
    "UnexpectedResponse",
    "UntypedOutput",
    "WebhookEvent",
    "job_id_of",
    "untyped",
    "verify_webhook",
]

_MODULES = {
    "Client": "comfysnap_client.client",
    "Job": "comfysnap_client.job",
    "OnProgress": "comfysnap_client.session",
    "MapResult": "comfysnap_client.mapping",
    "PollPolicy": "comfysnap_client.polling",
    "NO_RETRY": "comfysnap_client.retry",
    "RetryPolicy": "comfysnap_client.retry",
    "JobOutput": "comfysnap_client.dynamic",
    "UntypedOutput": "comfysnap_client.dynamic",
    "untyped": "comfysnap_client.dynamic",
    "WebhookEvent": "comfysnap_client.webhooks",
    "verify_webhook": "comfysnap_client.webhooks",
    "ErrorCode": "comfysnap_schema.wire.errors",
    "JobEvent": "comfysnap_schema.wire.jobs",
    "JobRecord": "comfysnap_schema.wire.jobs",
    "JobStatus": "comfysnap_schema.wire.jobs",
    "Lora": "comfysnap_schema.wire.loras",
    "ModelUrl": "comfysnap_schema.wire.files",
    "Phase": "comfysnap_schema.wire.jobs",
    "Progress": "comfysnap_schema.wire.jobs",
}

if not TYPE_CHECKING:  # otherwise a type checker accepts any name

    def __getattr__(name: str) -> Any:
        """Import a public name; those missing from ``_MODULES`` are error classes."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module = import_module(_MODULES.get(name, "comfysnap_client.errors"))
        value = globals()[name] = getattr(module, name)
        return value
