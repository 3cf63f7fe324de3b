"""What is asked of the job store: plain functions on a connection."""

import heapq
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from pydantic_core import from_json, to_json

from comfysnap_schema.wire import (
    IDEMPOTENCY_TTL_S,
    BudgetName,
    ErrorCode,
    JobRecord,
    JobStatus,
)
from comfysnap_server.backends.local import webhook_rows
from comfysnap_server.backends.local.limits import LocalLimits
from comfysnap_server.backends.protocol import SubmitResult
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs import JobRequest

logger = logging.getLogger(__name__)

DATABASE: Final = "jobs.sqlite3"
"""In the data folder."""

_PAGE_CHARACTERS: Final = 8 * 1024 * 1024
"""Of a page of jobs, each of which may have inputs of megabytes."""
_RETRY_S: Final = 5
_QUOTA_RETRY_S: Final = 3600
_VACUUM_PAGES: Final = 1000
"""Given back to the disk at once, so that no other write waits long."""


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
    limits: LocalLimits,
    *,
    uploaded: int = 0,
) -> Accepted:
    """Insert a job, or find the one that its idempotency key made.

    Args:
        connection: Of the writer.
        request: What to run.
        record: Its first state.
        limits: Of the queue, and of owners.
        uploaded: Bytes of the owner's uploads, which count to what the owner has stored.

    Raises:
        BackendError: ``idempotency_mismatch``, ``queue_full``, ``quota_exceeded``.
    """
    key = request.idempotency_key
    if key is not None:
        earlier = replay(connection, request.owner, key, request.fingerprint)
        if earlier is not None:
            return Accepted(earlier, replayed=True)
    text = request.model_dump_json()
    inputs = to_json(record.inputs).decode()
    size = len(text) + len(inputs)
    _check_room(connection, request.owner, size, limits, uploaded)
    seq = _insert(connection, request.owner, record, (text, inputs))
    if request.delivery is not None:
        webhook_rows.add(connection, seq, request.delivery)
    if key is not None:
        connection.execute(
            "INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?, ?)",
            (request.owner, key, request.fingerprint, record.id, time.time() + IDEMPOTENCY_TTL_S),
        )
    return Accepted(record, seq=seq, request=text)


def _insert(
    connection: sqlite3.Connection, owner: str, record: JobRecord, payload: tuple[str, str]
) -> int:
    size = sum(map(len, payload))
    try:
        cursor = connection.execute(
            "INSERT INTO jobs (id, owner, workflow, status, request, record, kept)"
            " VALUES (?, ?, ?, ?, '', ?, ?)",
            (record.id, owner, record.workflow, record.status, _json(record), size),
        )
    except sqlite3.IntegrityError as error:
        raise BackendError(ErrorCode.INTERNAL, f"there is a job {record.id} already") from error
    seq = int(cursor.lastrowid or 0)
    connection.execute("INSERT INTO payloads VALUES (?, ?, ?)", (seq, *payload))
    if record.labels:
        connection.executemany(
            "INSERT INTO job_labels VALUES (?, ?, ?, ?)",
            [(owner, key, value, seq) for key, value in record.labels.items()],
        )
    return seq


def _check_room(
    connection: sqlite3.Connection, owner: str, size: int, limits: LocalLimits, uploaded: int
) -> None:
    rows = connection.execute(
        "SELECT owner, queued, held, unfinished, kept FROM usage WHERE owner IN ('', ?)", (owner,)
    )
    counts = {row[0]: row[1:] for row in rows}
    queued, held, *_ = counts.get("", (0, 0))
    _, mine_held, mine, kept = counts.get(owner, (0, 0, 0, 0))
    if queued >= limits.max_queued:
        raise _full(f"{queued} jobs are queued already (max_queued)")
    if held + size > limits.max_queued_bytes:
        detail = f"queued jobs hold {held} of {limits.max_queued_bytes} bytes (max_queued_bytes)"
        raise _full(detail)
    most = limits.max_unfinished_per_owner
    if most is not None and mine >= most:
        raise BackendError(
            ErrorCode.QUOTA_EXCEEDED,
            f"{mine} of your jobs are not finished yet (max_unfinished_per_owner)",
            retry_after=_RETRY_S,
            budget=BudgetName.MAX_UNFINISHED_JOBS,
            limit=most,
        )
    most = limits.max_queued_bytes_per_owner
    if most is not None and mine_held + size > most:
        raise BackendError(
            ErrorCode.QUOTA_EXCEEDED,
            f"your unfinished jobs hold {mine_held} of {most} bytes (max_queued_bytes_per_owner)",
            retry_after=_RETRY_S,
            budget=BudgetName.MAX_QUEUED_BYTES,
            limit=most,
        )
    if limits.max_stored_bytes_per_owner is not None:
        check_stored(uploaded + kept + size, limits.max_stored_bytes_per_owner)


