"""Sends the webhooks of the job store when they are due, a few at a time for each host."""

import asyncio
import logging
import time
from collections import Counter
from contextlib import suppress
from typing import Final

from comfysnap_schema.wire import JobRecord
from comfysnap_server.backends.local import webhook_rows
from comfysnap_server.backends.local.reader import Reader
from comfysnap_server.backends.local.webhook_rows import DueWebhook
from comfysnap_server.backends.local.writer import Writer
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs import Delivery, WebhookSender

logger = logging.getLogger(__name__)

MAX_AT_ONCE: Final = 32
"""Each has a thread."""
MAX_PER_HOST: Final = 4
"""So that slow receivers do not hold up the others."""
_LOOK_S: Final = 2.0
"""Between looks at the store, where a command may have put one."""
_RETRY_S: Final = 1.0
_STOP_S: Final = 1.0


class WebhookDispatcher:
    """At least once: what became of an attempt is written after it, so that an attempt during which
    the server dies is made again."""

    def __init__(self, writer: Writer, reader: Reader, sender: WebhookSender) -> None:
        self._writer = writer
        self._reader = reader
        self._sender = sender
        self._news = asyncio.Event()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._hosts: Counter[str] = Counter()
        self.pending = 0
        """How many waited to be sent, at the last look at the store."""

    def wake(self) -> None:
        """Look at the store now, as a job ended."""
        self._news.set()

    async def run_forever(self) -> None:
        """Send what is due until cancelled."""
        while True:
            self._news.clear()
            pause = _LOOK_S
            try:
                self.pending = await self._reader.run(webhook_rows.pending)
                pause = await self._start_due()
            except Exception:
                logger.exception("the webhooks that are due could not be sent")
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()

    async def stop(self) -> None:
        """Break off what is being sent; it is sent again by the next server."""
        self._sender.stop()
        tasks = list(self._running.values())
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _start_due(self) -> float:
        """Start what there is room for; seconds until the next look."""
        while len(self._running) < MAX_AT_ONCE:
            now, busy, running = time.time(), self._busy(), list(self._running)
            found: list[DueWebhook] = await self._reader.run(
                lambda c, n=now, b=busy, r=running: webhook_rows.due(
                    c, n, MAX_AT_ONCE, busy=b, running=r
                )
            )
            if not found:
                moment: float | None = await self._reader.run(
                    lambda c, b=busy, r=running: webhook_rows.next_due(c, busy=b, running=r)
                )
                return _LOOK_S if moment is None else min(max(moment - now, 0.0), _LOOK_S)
            for webhook in found:
                host = webhook.delivery.host
                if len(self._running) < MAX_AT_ONCE and self._hosts[host] < MAX_PER_HOST:
                    self._start(webhook)
        return _LOOK_S

    def _busy(self) -> list[str]:
        return [host for host, count in self._hosts.items() if count >= MAX_PER_HOST]

    def _start(self, webhook: DueWebhook) -> None:
        host = webhook.delivery.host
        self._hosts[host] += 1
        task = asyncio.create_task(self._deliver(webhook))
        self._running[webhook.seq] = task

        def ended(_: "asyncio.Task[None]") -> None:
            del self._running[webhook.seq]
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]
            self._news.set()

        task.add_done_callback(ended)

    async def _deliver(self, webhook: DueWebhook) -> None:
        try:
            job = JobRecord.model_validate_json(webhook.record)
        except ValueError:
            after = webhook.delivery.model_copy(
                update={"state": "failed", "last_error": "what the store has of the job is damaged"}
            )
        else:
            after = await self._sender.attempt(webhook.delivery, job)
            _log(job.id, after)
        while True:
            try:
                await self._writer.run(
                    lambda c: webhook_rows.save(c, webhook.seq, after), durable=False
                )
            except BackendError:
                logger.exception("what became of a webhook cannot be written yet")
                await asyncio.sleep(_RETRY_S)
            else:
                return


def _log(job_id: str, after: Delivery) -> None:
    if after.state == "failed":
        logger.error(
            "webhook of job %s to %s was given up after %d attempts: %s",
            job_id, after.host, after.attempts, after.last_error,
        )  # fmt: skip
    elif after.state == "pending":
        logger.warning(
            "webhook of job %s to %s failed (attempt %d): %s",
            job_id, after.host, after.attempts, after.last_error,
        )  # fmt: skip
