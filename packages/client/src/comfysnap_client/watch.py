"""Waiting for jobs: one poll loop a job, however many tasks wait for it."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from comfysnap_client.deadline import Deadline
from comfysnap_client.errors import ComfysnapError, DeadlineExceeded, UnexpectedResponse
from comfysnap_client.polling import HELD_S, PollPolicy
from comfysnap_client.transport import is_transient
from comfysnap_schema.wire import JobRecord

logger: logging.Logger = logging.getLogger("comfysnap_client")

Polled = tuple[JobRecord, float | None]
"""A job and the server's pace hint in seconds."""


class Poll(Protocol):
    """One status request, held for up to ``hold`` seconds."""

    def __call__(self, job_id: str, *, hold: float, after: int | None) -> Awaitable[Polled]:
        """The job, and the pace hint."""
        ...


class Watches:
    """The poll loops of a client; polls share ``slots`` connections fairly."""

    def __init__(self, poll: Poll, policy: PollPolicy, *, slots: int) -> None:
        self._poll = poll
        self._policy = policy
        self._slots = slots
        self._turn = asyncio.Semaphore(slots)
        self._open: dict[str, _Watch] = {}

    def watched(self, job_id: str) -> bool:
        """Whether any task waits for the job."""
        return job_id in self._open

    async def final(
        self, job_id: str, deadline: Deadline, seen: Callable[[JobRecord], None]
    ) -> JobRecord:
        """Wait until the job is final; losses on the way are retried until the deadline.

        Args:
            job_id: The job.
            deadline: When to stop waiting.
            seen: Called with the last record known, however the wait ends.

        Raises:
            DeadlineExceeded: The deadline passed.
            APIError: The server refused to tell.
        """
        watch = self._open.get(job_id)
        if watch is None:
            watch = self._open[job_id] = _Watch(job_id)
            watch.task = asyncio.create_task(self._run(watch), name=f"comfysnap poll {job_id}")
        watch.waiters += 1
        limit = asyncio.timeout(deadline.remaining())
        try:
            async with limit:
                return await asyncio.shield(watch.task)
        except TimeoutError as error:
            if not limit.expired():
                raise
            cause = watch.failure
            raise DeadlineExceeded(
                "the job did not end in time",
                job_id=job_id, record=watch.record, attempts=watch.polls,
                status=cause.status if cause else 200 if watch.record else None,
                request_id=cause.request_id if cause else None,
            ) from cause or error  # fmt: skip
        finally:
            if watch.record is not None:
                seen(watch.record)
            watch.waiters -= 1
            if watch.waiters == 0:
                self._open.pop(job_id, None)
                await _end(watch.task)

    async def _run(self, watch: "_Watch") -> JobRecord:
        streak = 0
        while True:
            async with self._turn:
                hold = self._policy.hold_among(len(self._open), self._slots)
                started = time.monotonic()
                hint: float | None = None
                try:
                    watch.polls += 1
                    watch.record, hint = await self._poll(watch.job_id, hold=hold, after=None)
                except ComfysnapError as error:
                    if not _outlasts(error, known=watch.record is not None):
                        raise
                    watch.failure, hint, held = error, error.retry_after, False
                    logger.warning(
                        "job %s: a poll failed, the wait goes on: %s", watch.job_id, error,
                        extra={"job_id": watch.job_id, "request_id": error.request_id},
                    )  # fmt: skip
                else:
                    watch.failure = None
                    if watch.record.is_final:
                        return watch.record
                    held = time.monotonic() - started >= min(HELD_S, hold / 2) > 0
            streak = 0 if held else streak + 1
            if hint is not None or streak:
                await asyncio.sleep(
                    self._policy.pause(streak, hint=hint, draw=random.random())  # noqa: S311 -- spreads load, guards nothing
                )


class _Watch:
    task: asyncio.Task[JobRecord]

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.waiters = 0
        self.polls = 0
        self.record: JobRecord | None = None
        self.failure: ComfysnapError | None = None


def _outlasts(error: ComfysnapError, *, known: bool) -> bool:
    """Whether a wait goes on after this failure of a poll. Once the server told of the job, a
    stranger's answer is taken for a passing proxy fault."""
    return is_transient(error) or (known and isinstance(error, UnexpectedResponse))


async def _end(task: asyncio.Task[JobRecord]) -> None:
    """Stop a task and see it gone."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # marks it as seen
