"""Verifies webhooks that a server sends when a job ends."""

import hmac
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

from pydantic import ValidationError

from comfysnap_client.dynamic import UntypedOutput
from comfysnap_client.errors import InvalidWebhook, UnexpectedResponse
from comfysnap_schema.base import WorkflowOutput
from comfysnap_schema.wire import (
    WEBHOOK_ID,
    WEBHOOK_SIGNATURE,
    WEBHOOK_TIMESTAMP,
    WEBHOOK_TOLERANCE_S,
    JobRecord,
    JobStatus,
    WebhookPayload,
    webhook_key,
    webhook_signature,
)

OutputT = TypeVar("OutputT", bound=WorkflowOutput)
OutputT_co = TypeVar("OutputT_co", bound=WorkflowOutput, covariant=True)

_TIMESTAMP = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True, kw_only=True)
class WebhookEvent(Generic[OutputT_co]):
    """A verified webhook, returned by ``verify_webhook``::

        event = verify_webhook(headers, body, secret, FluxOutput)
        if event.output is not None:
            print([image.url for image in event.output.images])

    Attributes:
        id: The same each time the event is delivered, which may be more than once.
        type: ``job.succeeded``, ``job.failed``, ``job.cancelled``, ``job.timed_out``,
            ``job.expired``.
        timestamp: When the job ended.
        job: The final job, without its inputs.
        output: The typed outputs of a job that succeeded; None for other jobs, and when the outputs
            were too large to send. To download its files, ask the server:
            ``await client.job(event.job.id, FluxOutput).result()``.
    """

    id: str
    type: str
    timestamp: datetime
    job: JobRecord
    output: OutputT_co | None


@overload
def verify_webhook(
    headers: Mapping[str, str],
    body: bytes | str,
    secret: str | Sequence[str],
    *,
    tolerance: float = WEBHOOK_TOLERANCE_S,
) -> WebhookEvent[UntypedOutput]: ...
@overload
def verify_webhook(
    headers: Mapping[str, str],
    body: bytes | str,
    secret: str | Sequence[str],
    output: type[OutputT],
    *,
    tolerance: float = WEBHOOK_TOLERANCE_S,
) -> WebhookEvent[OutputT]: ...
def verify_webhook(
    headers: Mapping[str, str],
    body: bytes | str,
    secret: str | Sequence[str],
    output: type[WorkflowOutput] = UntypedOutput,
    *,
    tolerance: float = WEBHOOK_TOLERANCE_S,
) -> WebhookEvent[Any]:
    """Verify the signature of a webhook and return its event.

    Args:
        headers: The headers of the request, in any case.
        body: The body exactly as received, never parsed and written again.
        secret: The ``whsec_`` secret, or several while they are replaced; spaces separate them too.
        output: The generated output model. Default: untyped outputs.
        tolerance: Seconds that the timestamp may be before or after now; what is older may be a
            replay.

    Raises:
        InvalidWebhook: Not signed with one of the secrets, too old, or not a webhook of this API.
        UnexpectedResponse: The outputs are not valid for ``output``.
        ValueError: A secret is not valid, or there is none.

    Example::

        event = verify_webhook(headers, body, secret, FluxOutput)
        print(event.job.id, event.type)
    """
    keys = [webhook_key(one) for one in _split(secret)]
    if not keys:
        raise ValueError("verify_webhook needs at least one secret")
    content = body.encode() if isinstance(body, str) else body
    webhook_id = _verify({name.lower(): value for name, value in headers.items()}, content, keys,
                         tolerance)  # fmt: skip
    try:
        payload = WebhookPayload.model_validate_json(content)
    except ValidationError as error:
        raise InvalidWebhook("invalid_body", "the body is not an event of a job") from error
    return WebhookEvent[Any](
        id=webhook_id,
        type=payload.type,
        timestamp=payload.timestamp,
        job=payload.data,
        output=_output(payload.data, output),
    )


def _split(secret: str | Sequence[str]) -> list[str]:
    given = [secret] if isinstance(secret, str) else secret
    return [part for one in given for part in one.split()]


def _verify(
    headers: Mapping[str, str], body: bytes, keys: Sequence[bytes], tolerance: float
) -> str:
    """The id of a webhook that is signed and new."""
    missing = [
        name for name in (WEBHOOK_ID, WEBHOOK_TIMESTAMP, WEBHOOK_SIGNATURE) if not headers.get(name)
    ]
    if missing:
        raise InvalidWebhook("missing_header", f"missing header {missing[0]}")
    webhook_id, stamp = headers[WEBHOOK_ID], headers[WEBHOOK_TIMESTAMP]
    if not _TIMESTAMP.fullmatch(stamp):
        raise InvalidWebhook("invalid_timestamp", f"{WEBHOOK_TIMESTAMP} must be seconds since 1970")
    signed_at = int(stamp)
    age = time.time() - signed_at
    if age > tolerance:
        raise InvalidWebhook("too_old", f"signed {age:.0f} s ago, at most {tolerance:g} s allowed")
    if age < -tolerance:
        raise InvalidWebhook("too_new", f"signed {-age:.0f} s in the future; check the clocks")
    given = [part.encode(errors="surrogateescape") for part in headers[WEBHOOK_SIGNATURE].split()]
    expected = [webhook_signature(key, webhook_id, signed_at, body).encode() for key in keys]
    # every pair is compared, so that the time says nothing of which one matched
    matches = [hmac.compare_digest(one, other) for one in given for other in expected]
    if not any(matches):
        raise InvalidWebhook("invalid_signature", "not signed with this secret")
    return webhook_id


def _output(job: JobRecord, output: type[OutputT]) -> OutputT | None:
    if job.status != JobStatus.SUCCEEDED or job.outputs is None:
        return None
    try:
        return output.model_validate(job.outputs)
    except ValidationError as error:
        raise UnexpectedResponse(
            f"the outputs are not valid for {output.__name__}; "
            "run `comfysnap generate` to update the models",
            record=job,
        ) from error