def _full(detail: str) -> BackendError:
    return BackendError(ErrorCode.QUEUE_FULL, detail, retry_after=_RETRY_S)


def check_stored(stored: int, most: int) -> None:
    """Refuse what would take an owner beyond the limit.

    Raises:
        BackendError: ``quota_exceeded``.
    """
    if stored > most:
        raise BackendError(
            ErrorCode.QUOTA_EXCEEDED,
            f"your files and jobs would hold {stored} of {most} bytes (max_stored_bytes_per_owner);"
            " they are deleted some days after their last use",
            retry_after=_QUOTA_RETRY_S,
            budget=BudgetName.MAX_STORED_BYTES,
            limit=most,
        )


def stored_bytes(connection: sqlite3.Connection, owner: str) -> int:
    """Bytes of an owner's jobs and their outputs."""
    row = connection.execute("SELECT kept FROM usage WHERE owner = ?", (owner,)).fetchone()
    return row[0] if row else 0


def unfinished(connection: sqlite3.Connection, owner: str) -> tuple[int, int]:
    """How many of an owner's jobs are not final, and their bytes."""
    sums = "SELECT unfinished, held FROM usage WHERE owner = ?"
    return connection.execute(sums, (owner,)).fetchone() or (0, 0)


def owner_of(connection: sqlite3.Connection, job_id: str) -> str:
    """Whose job it is.

    Raises:
        BackendError: ``unknown_job``.
    """
    row = connection.execute("SELECT owner FROM jobs WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        raise BackendError(ErrorCode.UNKNOWN_JOB, f"unknown job {job_id}")
    return row[0]


def replay(
    connection: sqlite3.Connection, owner: str, key: str, fingerprint: str
) -> JobRecord | None:
    """The job that a key made, while it is remembered.

    Raises:
        BackendError: ``idempotency_mismatch``.
    """
    row = connection.execute(
        "SELECT fingerprint, id, record, inputs FROM idempotency"
        " JOIN jobs ON jobs.id = job_id AND jobs.owner = idempotency.owner"
        " JOIN payloads USING (seq)"
        " WHERE idempotency.owner = ? AND key = ? AND expires_at > ?",
        (owner, key, time.time()),
    ).fetchone()
    if row is None:
        return None
    if row[0] != fingerprint:
        raise BackendError(
            ErrorCode.IDEMPOTENCY_MISMATCH, "this idempotency key came with another request before"
        )
    return _record(*row[1:])


def save(connection: sqlite3.Connection, record: JobRecord, *, output_bytes: int = 0) -> bool:
    """Write a job's new state; false when it is final already, which never changes.

    Args:
        connection: Of the writer.
        record: The state; its inputs were written with the submit.
        output_bytes: Size of the files of a final job's outputs.
    """
    finished = record.finished_at.timestamp() if record.finished_at else None
    cursor = connection.execute(
        "UPDATE jobs SET status = ?, finished_at = ?, record = ?, kept = kept + ?"
        " WHERE id = ? AND status IN ('queued', 'running')",
        (record.status, finished, _json(record), output_bytes, record.id),
    )
    if cursor.rowcount != 1:
        return False
    if record.is_final:
        webhook_rows.job_ended(connection, record.id, record.status)
    if record.is_final and record.outputs is None:
        _drop_requests(connection, [record.id])  # without outputs nothing asks for it again
    return True


def _drop_requests(connection: sqlite3.Connection, job_ids: list[str]) -> None:
    ids = [(job_id,) for job_id in job_ids]
    connection.executemany(
        "UPDATE payloads SET request = '' WHERE seq = (SELECT seq FROM jobs WHERE id = ?)", ids
    )
    connection.executemany(
        "UPDATE jobs SET kept = (SELECT length(inputs) FROM payloads"
        " WHERE payloads.seq = jobs.seq) WHERE id = ?",
        ids,
    )


def claim(connection: sqlite3.Connection, record: JobRecord) -> str | None:
    """Write that a worker takes the job, and give its request (JSON); None when it is final."""
    if not save(connection, record):
        return None
    return request_of(connection, record.id)


def request_of(connection: sqlite3.Connection, job_id: str) -> str | None:
    """The request (JSON) of a job; None once its outputs were deleted."""
    row = connection.execute(
        "SELECT payloads.request FROM jobs JOIN payloads USING (seq) WHERE id = ?", (job_id,)
    ).fetchone()
    return (row and row[0]) or None


def get(connection: sqlite3.Connection, owner: str, job_id: str) -> JobRecord:
    """A job of this owner.

    Raises:
        BackendError: ``unknown_job``; ``internal`` when its row is damaged.
    """
    row = connection.execute(
        "SELECT id, record, inputs FROM jobs JOIN payloads USING (seq) WHERE id = ? AND owner = ?",
        (job_id, owner),
    ).fetchone()
    if row is None:
        raise BackendError(ErrorCode.UNKNOWN_JOB, f"unknown job {job_id}")
    return _record(*row)


def _json(record: JobRecord) -> str:
    return record.model_dump_json(exclude={"inputs"})


def _record(job_id: str, text: str, inputs: str) -> JobRecord:
    try:
        record = JobRecord.model_validate_json(text)
        return record.model_copy(update={"inputs": dict(from_json(inputs))})
    except (ValueError, TypeError) as error:
        raise BackendError(
            ErrorCode.INTERNAL, f"what the job store has of job {job_id} is damaged"
        ) from error


def active(connection: sqlite3.Connection) -> list[tuple[int, str]]:
    """``seq`` and id of the jobs that are not final, in order of their submits."""
    rows = connection.execute(
        "SELECT seq, id FROM jobs WHERE status IN ('queued', 'running') ORDER BY seq"
    )
    return rows.fetchall()


def load(connection: sqlite3.Connection, seq: int) -> tuple[JobRecord, JobRequest]:
    """A job that is not final.

    Raises:
        ValueError: Its row is damaged.
    """
    row = connection.execute("SELECT request FROM payloads WHERE seq = ?", (seq,)).fetchone()
    request = JobRequest.model_validate_json(row[0] if row else "")
    return load_record(connection, seq), request


def load_record(connection: sqlite3.Connection, seq: int) -> JobRecord:
    """The record of a job, without its inputs.

    Raises:
        ValueError: It is damaged.
    """
    (text,) = connection.execute("SELECT record FROM jobs WHERE seq = ?", (seq,)).fetchone()
    return JobRecord.model_validate_json(text)


def set_aside(connection: sqlite3.Connection, seq: int) -> None:
    """Let a job whose row is damaged wait no longer; its row stays until its retention ends."""
    connection.execute(
        "UPDATE jobs SET status = 'failed', finished_at = ? WHERE seq = ?",
        (time.time(), seq),
    )


def page(
    connection: sqlite3.Connection,
    owner: str | None,
    *,
    status: JobStatus | None,
    workflow: str | None,
    labels: Mapping[str, str],
    before: int | None,
    limit: int,
) -> tuple[list[tuple[str, JobRecord]], int | None]:
    """Up to ``limit`` jobs of an owner, or of all (None), newest first, fewer when they are large
    or damaged, each with its owner; and ``before`` of the next page, None on the last. An index
    leads to them, whatever the filter."""
    wanted = _Filters(status, workflow, labels, before)
    owners = _owners(connection) if owner is None else [owner]
    found = (_newest(connection, each, wanted, limit + 1) for each in owners)
    newest = islice(heapq.merge(*found, reverse=True), limit + 1)
    rows = connection.execute(
        "SELECT jobs.seq, owner, id, record, inputs FROM jobs JOIN payloads USING (seq)"
        " WHERE jobs.seq IN (SELECT value FROM json_each(?)) ORDER BY jobs.seq DESC",
        (to_json([*newest]).decode(),),
    )
    return _read_page(rows, limit)


def _owners(connection: sqlite3.Connection) -> list[str]:
    return [owner for (owner,) in connection.execute("SELECT owner FROM usage WHERE owner != ''")]


class _Filters(NamedTuple):
    status: JobStatus | None
    workflow: str | None
    labels: Mapping[str, str]
    before: int | None


def _newest(
    connection: sqlite3.Connection, owner: str, wanted: _Filters, limit: int
) -> Iterator[int]:
    """``seq`` of an owner's jobs, newest first, read one by one in the order of an index: that of
    a label, or that of each status."""
    tables = [f"job_labels label{number}" for number in range(len(wanted.labels))]
    conditions = ["TRUE" if wanted.before is None else "seq < :before"]
    values: dict[str, object] = {"owner": owner, "limit": limit, "before": wanted.before}
    for number, (key, value) in enumerate(wanted.labels.items()):
        columns = {"owner": "owner", "key": f"key{number}", "value": f"value{number}"}
        conditions += [f"label{number}.{column} = :{name}" for column, name in columns.items()]
        values |= {f"key{number}": key, f"value{number}": value}
    ends = [""]
    if not tables or wanted.status or wanted.workflow is not None:
        tables.insert(0, "jobs")
        conditions.append("jobs.owner = :owner")
        ends = [_OF_STATUS[each] for each in ([wanted.status] if wanted.status else JobStatus)]
    if wanted.workflow is not None:
        conditions.append("workflow = :workflow")
        values["workflow"] = wanted.workflow
    # CROSS: the first table leads. Left to itself, SQLite may read every job of the owner.
    joined = tables[0] + "".join(f" CROSS JOIN {table} USING (seq)" for table in tables[1:])
    select = f"SELECT seq FROM {joined} WHERE {' AND '.join(conditions)}"  # noqa: S608 -- only clauses from here
    query = " UNION ALL ".join(select + end for end in ends)
    rows = connection.execute(f"{query} ORDER BY seq DESC LIMIT :limit", values)
    return (seq for (seq,) in rows)


_OF_STATUS: Final = {
    status: f" AND status = '{status}'"
    f" AND status {'NOT IN' if status.is_final else 'IN'} ('queued', 'running')"
    for status in JobStatus
}
"""Conditions; the second is that of the index, word for word, which SQLite does not use without."""


def _read_page(
    rows: Iterable[tuple[int, str, str, str, str]], limit: int
) -> tuple[list[tuple[str, JobRecord]], int | None]:
    found: list[tuple[str, JobRecord]] = []
    size = 0
    last: int | None = None
    for count, (seq, owner, *columns) in enumerate(rows):
        size += sum(map(len, columns))
        if count == limit or (count and size > _PAGE_CHARACTERS):
            return found, last
        last = seq
        try:
            found.append((owner, _record(*columns)))
        except BackendError as error:
            logger.warning("not listed: %s", error)
    return found, None


def needed_files(connection: sqlite3.Connection) -> set[str]:
    """Hashes of the uploaded files that unfinished jobs read."""
    rows = connection.execute(
        "SELECT DISTINCT json_extract(file.value, '$.sha256') FROM jobs JOIN payloads USING (seq),"
        " json_each(CASE WHEN json_valid(payloads.request) THEN payloads.request ELSE '{}' END,"
        " '$.files') file WHERE status IN ('queued', 'running')"
    )
    return {sha256 for (sha256,) in rows if sha256}


def finished_before(connection: sqlite3.Connection, moment: float, limit: int) -> list[str]:
    """Ids of jobs that ended before ``moment`` and may still have outputs."""
    rows = connection.execute(
        "SELECT id FROM jobs WHERE outputs_gone = 0 AND finished_at < ? LIMIT ?", (moment, limit)
    )
    return [row[0] for row in rows]


def mark_outputs_gone(connection: sqlite3.Connection, job_ids: list[str]) -> None:
    """Their outputs are to be deleted; their graphs are no longer needed either."""
    connection.executemany(
        "UPDATE jobs SET outputs_gone = 1 WHERE id = ?", [(job_id,) for job_id in job_ids]
    )
    _drop_requests(connection, job_ids)


_ENDED: Final = (
    "FROM jobs WHERE status NOT IN ('queued', 'running') AND coalesce(finished_at, 0) <= ?1"
    " AND (?2 IS NULL OR owner = ?2)"
)


def count_ended(
    connection: sqlite3.Connection, owner: str | None, moment: float
) -> tuple[int, int]:
    """How many jobs ended before ``moment``, and their bytes; ``owner`` None: of all."""
    return connection.execute(
        f"SELECT count(*), coalesce(sum(kept), 0) {_ENDED}", (moment, owner)
    ).fetchone()


def ended(
    connection: sqlite3.Connection, owner: str | None, moment: float, limit: int
) -> dict[str, int]:
    """Id and bytes of jobs that ended before ``moment``; ``owner`` None: of all."""
    rows = connection.execute(f"SELECT id, kept {_ENDED} LIMIT ?3", (moment, owner, limit))
    return dict(rows.fetchall())


def delete(connection: sqlite3.Connection, job_ids: Iterable[str]) -> None:
    """Delete jobs, and what is stored beside their rows."""
    ids = to_json([*job_ids]).decode()
    for table, column in (("idempotency", "job_id"), ("jobs", "id")):
        connection.execute(
            f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))",  # noqa: S608 -- names from above
            (ids,),
        )


def forget_jobs(connection: sqlite3.Connection, moment: float, limit: int) -> int:
    """Delete up to ``limit`` jobs without outputs that ended before ``moment``; how many."""
    return connection.execute(
        "DELETE FROM jobs WHERE seq IN"
        " (SELECT seq FROM jobs WHERE outputs_gone = 1 AND finished_at < ? LIMIT ?)",
        (moment, limit),
    ).rowcount


def shrink(connection: sqlite3.Connection) -> bool:
    """Give some free pages back to the disk; whether there may be more."""
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    for _ in range(min(free, _VACUUM_PAGES)):  # sqlite3 of Python stops after one page
        connection.execute("PRAGMA incremental_vacuum(1)")
    return free > _VACUUM_PAGES


def forget_keys(connection: sqlite3.Connection) -> None:
    """Drop idempotency keys that are past their time."""
    connection.execute("DELETE FROM idempotency WHERE expires_at <= ?", (time.time(),))
