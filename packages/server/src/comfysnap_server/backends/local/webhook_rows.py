"""The webhooks of jobs in the job store: plain functions on a connection, and for the commands."""

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from comfysnap_schema.wire import JobStatus
from comfysnap_server.backends.local.migrations import (
    BUSY_TIMEOUT_S,
    MIGRATIONS,
    DataFolderError,
    open_reader,
)
from comfysnap_server.jobs import Delivery

_MOST_LISTED: Final = 1000


@dataclass(frozen=True)
class DueWebhook:
    """A webhook that is to be sent now."""

    seq: int
    delivery: Delivery
    record: str
    """JSON of the final job."""


def add(connection: sqlite3.Connection, seq: int, delivery: Delivery) -> None:
    """Keep the webhook of a job that was accepted, until the job ends."""
    connection.execute("INSERT INTO webhooks VALUES (?, ?, ?, ?, ?)", (seq, *_columns(delivery)))


def job_ended(connection: sqlite3.Connection, job_id: str, status: JobStatus | str) -> None:
    """Have the webhook of a job sent, if it has one; in the transaction that ends the job."""
    row = connection.execute(
        "SELECT seq, delivery FROM webhooks JOIN jobs USING (seq)"
        " WHERE jobs.id = ? AND state = 'waiting'",
        (job_id,),
    ).fetchone()
    if row is None:
        return
    delivery = _delivery(row[1])
    if delivery.wants(status):
        save(connection, row[0], delivery.again(time.time()))
    else:
        connection.execute("DELETE FROM webhooks WHERE seq = ?", (row[0],))


def save(connection: sqlite3.Connection, seq: int, delivery: Delivery) -> None:
    """Write what became of a webhook."""
    connection.execute(
        "UPDATE webhooks SET host = ?, state = ?, due_at = ?, delivery = ? WHERE seq = ?",
        (*_columns(delivery), seq),
    )


def _columns(delivery: Delivery) -> tuple[str, str, float, str]:
    return delivery.host, delivery.state, delivery.due_at, delivery.model_dump_json()


def due(
    connection: sqlite3.Connection,
    now: float,
    limit: int,
    *,
    busy: Sequence[str] = (),
    running: Sequence[int] = (),
) -> list[DueWebhook]:
    """Up to ``limit`` webhooks that are due, the longest due first.

    Args:
        busy: Hosts that get no other one now.
        running: ``seq`` of those that are being sent.
    """
    rows = connection.execute(
        "SELECT webhooks.seq, delivery, record FROM webhooks JOIN jobs USING (seq)"  # noqa: S608 -- question marks
        f" WHERE state = 'pending' AND due_at <= ? AND host NOT IN ({_marks(busy)})"
        f" AND webhooks.seq NOT IN ({_marks(running)}) ORDER BY due_at LIMIT ?",
        [now, *busy, *running, limit],
    )
    return [DueWebhook(seq, _delivery(text), job) for seq, text, job in rows]


def _delivery(text: str) -> Delivery:
    """A damaged one keeps nothing else from being sent: it has no URL, and so is given up."""
    try:
        return Delivery.model_validate_json(text)
    except ValueError:
        return Delivery(url="", state="pending")


def next_due(
    connection: sqlite3.Connection, *, busy: Sequence[str], running: Sequence[int]
) -> float | None:
    """When the next webhook is due, of those that ``due`` would give."""
    row = connection.execute(
        f"SELECT due_at FROM webhooks WHERE state = 'pending' AND host NOT IN ({_marks(busy)})"  # noqa: S608 -- question marks
        f" AND seq NOT IN ({_marks(running)}) ORDER BY due_at LIMIT 1",
        [*busy, *running],
    ).fetchone()
    return row and row[0]


def pending(connection: sqlite3.Connection) -> int:
    """How many wait to be sent, or to be sent again."""
    row = connection.execute("SELECT count(*) FROM webhooks WHERE state = 'pending'").fetchone()
    return int(row[0])


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def list_webhooks(path: Path, *, failed: bool = False) -> list[tuple[str, Delivery]]:
    """Job ids and webhooks of jobs that ended, the newest 1000, also while a server runs.

    Args:
        path: The database.
        failed: Only those that are not tried again.

    Raises:
        DataFolderError: It cannot be read.
    """
    states = ("failed",) if failed else ("pending", "delivered", "failed")
    try:
        with closing(open_reader(path)) as connection:
            _check_version(connection, path)
            rows = connection.execute(
                "SELECT id, delivery FROM webhooks JOIN jobs USING (seq)"  # noqa: S608 -- question marks
                f" WHERE state IN ({_marks(states)}) ORDER BY seq DESC LIMIT ?",
                [*states, _MOST_LISTED],
            )
            return [(job_id, _delivery(text)) for job_id, text in rows]
    except sqlite3.Error as error:
        raise DataFolderError(f"{path}: {error}") from error


def resend_webhook(path: Path, job_id: str) -> Delivery:
    """Have the webhook of a job sent anew: by the server that runs, or by the next one.

    Raises:
        DataFolderError: The job has no webhook, or has not ended; the store cannot be written.
    """
    try:
        with closing(
            sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=rw",
                uri=True,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
            )
        ) as connection:
            _check_version(connection, path)
            connection.execute("BEGIN IMMEDIATE")
            row = connection.execute(
                "SELECT seq, delivery FROM webhooks JOIN jobs USING (seq) WHERE jobs.id = ?",
                (job_id,),
            ).fetchone()
            if row is None:
                raise DataFolderError(f"{job_id}: unknown job, or one without a webhook")
            delivery = _delivery(row[1])
            if delivery.state == "waiting":
                raise DataFolderError(f"{job_id}: the job has not ended yet")
            again = delivery.again(time.time())
            save(connection, row[0], again)
            connection.execute("COMMIT")
            return again
    except sqlite3.Error as error:
        raise DataFolderError(f"{path}: {error}") from error


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != len(MIGRATIONS):
        raise DataFolderError(f"{path}: of another version; start a server of this version once")
