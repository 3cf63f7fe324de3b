"""What the backend asks of Modal, so that policy and tests know neither RPCs nor clocks."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Protocol

from comfysnap_schema.wire import JobStatus
from comfysnap_server.jobs import JobRequest


class CallState(Enum):
    """How a function call ended."""

    RETURNED = "returned"
    RAISED = "raised"
    """The method or an enter hook raised, or the container could not start."""
    STOPPED = "stopped"
    """Cancelled, by the gateway or from outside."""
    TIMED_OUT = "timed_out"
    """Over the function's own timeout."""
    GONE = "gone"
    """Too old, or never there."""
    LOST = "lost"
    """Modal gave up on it."""


@dataclass(frozen=True)
class CallEnd:
    """What became of one call."""

    call_id: str
    state: CallState
    reason: str = ""
    """What Modal says of it, such as the exception that an enter hook raised."""


class Records(Protocol):
    """A ``modal.Dict`` of texts."""

    async def get(self, key: str) -> str | None:
        """The value, or None."""
        ...

    async def add(self, key: str, value: str) -> bool:
        """Write the key unless it exists; whether it was written."""
        ...

    async def put(self, key: str, value: str) -> None:
        """Write the key."""
        ...

    def items(self) -> AsyncIterator[tuple[str, str]]:
        """Everything, in no order; costly."""
        ...


class Feed(Protocol):
    """A ``modal.Queue`` with a partition for each job, read without taking."""

    async def append(self, job_id: str, entry: str, *, keep: int) -> None:
        """Add an entry, and keep all of the job's for ``keep`` seconds from now."""
        ...

    def read(self, job_id: str, *, wait: float) -> AsyncIterator[str]:
        """All entries from the first; ends after ``wait`` seconds without a new one. Begins anew
        after an error, and so may yield entries twice."""
        ...


class Calls(Protocol):
    """Function calls of the GPU class."""

    async def spawn(self, job_id: str, request: str | None) -> str:
        """Queue a job and return the call's id.

        Args:
            request: The request itself, when it is small enough to travel inline.
        """
        ...

    async def end(self, call_id: str, *, wait: float) -> CallEnd | None:
        """How the call ended; None when it did not in ``wait`` seconds (queued or running: Modal
        does not say which)."""
        ...

    async def cancel(self, call_id: str, *, terminate: bool) -> None:
        """Ask for the call to stop, or kill its container; a finished call is left alone."""
        ...


class SharedFolder(Protocol):
    """A mounted ``modal.Volume``."""

    root: Path

    async def commit(self) -> None:
        """Show this container's writes to others."""
        ...

    async def reload(self) -> None:
        """See what others committed. Fails while a file of the volume is open here."""
        ...


class Webhooks(Protocol):
    """What is kept of the webhooks of jobs."""

    async def add(self, request: JobRequest) -> None:
        """Keep the webhook of a job that is about to be accepted, if it has one."""
        ...

    async def job_ended(self, request: JobRequest, status: JobStatus) -> None:
        """Have it sent. A failure is only logged: the sweep sends it then."""
        ...


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Platform:
    """Everything the backend reaches."""

    records: Records
    index: Records
    feed: Feed
    calls: Calls
    files: SharedFolder
    models: SharedFolder | None = None
    """The models volume; None where no engine runs."""
    webhooks: Webhooks | None = None
    """None: no webhooks are sent."""
    now: Callable[[], datetime] = utc_now
