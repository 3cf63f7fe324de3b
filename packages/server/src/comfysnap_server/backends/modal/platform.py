"""What the backend asks of Modal, so that policy and tests know neither RPCs nor clocks."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from comfysnap_server.backends.modal.remote_models import WorkerModels

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

    async def update(self, values: Mapping[str, str]) -> None:
        """Write keys in one request."""
        ...

    async def pop(self, key: str) -> None:
        """Delete the key, if it exists."""
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


@dataclass(frozen=True)
class Pools:
    """The GPU classes of the deployment, and which one runs which workflow."""

    by_workflow: Mapping[str, str] = field(default_factory=dict[str, str])
    longest_run: Mapping[str, float] = field(default_factory=lambda: {"default": float("inf")})
    """Pool to the seconds that a job may run there."""

    def of(self, workflow: str) -> str:
        """The pool of a workflow; for one that is not served any more, the first pool."""
        return self.by_workflow.get(workflow) or next(iter(self.longest_run))

    def lacks(self, pool: str | None) -> bool:
        """Whether a pool of an earlier deployment is gone."""
        return pool is not None and pool not in self.longest_run


class Calls(Protocol):
    """Function calls of the GPU classes."""

    async def spawn(self, job_id: str, request: str | None, pool: str) -> str:
        """Queue a job in a pool and return the call's id.

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
    """The jobs of all owners that may not have ended."""
    listings: Callable[[str], Records]
    """The jobs of one owner."""
    feed: Feed
    calls: Calls
    files: SharedFolder
    pools: Pools = field(default_factory=Pools)
    models: SharedFolder | None = None
    """The models volume; None where no engine runs."""
    remote_models: "WorkerModels | None" = None
    """Models by URL; None where no engine runs, and where jobs may not name any."""
    webhooks: Webhooks | None = None
    """None: no webhooks are sent."""
    now: Callable[[], datetime] = utc_now
