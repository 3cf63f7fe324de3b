"""What is asked of the job store: plain functions on a connection."""

import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from comfysnap_schema.wire import IDEMPOTENCY_TTL_S, ErrorCode, JobRecord, JobStatus
from comfysnap_server.backends.protocol import SubmitResult
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs import JobRequest

_PAGE_CHARACTERS: Final = 8 * 1024 * 1024
"""Of a page of jobs, each of which may have inputs of megabytes."""


@dataclass(frozen=True)
class StoredJob:
    """A row."""

    seq: int
    """Order of submits."""
    record: JobRecord
    request: str | None = None
    """JSON; None once the outputs were deleted."""


@dataclass(frozen=True)
class Accepted(SubmitResult):
    """A submit as the store decided it."""

    seq: int = 0
    request: str = ""
    """JSON, as stored."""


def submit(
    connection: sqlite3.Connection,
    request: JobRequest,
    record: JobRecord,
    *,
    max_queued: int,
    max_per_owner: int | None,
) -> Accepted:
    """Insert a job, or find the one that its idempotency key made.

    Raises:
        BackendError: ``idempotency_mismatch``, ``queue_full``, ``quota_exceeded``.
    """
    key = request.idempotency_key
    if key is not None:
        earlier = replay(connection, request.owner, key, request.fingerprint)
        if earlier is not None:
            return Accepted(earlier, replayed=True)
    _check_room(connection, request.owner, max_queued, max_per_owner)
    text = request.model_dump_json()
    seq = _insert(connection, request, record, text)
    if key is not None:
        connection.execute(
            "INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?, ?)",
            (request.owner, key, request.fingerprint, record.id, time.time() + IDEMPOTENCY_TTL_S),
        )
    return Accepted(record, seq=seq, request=text)


def _insert(
    connection: sqlite3.Connection, request: JobRequest, record: JobRecord, text: str
) -> int:
    try:
        cursor = connection.execute(
            "INSERT INTO jobs (id, owner, workflow, status, request, record)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                record.id,
                request.owner,
                record.workflow,
                record.status,
                text,
                record.model_dump_json(),
            ),
        )
    except sqlite3.IntegrityError as error:
        raise BackendError(ErrorCode.INTERNAL, f"there is a job {record.id} already") from error
    seq = int(cursor.lastrowid or 0)
    connection.executemany(
        "INSERT INTO labels VALUES (?, ?, ?)",
        [(key, value, seq) for key, value in record.labels.items()],
    )
    return seq


def _check_room(
    connection: sqlite3.Connection, owner: str, max_queued: int, max_per_owner: int | None
) -> None:
    # The IN is what lets SQLite use the index of unfinished jobs, whatever the history.
    (queued,) = connection.execute(
        "SELECT count(*) FROM jobs WHERE status IN ('queued', 'running') AND status = 'queued'"
    ).fetchone()
    if queued >= max_queued:
        raise BackendError(ErrorCode.QUEUE_FULL, f"{queued} jobs are queued already", retry_after=5)
    if max_per_owner is None:
        return
    (mine,) = connection.execute(
        "SELECT count(*) FROM jobs WHERE status IN ('queued', 'running') AND owner = ?", (owner,)
    ).fetchone()
    if mine >= max_per_owner:
        raise BackendError(
            ErrorCode.QUOTA_EXCEEDED, f"{mine} of your jobs are not finished yet", retry_after=5
        )


def replay(
    connection: sqlite3.Connection, owner: str, key: str, fingerprint: str
) -> JobRecord | None:
    """The job that a key made, while it is remembered.

    Raises:
        BackendError: ``idempotency_mismatch``.
    """
    row = connection.execute(
        "SELECT fingerprint, record FROM idempotency"
        " JOIN jobs ON jobs.id = job_id AND jobs.owner = idempotency.owner"
        " WHERE idempotency.owner = ? AND key = ? AND expires_at > ?",
        (owner, key, time.time()),
    ).fetchone()
    if row is None:
        return None
    if row[0] != fingerprint:
        raise BackendError(
            ErrorCode.IDEMPOTENCY_MISMATCH, "this idempotency key came with another request before"
        )
    return JobRecord.model_validate_json(row[1])


