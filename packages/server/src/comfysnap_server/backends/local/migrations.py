"""The tables of the local job store, and how older ones become newer ones."""

import logging
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from comfysnap_schema.wire import ErrorCode
from comfysnap_server.errors import BackendError

logger = logging.getLogger(__name__)

MIGRATIONS: Final[Sequence[str]] = (
    """
    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        owner TEXT NOT NULL,
        workflow TEXT NOT NULL,
        status TEXT NOT NULL,
        finished_at REAL,
        request TEXT NOT NULL,
        record TEXT NOT NULL
    );
    CREATE INDEX jobs_of_owner ON jobs (owner, seq);
    CREATE INDEX jobs_active ON jobs (status, owner) WHERE status IN ('queued', 'running');
    CREATE TABLE labels (
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (key, value, seq)
    ) WITHOUT ROWID;
    CREATE TABLE idempotency (
        owner TEXT NOT NULL,
        key TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        job_id TEXT NOT NULL,
        expires_at REAL NOT NULL,
        PRIMARY KEY (owner, key)
    ) WITHOUT ROWID;
    CREATE INDEX idempotency_expiry ON idempotency (expires_at);
    """,
    """
    ALTER TABLE jobs ADD COLUMN outputs_gone INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX jobs_finished ON jobs (finished_at)
        WHERE outputs_gone = 0 AND finished_at IS NOT NULL;
    """,
    """
    CREATE TABLE payloads (
        seq INTEGER PRIMARY KEY,
        request TEXT NOT NULL,
        inputs TEXT NOT NULL
    );
    INSERT INTO payloads SELECT seq, request, CASE WHEN json_valid(record)
        THEN coalesce(json_extract(record, '$.inputs'), '{}') ELSE '{}' END FROM jobs;
    UPDATE jobs SET request = '',
        record = CASE WHEN json_valid(record) THEN json_remove(record, '$.inputs') ELSE record END;
    ALTER TABLE jobs ADD COLUMN kept INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE usage (owner TEXT PRIMARY KEY, kept INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TRIGGER kept_more AFTER INSERT ON jobs BEGIN
        INSERT INTO usage VALUES (NEW.owner, NEW.kept)
            ON CONFLICT (owner) DO UPDATE SET kept = kept + NEW.kept;
    END;
    CREATE TRIGGER kept_other AFTER UPDATE OF kept ON jobs BEGIN
        INSERT INTO usage VALUES (NEW.owner, NEW.kept - OLD.kept)
            ON CONFLICT (owner) DO UPDATE SET kept = kept + NEW.kept - OLD.kept;
    END;
    CREATE TRIGGER kept_less AFTER DELETE ON jobs BEGIN
        UPDATE usage SET kept = kept - OLD.kept WHERE owner = OLD.owner;
        DELETE FROM payloads WHERE seq = OLD.seq;
        DELETE FROM job_labels WHERE seq = OLD.seq;
    END;
    UPDATE jobs SET kept = (SELECT length(payloads.request) + length(inputs)
        FROM payloads WHERE payloads.seq = jobs.seq);
    CREATE TABLE job_labels (
        owner TEXT NOT NULL,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (owner, key, value, seq)
    ) WITHOUT ROWID;
    INSERT INTO job_labels SELECT owner, key, value, seq FROM labels JOIN jobs USING (seq);
    DROP TABLE labels;
    CREATE INDEX labels_of_job ON job_labels (seq);
    DROP INDEX jobs_active;
    CREATE INDEX jobs_active ON jobs (status, owner, kept)
        WHERE status IN ('queued', 'running');
    CREATE INDEX jobs_of_status ON jobs (owner, status, seq);
    CREATE INDEX jobs_of_workflow ON jobs (owner, workflow, seq);
    CREATE INDEX jobs_of_both ON jobs (owner, workflow, status, seq);
    CREATE INDEX jobs_ended ON jobs (finished_at) WHERE outputs_gone = 1;
    """,
    """
    CREATE TABLE webhooks (
        seq INTEGER PRIMARY KEY,
        host TEXT NOT NULL,
        state TEXT NOT NULL,
        due_at REAL NOT NULL,
        delivery TEXT NOT NULL
    );
    CREATE INDEX webhooks_due ON webhooks (due_at) WHERE state = 'pending';
    CREATE TRIGGER webhook_of_job AFTER DELETE ON jobs BEGIN
        DELETE FROM webhooks WHERE seq = OLD.seq;
    END;
    """,
    """
    DROP TRIGGER kept_more;
    DROP TRIGGER kept_other;
    DROP TRIGGER kept_less;
    DROP TABLE usage;
    CREATE TABLE usage (
        owner TEXT PRIMARY KEY, -- '' has the sums of all owners
        kept INTEGER NOT NULL,
        unfinished INTEGER NOT NULL,
        queued INTEGER NOT NULL,
        held INTEGER NOT NULL -- of kept, that of unfinished jobs
    ) WITHOUT ROWID;
    INSERT INTO usage SELECT owner, sum(kept), sum(status IN ('queued', 'running')),
        sum(status = 'queued'), sum(kept * (status IN ('queued', 'running')))
        FROM jobs GROUP BY owner;
    INSERT INTO usage SELECT '', coalesce(sum(kept), 0), coalesce(sum(unfinished), 0),
        coalesce(sum(queued), 0), coalesce(sum(held), 0) FROM usage;
    CREATE TRIGGER job_added AFTER INSERT ON jobs BEGIN
        INSERT INTO usage SELECT column1, NEW.kept, NEW.status IN ('queued', 'running'),
            NEW.status = 'queued', NEW.kept * (NEW.status IN ('queued', 'running'))
            FROM (VALUES (''), (NEW.owner)) WHERE true
            ON CONFLICT (owner) DO UPDATE SET kept = kept + excluded.kept,
                unfinished = unfinished + excluded.unfinished,
                queued = queued + excluded.queued, held = held + excluded.held;
    END;
    CREATE TRIGGER job_changed AFTER UPDATE OF kept, status ON jobs BEGIN
        UPDATE usage SET kept = kept + NEW.kept - OLD.kept,
            unfinished = unfinished + (NEW.status IN ('queued', 'running'))
                - (OLD.status IN ('queued', 'running')),
            queued = queued + (NEW.status = 'queued') - (OLD.status = 'queued'),
            held = held + NEW.kept * (NEW.status IN ('queued', 'running'))
                - OLD.kept * (OLD.status IN ('queued', 'running'))
            WHERE owner IN ('', NEW.owner);
    END;
    CREATE TRIGGER job_deleted AFTER DELETE ON jobs BEGIN
        UPDATE usage SET kept = kept - OLD.kept,
            unfinished = unfinished - (OLD.status IN ('queued', 'running')),
            queued = queued - (OLD.status = 'queued'),
            held = held - OLD.kept * (OLD.status IN ('queued', 'running'))
            WHERE owner IN ('', OLD.owner);
        DELETE FROM payloads WHERE seq = OLD.seq;
        DELETE FROM job_labels WHERE seq = OLD.seq;
    END;
    DROP INDEX jobs_active;
    CREATE INDEX jobs_active ON jobs (status) WHERE status IN ('queued', 'running');
    """,
    """
    DROP INDEX jobs_active;
    DROP INDEX jobs_of_owner;
    DROP INDEX jobs_of_status;
    DROP INDEX jobs_of_workflow;
    DROP INDEX jobs_of_both;
    CREATE INDEX jobs_unfinished ON jobs (owner, status, seq)
        WHERE status IN ('queued', 'running');
    CREATE INDEX jobs_of_status ON jobs (owner, status, seq)
        WHERE status NOT IN ('queued', 'running');
    CREATE INDEX jobs_of_workflow ON jobs (owner, workflow, status, seq)
        WHERE status NOT IN ('queued', 'running');
    """,
)
"""Each takes the tables from one ``user_version`` to the next; never change one that was
released, add another."""

