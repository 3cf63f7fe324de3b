"""The tables of the local job store, and how older ones become newer ones."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from comfysnap_schema.wire import ErrorCode
from comfysnap_server.errors import BackendError

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
)
"""Each takes the tables from one ``user_version`` to the next; never change one that was
released, add another."""

BUSY_TIMEOUT_S: Final = 5.0


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
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        migrate(connection)
    except (sqlite3.Error, DataFolderError) as error:
        connection.close()
        raise DataFolderError(f"{path}: {error}") from error
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open for reading only."""
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )


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
