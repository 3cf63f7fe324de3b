"""What becomes of the jobs of an earlier life of the server."""

import logging
import sqlite3
from datetime import UTC, datetime
from typing import Final

from comfysnap_schema.wire import JobRecord, JobStatus, Progress, Timings
from comfysnap_server.backends.local import store
from comfysnap_server.backends.local.live import LiveJob
from comfysnap_server.jobs import Ending, ended, log_end

logger = logging.getLogger(__name__)

VERSION_JUMP: Final = 1_000_000
"""Versions of progress, and of places in the queue, are not written; after a restart a job must
be newer than all of them."""


def recover(connection: sqlite3.Connection) -> list[LiveJob]:
    """Settle the jobs that ran when the server died, and give those that wait, in order. One whose
    row is damaged is set aside."""
    waiting: list[LiveJob] = []
    damaged: list[str] = []
    for seq, job_id in store.active(connection):
        try:
            record, request = store.load(connection, seq)
        except (ValueError, TypeError):
            _set_aside(connection, seq)
            damaged.append(job_id)
            continue
        now = settled(record, request.max_attempts)
        if now != record:
            store.save(connection, now)
        if now.is_final:
            log_end(job_id, request.owner, now.workflow, now)
        else:
            waiting.append(LiveJob.of(seq, request, now))
    if damaged:
        logger.error(
            "%d jobs are damaged and do not run: %s", len(damaged), ", ".join(damaged[:20])
        )
    return waiting


def _set_aside(connection: sqlite3.Connection, seq: int) -> None:
    """End a job that cannot run: in its record too, where that can be read."""
    try:
        record = store.load_record(connection, seq)
    except (ValueError, TypeError):
        store.set_aside(connection, seq)
    else:
        store.save(connection, _ended(record, record.version + VERSION_JUMP, Ending.INTERNAL))


def settled(record: JobRecord, max_attempts: int) -> JobRecord:
    """The state of a job after the server came back: its worker died with the server."""
    version = record.version + VERSION_JUMP
    if record.cancel_requested_at is not None:
        return _ended(record, version, Ending.CANCELLED)
    if record.status is not JobStatus.RUNNING:
        return record.model_copy(update={"version": version})
    if record.attempt < max_attempts:
        return record.model_copy(
            update={
                "status": JobStatus.QUEUED,
                "version": version,
                "started_at": None,
                "progress": Progress(),
                "outputs": None,
                "timings": Timings(),
            }
        )
    return _ended(record, version, Ending.SERVER_STOPPED)


def _ended(record: JobRecord, version: int, ending: Ending) -> JobRecord:
    end = ended(ending).end(record.timings, record.progress, outputs=record.outputs)
    return record.model_copy(
        update={**dict(end), "version": version, "finished_at": datetime.now(UTC)}
    )
