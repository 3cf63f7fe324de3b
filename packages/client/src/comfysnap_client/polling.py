"""Waiting for jobs: one loop of long polls per job, shared by every task that follows it."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from comfysnap_client.errors import ComfysnapError, DeadlineExceeded, UnexpectedResponse
from comfysnap_client.retry import Deadline
from comfysnap_client.transport import is_transient
from comfysnap_schema.wire import MAX_WAIT_S, JobRecord

logger: logging.Logger = logging.getLogger("comfysnap_client")

HELD_S = 1.0
"""A response that took this many seconds was held by the server."""


@dataclass(frozen=True, kw_only=True)
class PollPolicy:
    """How to wait for jobs: long polls, with pauses only after failures or without long polling.

    Example::

        Client(url, polling=PollPolicy(hold=10))  # behind a proxy that cuts requests after 15 s

    Attributes:
        hold: Seconds that the server may hold a status request, 0 to 25. 0 disables long polls.
        initial: Seconds of the first pause. Polls for progress are at least a tenth of it apart.
        factor: Factor by which each pause is longer than the one before.
        maximum: Maximum pause in seconds, unless the server's ``Retry-After`` asks for more.
        jitter: Fraction of a pause, 0 to 1, that is randomly added or subtracted.
    """

    hold: float = MAX_WAIT_S
    initial: float = 0.5
    factor: float = 1.5
    maximum: float = 5.0
    jitter: float = 0.25

    def pause(self, streak: int, *, hint: float | None = None, rand: float) -> float:
        """Return the seconds to wait before the next poll.

        Args:
            streak: Number of consecutive polls that failed or were not held, from 1.
            hint: The server's ``Retry-After`` in seconds. It takes precedence, but the pause is
                at least a tenth of ``initial``.
            rand: A random number from 0 to 1.

        Example::

            seconds = PollPolicy().pause(1, rand=0.5)  # 0.5
        """
        if hint is not None:
            return max(hint, self.initial / 10)
        pause = min(self.initial * self.factor ** min(streak - 1, 64), self.maximum)
        return pause * (1 + self.jitter * (2 * rand - 1))

    def hold_among(self, jobs: int, slots: int) -> float:
        """Return the seconds to hold one poll when ``jobs`` jobs share ``slots`` connections.

        Each job is polled at least every ``maximum`` seconds::

            seconds = PollPolicy().hold_among(160, slots=80)  # 2.5
        """
        if jobs <= slots:
            return self.hold
        return min(self.hold, self.maximum * slots / jobs)


Polled = tuple[JobRecord, float | None]
"""A job and the server's ``Retry-After`` in seconds."""


class Poll(Protocol):
    """Sends one status request."""

    def __call__(self, job_id: str, *, hold: float, after: int | None) -> Awaitable[Polled]:
        """Return the job, once it is final or newer than version ``after``, or after ``hold`` s."""
        ...


