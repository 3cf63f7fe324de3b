"""Webhooks on the wire: the event of a job that ended, and its signature by the Standard Webhooks
specification (https://github.com/standard-webhooks/standard-webhooks)."""

import base64
import hashlib
import hmac
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field

from comfysnap_schema.wire.jobs import JobRecord

WEBHOOK_ID: Final = "webhook-id"
"""The same for every attempt to deliver one event."""
WEBHOOK_TIMESTAMP: Final = "webhook-timestamp"
"""When this attempt was signed: seconds since 1970."""
WEBHOOK_SIGNATURE: Final = "webhook-signature"
"""``v1,`` and base64; several, separated by spaces, while a secret is replaced."""

WEBHOOK_TOLERANCE_S: Final = 300
"""How far from now the timestamp of a webhook may be, in seconds."""

MAX_WEBHOOK_BYTES: Final = 256 * 1024
"""Above it, a webhook goes without the outputs of its job."""

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 -- how every secret begins
_KEY_BYTES: Final = range(24, 65)

WebhookType = Literal[
    "job.succeeded", "job.failed", "job.cancelled", "job.timed_out", "job.expired"
]


class WebhookPayload(BaseModel, frozen=True, extra="ignore", defer_build=True):
    """The body of a webhook."""

    type: Annotated[WebhookType | str, Field(union_mode="left_to_right")]
    """``job.`` and the final status."""
    timestamp: datetime
    """When the job ended."""
    data: JobRecord
    """The final job without its inputs, and without outputs that are too large to send."""


def webhook_key(secret: str) -> bytes:
    """The key of a secret.

    Raises:
        ValueError: Not ``whsec_`` and the base64 of 24 to 64 bytes; the message does not quote it.
    """
    prefix, encoded = secret[: len(SECRET_PREFIX)], secret[len(SECRET_PREFIX) :]
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        key = b""
    if prefix != SECRET_PREFIX or len(key) not in _KEY_BYTES:
        raise ValueError("a webhook secret must be whsec_ and the base64 of 24 to 64 bytes")
    return key


def webhook_signature(key: bytes, webhook_id: str, timestamp: int, body: bytes) -> str:
    """What the header holds of one secret."""
    content = b"%s.%d.%s" % (webhook_id.encode(errors="surrogateescape"), timestamp, body)
    digest = hmac.new(key, content, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def webhook_id_of(job_id: str, status: str) -> str:
    """The id of the event of a job's end."""
    return f"msg_{job_id.removeprefix('job_')}_{status}"


def webhook_body(job: JobRecord) -> bytes:
    """The payload of the end of a job, the same whenever it is made."""
    payload = WebhookPayload(
        type=f"job.{job.status}", timestamp=job.finished_at or job.created_at, data=job
    )
    body = payload.model_dump_json(exclude={"data": {"inputs"}}).encode()
    if len(body) > MAX_WEBHOOK_BYTES:
        body = payload.model_dump_json(exclude={"data": {"inputs", "outputs"}}).encode()
    return body


def webhook_headers(
    keys: list[bytes], webhook_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """The headers of one attempt, signed with every key."""
    signatures = [webhook_signature(key, webhook_id, timestamp, body) for key in keys]
    return {
        "content-type": "application/json",
        WEBHOOK_ID: webhook_id,
        WEBHOOK_TIMESTAMP: str(timestamp),
        WEBHOOK_SIGNATURE: " ".join(signatures),
    }
