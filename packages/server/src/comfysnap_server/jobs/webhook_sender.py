"""Sends webhooks: signed, to checked addresses only, in threads of their own."""

import http.client
import logging
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from comfysnap_schema.wire import JobRecord, webhook_body, webhook_headers, webhook_id_of
from comfysnap_server.jobs.fetch import FetchError, reason, request
from comfysnap_server.jobs.threads import in_thread
from comfysnap_server.jobs.webhooks import (
    Delivery,
    Reply,
    WebhookPolicy,
    WebhookSettings,
    retry_after,
)

logger = logging.getLogger(__name__)

_READ_BYTES: Final = 1024
"""Of an answer, whose body says nothing to us."""


class WebhookSender:
    """Makes attempts.

    Args:
        settings: Where to send. Looked at again with each attempt, as it may have changed since
            the job was accepted.
        keys: Each signs; see ``webhook_keys``.
        policy: When to try again.
    """

    def __init__(
        self, settings: WebhookSettings, keys: Sequence[bytes], policy: WebhookPolicy | None = None
    ) -> None:
        self._settings = settings
        self._keys = list(keys)
        self._policy = policy or WebhookPolicy()
        self._stopped = False

    def stop(self) -> None:
        """Break off attempts that run, which then do not count; their ``attempt`` returns."""
        self._stopped = True

    async def attempt(self, delivery: Delivery, job: JobRecord) -> Delivery:
        """Send a job's end once; the delivery after it. Never raises for what the receiver does."""
        refused = self._settings.refusal(delivery.url)
        if refused is not None:
            error = f"the URL {refused}"
            return delivery.model_copy(update={"state": "failed", "last_error": error})
        reply = await in_thread("webhook", lambda: self._send(delivery.url, job))
        if reply.status is None and self._stopped:
            return delivery  # broken off, which says nothing about the receiver
        now, draw = time.time(), random.random()  # noqa: S311, no secret
        return self._policy.after(delivery, reply, now, draw)

    def _send(self, url: str, job: JobRecord) -> Reply:
        body = webhook_body(job)
        webhook_id = webhook_id_of(job.id, job.status)
        headers = webhook_headers(self._keys, webhook_id, int(time.time()), body)
        deadline = time.monotonic() + self._policy.timeout
        networks = self._settings.reachable(url)
        try:
            with request(
                url, networks, deadline, lambda: self._stopped,
                method="POST", body=body, headers=headers,
            ) as response:  # fmt: skip
                with suppress(OSError, http.client.HTTPException):
                    response.read(_READ_BYTES)  # so that the receiver can finish its answer
                wait = retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
                return Reply(status=response.status, retry_after=wait)
        except FetchError as error:
            return Reply(error=str(error))
        except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
            late = time.monotonic() >= deadline
            return Reply(error="no answer in time" if late else reason(error))
        except Exception:
            logger.exception("the webhook of job %s could not be sent", job.id)
            return Reply(error="it could not be sent; see the server's log")