BUSY_TIMEOUT_S: Final = 5.0
_CHECK_S: Final = 5.0
"""A check of a large database stops here; what it did not read is met row by row."""
_DAMAGED: Final = (
    "the job store is damaged (%s); put a copy made by `comfysnap backup` in its place and delete"
    " the files -wal and -shm beside it, or move it away to start without jobs"
)
_INCREMENTAL: Final = 2
_MAX_LOG_BYTES: Final = 64 * 1024 * 1024


class DataFolderError(BackendError):
    """The data folder cannot be used; the message says why."""

    def __init__(self, detail: str) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, detail)


def open_database(path: Path) -> sqlite3.Connection:
    """Open for writing, in WAL mode, migrated to the newest version.

    Raises:
        DataFolderError: Not writable, no database, or made by a newer version.
    """
    try:
        connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise DataFolderError(f"{path}: {error}") from error
    try:
        connection.text_factory = _text
        connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")  # of a new database
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {_MAX_LOG_BYTES}")
        _check(connection)
        migrate(connection)
        _let_shrink(connection)
    except sqlite3.DatabaseError as error:
        connection.close()
        is_damaged = error.sqlite_errorcode & 0xFF in (
            sqlite3.SQLITE_CORRUPT,
            sqlite3.SQLITE_NOTADB,
        )
        raise DataFolderError(f"{path}: {_DAMAGED % error if is_damaged else error}") from error
    except (sqlite3.Error, DataFolderError) as error:
        connection.close()
        raise DataFolderError(f"{path}: {error}") from error
    return connection


def _text(data: bytes) -> str:
    """Damaged text is found when it is parsed, in one row, rather than by all of a query."""
    return data.decode(errors="replace")


def _check(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + _CHECK_S
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    try:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if "interrupted" not in str(error):
            raise
        return
    finally:
        connection.set_progress_handler(None, 0)
    if found != "ok":
        why = found.strip().splitlines()[-1]
        raise DataFolderError(_DAMAGED % why)


def _let_shrink(connection: sqlite3.Connection) -> None:
    """A database of an older version is written anew once, so that it can shrink."""
    (mode,) = connection.execute("PRAGMA auto_vacuum").fetchone()
    if mode == _INCREMENTAL:
        return
    try:
        connection.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
        connection.execute("VACUUM")
    except sqlite3.OperationalError:
        logger.warning("the job store cannot be written anew; it will not shrink", exc_info=True)


def open_reader(path: Path) -> sqlite3.Connection:
    """Open for reading only."""
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.text_factory = _text
    return connection


def back_up(source: Path, target: Path) -> None:
    """Copy a database, also while a server uses it; the copy appears whole or not at all.

    Raises:
        DataFolderError: There is no database, it is damaged, or the copy cannot be written.
    """
    if not source.is_file():
        raise DataFolderError(f"{source}: not found")
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        with closing(open_reader(source)) as reader, closing(sqlite3.connect(part)) as copy:
            reader.backup(copy)
            _check(copy)
        part.replace(target)
    except (sqlite3.Error, OSError) as error:
        raise DataFolderError(f"{source}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables to the newest version, each step whole or not at all.

    Raises:
        DataFolderError: The tables are newer than this code.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise DataFolderError(
            f"made by a newer comfysnap (version {version}, this one knows {len(MIGRATIONS)})"
        )
    for number in range(version, len(MIGRATIONS)):
        connection.executescript(
            f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
        )
