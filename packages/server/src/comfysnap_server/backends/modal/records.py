"""What is kept of a job in a ``modal.Dict``: one writer a key, as a Dict has no compare-and-swap.

A Dict's entries expire after seven idle days (https://modal.com/docs/guide/dicts), and with them
the job.
"""

from datetime import datetime
from typing import Final, Literal, TypeVar
from urllib.parse import quote, unquote

from pydantic import BaseModel, Field, JsonValue

from comfysnap_schema.wire import JobRecord, Preview, Progress
from comfysnap_server.jobs import JobEnd

RecordT = TypeVar("RecordT", bound=BaseModel)

MAX_PREEMPTIONS: Final = 3
"""How often a preempted job runs again without using up an attempt."""


class KnownKey(BaseModel, frozen=True):
    """``idem:{owner}:{key}``: which job an idempotency key made. Written by the gateway."""

    job_id: str
    fingerprint: str
    created_at: datetime


class Spawned(BaseModel, frozen=True):
    """``{id}:call``: the first function call made for the job, and ``{id}:moved:{pool}``: the one
    that took its place because that pool is gone. Written by the gateway."""

    call_id: str
    at: datetime
    pool: str | None = None
    """In which pool. None: in the default one, by a version without pools."""


class Claim(BaseModel, frozen=True):
    """``{id}:claim:{run}``: the call that runs the job this time. Written by the worker; a second
    call for the same job finds another call's claim and gives way, a requeued one finds its own.
    """

    call_id: str
    nonce: str = ""
    """Random, so that its writer knows its own claim from that of the container before it."""
    at: datetime
    start_kind: Literal["cold", "warm", "restored"]
    start_seconds: float
    load_seconds: float
    attach_seconds: float
    device: str | None = None
    pool: str | None = None
    preemptions: int = 0
    """How many of the runs before this one were preempted, and so were no attempts."""


class Preempted(BaseModel, frozen=True):
    """``{id}:preempted:{run}``: the run was interrupted by Modal, not by a cancel. Written by the
    worker on its way out; a container that ran out of memory has no time to."""

    at: datetime


class CancelRequest(BaseModel, frozen=True):
    """``{id}:cancel``. Written by the gateway."""

    at: datetime


class End(JobEnd, frozen=True):
    """``{id}:final``: how the job ended; the first one stands. Written by the worker, or by the
    gateway for a job that no worker can end."""

    at: datetime
    attempt: int = 0


class Listed(BaseModel, frozen=True):
    """``{owner}:{id}`` in the index of unfinished jobs, and ``{id}`` in the list of its owner: what
    a listing filters by, and once the job has ended, the whole of it."""

    created_at: datetime
    workflow: str
    labels: dict[str, str] = Field(default_factory=dict)
    job: JobRecord | None = None
    """Only in the list, and only of an ended job. Written by who ended it, or a later reader."""


class FeedEntry(BaseModel, frozen=True):
    """One entry of a job's partition in the progress queue; read without taking it. What the
    records say is repeated here, because one request reads all of it."""

    attempt: int
    number: int
    """Grows by one with each entry of an attempt."""
    progress: Progress | None = None
    preview: Preview | None = None
    outputs: dict[str, JsonValue] | None = None
    """All that are complete; only with the entry that adds some, which has progress too."""
    ended: bool = False
    """The final record is written."""
    claim: Claim | None = None
    """Of the run that begins; with the first entry of a run."""
    cancel: CancelRequest | None = None
    """With the one entry that a gateway writes: of no attempt, and never shown as progress."""


def idem_key(owner: str, key: str) -> str:
    """Where an idempotency key is kept; owners are quoted, so that no two of them meet."""
    return f"idem:{quote(owner, safe='')}:{key}"


def job_key(job_id: str, what: Literal["request", "call", "cancel", "final"]) -> str:
    """Where a part of a job is kept."""
    return f"{job_id}:{what}"


def moved_key(job_id: str, pool: str) -> str:
    """Where the call is kept that took the place of the one in ``pool``."""
    return f"{job_id}:moved:{pool}"


def claim_key(job_id: str, run: int) -> str:
    """Where the claim of a run is kept; runs count from 1, preempted ones too."""
    return f"{job_id}:claim:{run}"


def preempted_key(job_id: str, run: int) -> str:
    """Where the mark of a preempted run is kept."""
    return f"{job_id}:preempted:{run}"


def previews_of(job_id: str) -> str:
    """Partition of a job's previews: beside that of its progress, which every look at it reads."""
    return f"{job_id}:previews"


def index_key(owner: str, job_id: str) -> str:
    """Where a job is listed."""
    return f"{quote(owner, safe='')}:{job_id}"


def owner_and_job(key: str) -> tuple[str, str]:
    """Back from a key of the index."""
    owner, _, job_id = key.partition(":")
    return unquote(owner), job_id


def read(kind: type[RecordT], text: str | None) -> RecordT | None:
    """Parse a record, if there is one."""
    return None if text is None else kind.model_validate_json(text)
