"""What a key may do and use, and links that open one thing without a key."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, Field

from comfysnap_schema.wire import routes


class Scope(StrEnum):
    """What a key may do. Every scope may read."""

    READ = "read"
    """GET requests for the owner's jobs, events, outputs and limits, and the workflows."""
    INFER = "infer"
    """Submit and cancel the owner's jobs, and upload files."""
    ADMIN = "admin"
    """See, cancel and delete the jobs of all owners, and read the metrics."""


class BudgetName(StrEnum):
    """What a key can have a limit of; the keys of ``Limits.budgets`` and ``Problem.budget``."""

    REQUESTS_PER_MINUTE = "requests_per_minute"
    MAX_UNFINISHED_JOBS = "max_unfinished_jobs"
    MAX_QUEUED_BYTES = "max_queued_bytes"
    MAX_STORED_BYTES = "max_stored_bytes"


class BudgetUse(BaseModel, frozen=True, extra="ignore", defer_build=True):
    """One budget of the caller."""

    limit: int | None = None
    """The maximum. None: no limit of its own."""
    used: int | None = None
    """How much of it is in use. None: not counted by this server."""
    at_once: int | None = None
    """How much of it may be used at once. None: all of it."""
    reset_s: float | None = None
    """Seconds until all of it is available again. None: it has no clock."""


class Limits(BaseModel, frozen=True, extra="ignore", defer_build=True):
    """What the caller may do and use: ``GET /limits``. Sizes in bytes, times in seconds."""

    owner: str
    """Jobs, files and budgets belong to the owner, who may have several keys."""
    key: str | None = None
    """Name of the key. None on a server without keys, and when another owner was asked for."""
    scopes: list[str]
    budgets: dict[str, BudgetUse]
    """By ``BudgetName``."""
    max_body_bytes: int
    """Largest JSON body."""
    max_file_bytes: int
    """Largest uploaded file."""
    max_wait: float
    """Longest hold of ``/check_status``."""
    max_sync_wait: float
    """Longest hold of ``/infer_sync``."""
    max_timeout: float
    """Longest run of a job; a longer ``timeout`` is reduced to it."""


class LinkRequest(BaseModel, frozen=True, extra="forbid", defer_build=True):
    """Body of ``POST /links``."""

    job_id: Annotated[str, Field(pattern=routes.JOB_ID_PATTERN)]
    output: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^/]+$")] | None = None
    """Name of the output file. None: the job's event stream."""
    expires_in: Annotated[int, Field(ge=1, le=routes.MAX_LINK_S)] = routes.DEFAULT_LINK_S
    """Seconds."""


class Link(BaseModel, frozen=True, extra="ignore", defer_build=True):
    """A URL that opens one thing with GET, without a key, until it expires."""

    url: str
    """Relative to the server's URL, with the signed token."""
    expires_at: datetime


class PurgeReport(BaseModel, frozen=True, extra="ignore", defer_build=True):
    """What a purge deleted, or would delete: ``POST /purge``."""

    jobs: int
    job_bytes: int
    """Of these jobs and their outputs; on Modal of the outputs alone."""
    files: int
    """Uploads."""
    file_bytes: int
    complete: bool = True
    """Whether nothing is left to delete. False: the same request deletes more."""
