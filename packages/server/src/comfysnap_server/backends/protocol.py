"""What the gateway asks of a backend: accept jobs, report on them, cancel them, serve files."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from pydantic import JsonValue

from comfysnap_schema.wire import (
    JobEvent,
    JobPage,
    JobRecord,
    JobStatus,
    NamedOutput,
    PurgeReport,
)
from comfysnap_server.jobs import JobRequest


@dataclass(frozen=True)
class SubmitResult:
    """The answer to a submit."""

    job: JobRecord
    replayed: bool = False
    """The idempotency key was known: this is the earlier job."""


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file to serve: local, so that ranges are cheap."""

    path: Path
    content_type: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class OwnerBudget:
    """What a key lets its owner have; None: what the backend allows each owner."""

    max_unfinished_jobs: int | None = None
    max_stored_bytes: int | None = None


NO_BUDGET: Final = OwnerBudget()


@dataclass(frozen=True, kw_only=True)
class OwnerUsage:
    """What an owner has (None: not counted), and may have (None: no limit)."""

    unfinished_jobs: int | None = None
    queued_bytes: int | None = None
    """Of the requests of the unfinished jobs."""
    stored_bytes: int | None = None
    """Uploads, outputs and jobs."""
    max_unfinished_jobs: int | None = None
    max_queued_bytes: int | None = None
    max_stored_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class BackendLoad:
    """What a backend has to do now; None: it does not know."""

    queued: int | None = None
    """Jobs that wait for a worker."""
    oldest_queued: datetime | None = None
    """When the oldest of them was accepted; None when none waits, too."""
    running: int | None = None
    free_bytes: int | None = None
    """Of the disk with the jobs and their files."""
    webhooks: int | None = None
    """That wait to be sent, or to be sent again."""


@dataclass(frozen=True, kw_only=True)
class PurgeRequest:
    """What to delete for good."""

    older_than: float
    """Seconds since a job ended, or an upload was last used."""
    owner: str | None = None
    """Whose; None: of all owners."""
    jobs: bool = True
    """Ended jobs, with their outputs, and webhooks that were not delivered."""
    files: bool = True
    """Uploads that no unfinished job reads."""
    dry_run: bool = False
    """Only count."""


IN_USE_S: Final = 600.0
"""Uploads that were used so short ago stay on a running server: submits may be about to name them.
"""


@dataclass(frozen=True, kw_only=True)
class OutputLink:
    """Where a file lies that is not served from here."""

    url: str


Output = StoredFile | OutputLink


class EventLog:
    """The events of one stream: what is new in each state, after the states before."""

    def __init__(self) -> None:
        self._sent: JobRecord | None = None
        self._outputs: dict[str, JsonValue] = {}

    def of(self, job: JobRecord) -> list[JobEvent]:
        """The events of a new state: its new outputs, then ``progress`` when nothing else
        changed. The outputs of a job that starts over come again only where they differ."""
        outputs = [
            NamedOutput(name=name, value=value)
            for name, value in (job.outputs or {}).items()
            if name not in self._outputs or self._outputs[name] != value
        ]
        self._outputs |= {output.name: output.value for output in outputs}
        sent, self._sent = self._sent, job
        return [*(JobEvent(type="output", output=output) for output in outputs), _event(job, sent)]


def _event(job: JobRecord, sent: JobRecord | None) -> JobEvent:
    if job.is_final:
        return JobEvent(type="done", job=job)
    if sent and (sent.status, sent.attempt, sent.cancel_requested_at) == (
        job.status,
        job.attempt,
        job.cancel_requested_at,
    ):
        return JobEvent(type="progress", progress=job.progress)
    return JobEvent(type="status", job=job)


class Backend(Protocol):
    """Where jobs run. A job of another owner is ``unknown_job``."""

    name: str
    """``local`` or ``modal``."""

    async def start(self) -> None:
        """Take up work, that of an earlier life included."""
        ...

    async def stop(self) -> None:
        """Stop cleanly: no job is lost, no process is left."""
        ...

    async def ready(self) -> bool:
        """Whether jobs can be accepted now."""
        ...

    def load(self) -> BackendLoad:
        """What there is to do now, from memory."""
        ...

    async def submit(self, request: JobRequest, budget: OwnerBudget = NO_BUDGET) -> SubmitResult:
        """Accept a job durably, or replay the one with the same idempotency key."""
        ...

    async def owner_of(self, job_id: str) -> str:
        """Whose job it is."""
        ...

    async def usage(self, owner: str, budget: OwnerBudget = NO_BUDGET) -> OwnerUsage:
        """What the owner has now, and may have with a key of this budget."""
        ...

    async def replay(self, owner: str, idempotency_key: str, fingerprint: str) -> JobRecord | None:
        """The job that this key already made, or None; asked before validation, so that a replay
        is right even after the workflow changed."""
        ...

    async def get(self, owner: str, job_id: str) -> JobRecord:
        """The job as it is now."""
        ...

    async def wait(
        self, owner: str, job_id: str, *, after: int | None, timeout: float
    ) -> JobRecord:
        """The job once it is final, or once its version is above ``after`` when that is given, or
        as it is after ``timeout`` seconds."""
        ...

    async def list_jobs(
        self,
        owner: str | None,
        *,
        status: JobStatus | None = None,
        workflow: str | None = None,
        labels: Mapping[str, str] | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> JobPage:
        """The owner's jobs, newest first; ``owner`` None: those of all, with their owners."""
        ...

    async def cancel(self, owner: str, job_id: str) -> JobRecord:
        """Ask for the job to stop; asking again or of a finished job changes nothing."""
        ...

    def events(self, owner: str, job_id: str, *, after: int | None) -> AsyncIterator[JobEvent]:
        """States newer than version ``after`` as they come, with every output once; ends after
        ``done``."""
        ...

    async def open_output(self, owner: str, job_id: str, name: str) -> Output:
        """A file of one of the job's outputs, which may be complete before the job is."""
        ...

    async def has_file(self, owner: str, sha256: str) -> bool:
        """Whether the owner uploaded this input file."""
        ...

    async def put_file(
        self,
        owner: str,
        sha256: str,
        chunks: AsyncIterator[bytes],
        budget: OwnerBudget = NO_BUDGET,
    ) -> None:
        """Store an input file while checking its hash and size."""
        ...

    async def purge(self, wanted: PurgeRequest) -> PurgeReport:
        """Delete what is there of it, up to some hundred jobs at once."""
        ...
