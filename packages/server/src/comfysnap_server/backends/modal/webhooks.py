"""Webhooks of jobs on Modal: an entry of a Dict each, which one function sends at once and the
sweep sends again.

An entry is written before its job is accepted, and a job that has ended with its entry not sent is
to be sent: so the end of a job needs no second record.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Final

from comfysnap_schema.wire import ErrorCode, JobRecord, JobStatus
from comfysnap_server.backends.modal.platform import Records
from comfysnap_server.backends.protocol import Backend
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs import Delivery, JobRequest, WebhookSender

log = logging.getLogger(__name__)

_SPAWN_S: Final = 5.0
"""A GPU container waits no longer for it."""
_SOON_S: Final = 10.0
"""What is due by then is waited for, as the next sweep may be half an hour away."""
_FIRST_S: Final = 60.0
"""After the submit and after the end of a job, in which the sweep leaves its webhook alone."""
_AT_ONCE: Final = 32
_PER_HOST: Final = 4
_CROWD: Final = 25
"""Attempts of a quarter of what a container does at once: a slow host gets no more of them."""
_SLOW_S: Final = 2.0
_SWEEP_S: Final = 600.0
"""What a sweep does not send by then is left to the next one."""


class JobWebhooks:
    """What gateways and workers do with the webhook of a job; see ``Webhooks``.

    Args:
        records: The Dict, by job id.
        spawn: Has ``WebhookDeliveries.deliver`` called in a container on CPU.
    """

    def __init__(self, records: Records, spawn: Callable[[str], Awaitable[object]]) -> None:
        self._records = records
        self._spawn = spawn

    async def add(self, request: JobRequest) -> None:
        """See ``Webhooks``."""
        if request.delivery is not None:
            await self._records.add(request.job_id, request.delivery.model_dump_json())

    async def job_ended(self, request: JobRequest, status: JobStatus) -> None:
        """See ``Webhooks``."""
        if request.delivery is None or not request.delivery.wants(status):
            return
        try:
            async with asyncio.timeout(_SPAWN_S):
                await self._spawn(request.job_id)
        except Exception:
            log.exception("the webhook of job %s is left to the sweep", request.job_id)


class WebhookDeliveries:
    """Sends webhooks, in a container on CPU.

    Args:
        records: The Dict, by job id.
        backend: Has the jobs.
        sender: Makes the attempts.
        slow_after: Seconds after which an attempt that still runs shows that its host is slow.
    """

    def __init__(
        self,
        records: Records,
        backend: Backend,
        sender: WebhookSender,
        *,
        slow_after: float = _SLOW_S,
    ) -> None:
        self._records = records
        self._backend = backend
        self._sender = sender
        self._slow_after = slow_after
        self._running: defaultdict[str, dict[str, float]] = defaultdict(dict[str, float])
        """Host to the jobs that are being sent there, and since when, oldest first."""

    async def deliver(self, job_id: str, *, first_after: float | None = None) -> None:
        """Send the webhook of a job that has ended, and again while that is due soon. A first
        attempt at a host that is slow with many others is left to the sweep.

        Args:
            job_id: Whose webhook.
            first_after: Seconds since the end of the job before which no first attempt is made.
                None: at once, whatever the clock of the container that ended it.
        """
        delivery = _read(await self._records.get(job_id))
        if delivery is None or delivery.state not in ("waiting", "pending"):
            return
        job = await self._ended_job(job_id, delivery)
        if job is None or job.finished_at is None:
            return
        if not delivery.wants(job.status):
            await self._put(job_id, delivery.model_copy(update={"state": "unwanted"}))
            return
        age = time.time() - job.finished_at.timestamp()
        if first_after is not None and not delivery.attempts and age < first_after:
            return
        if first_after is None and self._is_crowded(delivery.host):
            log.warning(
                "the webhook of job %s is left to the sweep: %s is slow", job_id, delivery.host
            )
            return
        while True:
            delivery = await self._attempt(delivery, job)
            await self._put(job_id, delivery)
            if delivery.last_error:
                log.warning(
                    "webhook of job %s to %s %s (attempt %d): %s",
                    job_id, delivery.host, delivery.state, delivery.attempts, delivery.last_error,
                )  # fmt: skip
            wait = delivery.due_at - time.time()
            if delivery.state != "pending" or wait > _SOON_S:
                return
            await asyncio.sleep(wait)

    async def _ended_job(self, job_id: str, delivery: Delivery) -> JobRecord | None:
        """The job once it has ended; a webhook without a job is given up."""
        try:
            job = await self._backend.get(delivery.owner, job_id)
        except BackendError as error:
            if error.code is not ErrorCode.UNKNOWN_JOB:
                raise
            changes = {"state": "failed", "last_error": "the job is past its retention"}
            await self._put(job_id, delivery.model_copy(update=changes))
            return None
        return job if job.is_final else None

    def _is_crowded(self, host: str) -> bool:
        running = self._running.get(host, {})
        if len(running) < _CROWD:
            return False
        return time.monotonic() - next(iter(running.values())) >= self._slow_after

    async def _attempt(self, delivery: Delivery, job: JobRecord) -> Delivery:
        running = self._running[delivery.host]
        running[job.id] = time.monotonic()
        try:
            return await self._sender.attempt(delivery, job)
        finally:
            running.pop(job.id, None)
            if not running:
                self._running.pop(delivery.host, None)

    async def sweep(self) -> None:
        """Send what is due, a few at a time for each host."""
        due: list[tuple[str, str]] = []
        async for job_id, text in self._records.items():
            delivery = _read(text)
            if delivery is not None and self._is_due(delivery):
                due.append((job_id, delivery.host))
        at_once = asyncio.Semaphore(_AT_ONCE)
        hosts: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(_PER_HOST)
        )

        async def one(job_id: str, host: str) -> None:
            async with hosts[host], at_once:
                try:
                    await self.deliver(job_id, first_after=_FIRST_S)
                except Exception:
                    log.exception("the webhook of job %s is left to the next sweep", job_id)

        try:
            async with asyncio.timeout(_SWEEP_S):
                await asyncio.gather(*(one(*each) for each in due))
        except TimeoutError:
            log.warning("not all of %d webhooks could be sent; the next sweep goes on", len(due))

    def _is_due(self, delivery: Delivery) -> bool:
        if delivery.state == "waiting":  # and one this new may be without its job still
            return delivery.due_at + _FIRST_S <= time.time()
        return delivery.state == "pending" and delivery.due_at <= time.time()

    async def _put(self, job_id: str, delivery: Delivery) -> None:
        await self._records.put(job_id, delivery.model_dump_json())


def _read(text: str | None) -> Delivery | None:
    try:
        return None if text is None else Delivery.model_validate_json(text)
    except ValueError:
        log.exception("an entry of a webhook is damaged")
        return None