class LongPolls:
    """The poll loops of a client, which share ``slots`` connections fairly."""

    def __init__(self, poll: Poll, policy: PollPolicy, *, slots: int) -> None:
        self._poll = poll
        self._policy = policy
        self._slots = slots
        self._turn = asyncio.Semaphore(slots)
        self._jobs: dict[str, _PolledJob] = {}

    def is_awaited(self, job_id: str) -> bool:
        """Whether a task is in ``wait`` for the job."""
        return job_id in self._jobs and self._jobs[job_id].waiting > 0

    async def wait(
        self,
        job_id: str,
        deadline: Deadline,
        on_record: Callable[[JobRecord], None],
        *,
        after: int | None = None,
        changes: bool = False,
    ) -> JobRecord:
        """Wait until the job is final; failed polls are retried until the deadline.

        Args:
            job_id: ID of the job.
            deadline: When to stop waiting.
            on_record: Called with each new record, the final one included.
            after: Version that the caller already has.
            changes: Whether to report every change, which takes a request for each.

        Raises:
            DeadlineExceeded: The deadline passed.
            APIError: The server rejected the request.
        """
        async with self._followed(job_id, after, changes=changes) as job:
            job.waiting += 1
            try:
                async with (
                    deadline.enforced(job.timed_out),
                    aclosing(job.records(after)) as records,
                ):
                    async for record in records:
                        on_record(record)
            finally:
                job.waiting -= 1
            assert job.record is not None  # noqa: S101 -- records end with the final one
            return job.record

    async def follow(self, job_id: str, *, after: int | None = None) -> AsyncGenerator[JobRecord]:
        """Yield each change of the job after version ``after``, up to the final record.

        Raises:
            APIError: The server rejected the request.
        """
        async with (
            self._followed(job_id, after, changes=True) as job,
            aclosing(job.records(after)) as records,
        ):
            async for record in records:
                yield record

    @asynccontextmanager
    async def _followed(
        self, job_id: str, after: int | None, *, changes: bool
    ) -> "AsyncGenerator[_PolledJob]":
        """Run the poll loop of the job for as long as anyone follows it."""
        job = self._jobs.get(job_id)
        if job is None:
            job = self._jobs[job_id] = _PolledJob(job_id, after)
        job.followers += 1
        job.change_followers += changes
        lowered = job.include(after)
        if job.followers == 1:
            job.start(self._run(job))
        elif changes and (lowered or job.change_followers == 1) and not job.loop.done():
            # The server may hold the current poll past what the new follower wants to see.
            job.loop.cancel()
            job.start(self._run(job))
        try:
            yield job
        finally:
            job.followers -= 1
            job.change_followers -= changes
            if job.followers == 0:
                del self._jobs[job_id]
                await job.stop()

    async def _run(self, job: "_PolledJob") -> None:
        streak = 0
        while True:
            async with self._turn:
                hold = self._policy.hold_among(len(self._jobs), self._slots)
                after = job.version if job.change_followers else None
                if job.change_followers and after is None:
                    hold = 0
                started = time.monotonic()
                try:
                    job.polls += 1
                    record, hint = await self._poll(job.id, hold=hold, after=after)
                except ComfysnapError as error:
                    if not _is_temporary(error, known=job.record is not None):
                        raise
                    job.failure, hint, productive = error, error.retry_after, False
                    logger.warning(
                        "job %s: a poll failed, still waiting: %s", job.id, error,
                        extra={"job_id": job.id, "request_id": error.request_id},
                    )  # fmt: skip
                else:
                    held = time.monotonic() - started >= min(HELD_S, hold / 2) > 0
                    productive = held or (job.change_followers > 0 and job.is_news(record))
                    job.update(record)
                    if record.is_final:
                        return
            streak = 0 if productive else streak + 1
            if hint is not None or streak or not self._policy.hold:
                await asyncio.sleep(
                    self._policy.pause(max(streak, 1), hint=hint, rand=random.random())  # noqa: S311 -- spreads load, not security
                )
            else:
                # Fast progress must not become a storm of polls; 0 lets followers see the record.
                gap = self._policy.initial / 10 if job.change_followers else 0.0
                await asyncio.sleep(max(0.0, started + gap - time.monotonic()))


class _PolledJob:
    """A job with its poll loop and those who follow it."""

    loop: asyncio.Task[None]

    def __init__(self, job_id: str, version: int | None) -> None:
        self.id = job_id
        self.version = version
        self.record: JobRecord | None = None
        self.failure: ComfysnapError | None = None
        self.polls = 0
        self.followers = 0
        self.change_followers = 0
        self.waiting = 0
        self._changed = asyncio.Event()

    def start(self, run: Coroutine[Any, Any, None]) -> None:
        """Start the poll loop."""
        self.loop = asyncio.create_task(run, name=f"comfysnap poll {self.id}")
        self.loop.add_done_callback(self._on_loop_end)

    def include(self, after: int | None) -> bool:
        """Start from this version, if it is older; return whether that changed anything."""
        lowers = (
            self.record is None
            and self.version is not None
            and (after is None or after < self.version)
        )
        if lowers:
            self.version = after
        return lowers

    def is_news(self, record: JobRecord) -> bool:
        """Whether the record is newer than the last one."""
        return self.version is None or record.version > self.version

    def update(self, record: JobRecord) -> None:
        """Store the record and wake up the followers."""
        self.record, self.version = record, record.version
        self._changed.set()
        self._changed = asyncio.Event()

    async def records(self, after: int | None) -> AsyncGenerator[JobRecord]:
        """Yield each record newer than version ``after``, up to the final one.

        Raises:
            ComfysnapError: The poll loop failed.
        """
        while True:
            record, changed = self.record, self._changed
            if record is not None and (record.is_final or after is None or record.version > after):
                after = record.version
                yield record
                if record.is_final:
                    return
            await changed.wait()
            if self.loop.done():
                self.loop.result()

    def timed_out(self) -> DeadlineExceeded:
        """The error for a follower whose deadline passed."""
        cause = self.failure
        error = DeadlineExceeded(
            "timed out waiting for the job",
            job_id=self.id, record=self.record, attempts=self.polls,
            status=cause.status if cause else 200 if self.record else None,
            request_id=cause.request_id if cause else None,
        )  # fmt: skip
        error.__cause__ = cause
        return error

    async def stop(self) -> None:
        """Cancel the poll loop and wait for its end."""
        self.loop.cancel()
        await asyncio.wait({self.loop})
        if not self.loop.cancelled():
            self.loop.exception()  # marks it as retrieved

    def _on_loop_end(self, loop: asyncio.Task[None]) -> None:
        if loop is self.loop:  # else it was replaced
            self._changed.set()


def _is_temporary(error: ComfysnapError, *, known: bool) -> bool:
    """Whether to keep polling after this failure.

    Once the server has returned the job, a foreign response is most likely a passing fault of a
    proxy.
    """
    return is_transient(error) or (known and isinstance(error, UnexpectedResponse))
