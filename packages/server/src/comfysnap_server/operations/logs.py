"""Lines of Modal's logs that belong to one job."""

# modal's stubs leave some types of its objects unknown
# pyright: reportUnknownMemberType=false

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import modal
from modal.types import LogEntry

from comfysnap_server.backends.modal import KnownJob

_AFTER: Final = timedelta(seconds=30)
"""How much later than the job's end a line of it may come."""
_START: Final = timedelta(minutes=15)
"""How long before the job its container may have begun to start."""


@dataclass(frozen=True, order=True)
class LogLine:
    """A line of a container."""

    at: datetime
    container: str
    """Modal's id of the container; empty if it is not known."""
    text: str

    def as_json(self) -> dict[str, Any]:
        """One element of ``comfysnap logs --json``."""
        return asdict(self) | {"at": self.at.isoformat()}


def read_logs(app: modal.App, job: KnownJob, *, whole_container: bool = False) -> list[LogLine]:
    """Lines of the job's calls, and any other line with its id, in the order of their times.

    Args:
        app: The deployed app.
        job: The job.
        whole_container: Also what the containers that ran the job wrote before it and beside it,
            such as their start.
    """
    record = job.record
    since = record.created_at - timedelta(seconds=1)
    until = min(datetime.now(UTC), (record.finished_at or datetime.now(UTC)) + _AFTER)
    found: list[LogEntry] = []
    for call_id in job.call_ids:
        call = modal.FunctionCall[Any].from_id(call_id)
        found += call.logs.fetch(since=since, until=until)
    by_call = set(_lines(found))
    lines = by_call | set(_lines(app.logs.fetch(since=since, until=until, search_text=record.id)))
    ran = {line.container for line in by_call or lines if line.container}
    if ran and whole_container:
        more = app.logs.fetch(since=since - _START, until=until)
        lines |= {line for line in _lines(more) if line.container in ran}
    return sorted(lines)


def _lines(entries: Iterable[LogEntry]) -> Iterable[LogLine]:
    for entry in entries:
        container = next((name for name in entry.context_ids if name.startswith("ta-")), "")
        for text in entry.message.splitlines():
            yield LogLine(entry.timestamp, container, text)
