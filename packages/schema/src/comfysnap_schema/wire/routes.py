"""Routes, header names and limits of the wire, shared by the client and the gateway."""

from typing import Final

INFER_SYNC: Final = "/infer_sync"
INFER_ASYNC: Final = "/infer_async"
CHECK_STATUS: Final = "/check_status"
JOBS: Final = "/jobs"
CANCEL: Final = "/cancel"
EVENTS: Final = "/events"
OUTPUTS: Final = "/outputs"
FILES: Final = "/files"
WORKFLOWS: Final = "/workflows"
LIMITS: Final = "/limits"
LINKS: Final = "/links"
HEALTH: Final = "/health"
READY: Final = "/ready"
METRICS: Final = "/metrics"
PURGE: Final = "/purge"

IDEMPOTENCY_KEY: Final = "Idempotency-Key"
CONTRACT: Final = "Comfysnap-Contract"
REQUEST_ID: Final = "X-Request-Id"
RETRY_AFTER: Final = "Retry-After"
REPLAYED: Final = "Idempotency-Replayed"
"""Response header: ``true`` when an infer route returned the job of an earlier submit."""

PROBLEM_JSON: Final = "application/problem+json"

MAX_WAIT_S: Final = 25.0
"""Longest ``wait`` of one ``/check_status`` request, in seconds."""

MAX_SYNC_WAIT_S: Final = 140.0
"""How long ``/infer_sync`` waits for the job, in seconds: below Modal's 150 s limit for a request
(https://modal.com/docs/guide/webhook-timeouts)."""

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""Largest JSON body of an infer route; larger inputs travel as files."""

MAX_INLINE_FILE_BYTES: Final = 256 * 1024
"""Largest file a client sends inside the JSON body, before base64."""

MAX_FILE_BYTES: Final = 2 * 1024**3
"""Largest uploaded input file, by default."""

IDEMPOTENCY_TTL_S: Final = 24 * 3600
"""How long a server remembers an ``Idempotency-Key``, in seconds."""

MAX_LINK_S: Final = 3600
"""Longest life of a link, in seconds."""
DEFAULT_LINK_S: Final = 600
LINK_PARAMETER: Final = "token"
"""Query parameter with the signed token of a link."""

JOB_ID_PATTERN: Final = r"^job_[0-9A-Za-z]{16,40}$"
"""Job ids are URL- and path-safe."""

SHA256_PATTERN: Final = r"^[0-9a-f]{64}$"
WORKFLOW_NAME_PATTERN: Final = r"^[a-z][a-z0-9_]{0,63}$"
LABEL_PATTERN: Final = r"^[A-Za-z0-9_.-]{1,64}:[^\x00-\x1f]{0,256}$"
"""``label=key:value``; at most ``MAX_LABELS`` on a job."""
MAX_LABELS: Final = 16