def save(connection: sqlite3.Connection, record: JobRecord) -> bool:
    """Write a job's new state; false when it is final already, which never changes."""
    finished = record.finished_at.timestamp() if record.finished_at else None
    cursor = connection.execute(
        "UPDATE jobs SET status = ?, finished_at = ?, record = ?"
        " WHERE id = ? AND status IN ('queued', 'running')",
        (record.status, finished, record.model_dump_json(), record.id),
    )
    return cursor.rowcount == 1


def claim(connection: sqlite3.Connection, record: JobRecord) -> str | None:
    """Write that a worker takes the job, and give its request (JSON); None when it is final."""
    if not save(connection, record):
        return None
    (request,) = connection.execute(
        "SELECT request FROM jobs WHERE id = ?", (record.id,)
    ).fetchone()
    return request


def get(connection: sqlite3.Connection, owner: str, job_id: str) -> StoredJob:
    """A job of this owner.

    Raises:
        BackendError: ``unknown_job``.
    """
    row = connection.execute(
        "SELECT seq, record, request FROM jobs WHERE id = ? AND owner = ?", (job_id, owner)
    ).fetchone()
    if row is None:
        raise BackendError(ErrorCode.UNKNOWN_JOB, f"unknown job {job_id}")
    return StoredJob(row[0], JobRecord.model_validate_json(row[1]), row[2] or None)


def active(connection: sqlite3.Connection) -> list[tuple[int, JobRecord, JobRequest]]:
    """The jobs that are not final, in order of their submits."""
    rows = connection.execute(
        "SELECT seq, record, request FROM jobs WHERE status IN ('queued', 'running') ORDER BY seq"
    )
    return [
        (seq, JobRecord.model_validate_json(record), JobRequest.model_validate_json(request))
        for seq, record, request in rows
    ]


def page(
    connection: sqlite3.Connection,
    owner: str,
    *,
    status: JobStatus | None,
    workflow: str | None,
    labels: Mapping[str, str],
    before: int | None,
    limit: int,
) -> tuple[list[StoredJob], bool]:
    """Up to ``limit`` jobs of an owner, newest first, fewer when they are large; and whether there
    are more."""
    where, values = ["owner = ?"], [owner]
    filters: list[tuple[str, object]] = [
        ("status = ?", status),
        ("workflow = ?", workflow),
        ("seq < ?", before),
    ]
    parameters: list[object] = [*values]
    for clause, value in filters:
        if value is not None:
            where.append(clause)
            parameters.append(value)
    for key, value in labels.items():
        where.append("EXISTS (SELECT 1 FROM labels WHERE key = ? AND value = ? AND seq = jobs.seq)")
        parameters += [key, value]
    rows = connection.execute(
        f"SELECT seq, record FROM jobs WHERE {' AND '.join(where)}"  # noqa: S608 -- only clauses from above
        " ORDER BY seq DESC LIMIT ?",
        [*parameters, limit + 1],
    )
    found: list[StoredJob] = []
    size = 0
    for seq, record in rows:
        size += len(record)
        if len(found) == limit or (found and size > _PAGE_CHARACTERS):
            return found, True
        found.append(StoredJob(seq, JobRecord.model_validate_json(record)))
    return found, False


def finished_before(connection: sqlite3.Connection, moment: float, limit: int) -> list[str]:
    """Ids of jobs that ended before ``moment`` and may still have outputs."""
    rows = connection.execute(
        "SELECT id FROM jobs WHERE outputs_gone = 0 AND finished_at < ? LIMIT ?", (moment, limit)
    )
    return [row[0] for row in rows]


def mark_outputs_gone(connection: sqlite3.Connection, job_ids: list[str]) -> None:
    """Their outputs are to be deleted; their graphs are no longer needed either."""
    connection.executemany(
        "UPDATE jobs SET outputs_gone = 1, request = '' WHERE id = ?",
        [(job_id,) for job_id in job_ids],
    )


def forget_keys(connection: sqlite3.Connection) -> None:
    """Drop idempotency keys that are past their time."""
    connection.execute("DELETE FROM idempotency WHERE expires_at <= ?", (time.time(),))
