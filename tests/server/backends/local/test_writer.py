"""Operations that share a commit."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comfysnap_server.backends.local.writer import Writer


class Counting(sqlite3.Connection):
    """Counts its commits."""

    commits = 0

    def execute(self, sql: str, *parameters: object) -> sqlite3.Cursor:
        self.commits += sql == "COMMIT"
        return super().execute(sql, *parameters)  # type: ignore[arg-type]


@pytest.fixture
def connection(tmp_path: Path) -> Counting:
    made = sqlite3.connect(
        tmp_path / "store", isolation_level=None, check_same_thread=False, factory=Counting
    )
    made.execute("CREATE TABLE numbers (number INTEGER UNIQUE)")
    return made


@pytest.fixture
async def writer(connection: Counting) -> AsyncIterator[Writer]:
    writer = Writer(connection)
    yield writer
    await asyncio.to_thread(writer.close)


def add(number: int, connection: sqlite3.Connection) -> int:
    connection.execute("INSERT INTO numbers VALUES (?)", (number,))
    return number


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [number for (number,) in connection.execute("SELECT number FROM numbers")]


async def test_operations_of_one_turn_of_the_loop_share_a_commit(
    writer: Writer, connection: Counting
) -> None:
    added = [writer.run(lambda c, n=n: add(n, c)) for n in range(10)]
    assert await asyncio.gather(*added) == list(range(10))
    assert connection.commits == 1


async def test_what_a_failed_operation_wrote_is_undone_and_the_others_are_kept(
    writer: Writer,
) -> None:
    def fail_late(connection: sqlite3.Connection) -> None:
        add(100, connection)
        raise ValueError("too late")

    def fail_at_once(_: sqlite3.Connection) -> None:
        raise LookupError("at once")

    told: list[object] = []
    results = await asyncio.gather(
        writer.run(lambda c: add(1, c), then=told.append),
        writer.run(fail_late, then=told.append),
        writer.run(fail_at_once),
        writer.run(lambda c: add(1, c)),
        writer.run(lambda c: add(2, c), then=told.append),
        return_exceptions=True,
    )
    assert [results[0], results[4]] == [1, 2]
    failed = [type(result) for result in results[1:4]]
    assert failed == [ValueError, LookupError, sqlite3.IntegrityError]
    assert told == [1, None, 2]
    assert await writer.run(numbers) == [1, 2]


async def test_what_was_queued_is_written_before_the_end(tmp_path: Path) -> None:
    connection = sqlite3.connect(
        tmp_path / "kept", isolation_level=None, check_same_thread=False, factory=Counting
    )
    connection.execute("CREATE TABLE numbers (number INTEGER)")
    writer = Writer(connection)
    added = [writer.run(lambda c, n=n: add(n, c)) for n in range(3)]
    await asyncio.to_thread(writer.close)
    assert await asyncio.gather(*added) == [0, 1, 2]
