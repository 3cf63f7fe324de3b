"""A job that is not final yet, in memory, with those who wait for it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from pydantic import JsonValue
from pydantic_core import to_json

from comfysnap_schema.wire import JobEvent, JobRecord, Preview, Progress
from comfysnap_server.backends.protocol import EventLog
from comfysnap_server.jobs import Ending, JobRequest, RemoteModel

_SMALL_BYTES: Final = 4096


class Stop(Enum):
    """Why a running job is to stop."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"

    @property
    def ending(self) -> Ending:
        """How the job ends then; a shutdown ends only what was to be cancelled."""
        return Ending.TIMED_OUT if self is Stop.TIMEOUT else Ending.CANCELLED


@dataclass(eq=False)
class LiveJob:
    """The in-memory half of a job. ``record`` is what callers see, durable except for its progress;
    ``draft`` is the newest decision, on its way to the disk. Neither has inputs that are large."""

    seq: int
    owner: str
    timeout: float
    max_attempts: int
    queue_timeout: float | None
    has_files: bool
    has_webhook: bool
    record: JobRecord
    draft: JobRecord
    has_inputs: bool
    """Whether they have the inputs, which never change; else only the store has them."""
    models: Mapping[str, RemoteModel] = field(default_factory=dict[str, RemoteModel])
    """Those that are to be downloaded, by placeholder."""
    hashes: dict[str, str] | None = None
    """Placeholder to SHA-256, once they are; the job is queued then."""
    taken: bool = False
    """No longer queued: a worker has it, or its end is decided."""
    stop: Stop | None = None
    on_stop: Callable[[], object] | None = None
    """What stops it now; called once."""
    claimed: str | None = None
    """The request (JSON) of a job that was stored as running, until the runner takes it."""
    expiry: asyncio.TimerHandle | None = None
    preview: Preview | None = None
    previews: int = 0
    _waiters: set[asyncio.Future[None]] = field(default_factory=set[asyncio.Future[None]])

    @classmethod
    def of(cls, seq: int, request: JobRequest, record: JobRecord) -> "LiveJob":
        """From what the store has."""
        small = len(to_json(request.inputs)) <= _SMALL_BYTES
        if not small:
            record = record.model_copy(update={"inputs": {}})
        return cls(
            seq=seq,
            owner=request.owner,
            timeout=request.timeout,
            max_attempts=request.max_attempts,
            queue_timeout=request.queue_timeout,
            has_files=bool(request.files),
            models=request.models,
            has_webhook=request.webhook is not None,
            record=record,
            draft=record,
            has_inputs=small,
        )

    @property
    def watched(self) -> bool:
        """Whether any request waits for a change."""
        return bool(self._waiters)

    def propose(self, **changes: Any) -> JobRecord:
        """Decide on a new state, with the next version; to be written, then published."""
        self.draft = self.draft.model_copy(update={**changes, "version": self.draft.version + 1})
        return self.draft

    def publish(self, record: JobRecord) -> None:
        """Publish a durable state; progress and outputs that overtook it stay."""
        if record.version < self.record.version:
            version = self.draft.version + 1
            self.draft = self.draft.model_copy(update={"version": version})
            record = record.model_copy(
                update={
                    "version": version,
                    "progress": self.record.progress,
                    "outputs": self.record.outputs,
                }
            )
        self.record = record
        self._wake()

    def advance(self, progress: Progress) -> None:
        """Publish progress, which is kept in memory only and never falls."""
        if progress.fraction < self.record.progress.fraction:
            progress = progress.model_copy(update={"fraction": self.record.progress.fraction})
        self.draft = self.draft.model_copy(
            update={"progress": progress, "version": self.draft.version + 1}
        )
        self.record = self.record.model_copy(
            update={"progress": progress, "version": self.draft.version}
        )
        self._wake()

    def add_output(self, name: str, value: JsonValue) -> None:
        """Publish an output that is complete; kept in memory only, as progress is."""
        outputs = {**(self.draft.outputs or {}), name: value}
        version = self.draft.version + 1
        self.draft = self.draft.model_copy(update={"outputs": outputs, "version": version})
        self.record = self.record.model_copy(update={"outputs": outputs, "version": version})
        self._wake()

    def show(self, preview: Preview) -> None:
        """Publish a preview."""
        self.preview = preview
        self.previews += 1
        self._wake()

    def touch(self) -> None:
        """Publish a new place in the queue."""
        self.advance(self.record.progress)

    def request_stop(self, reason: Stop) -> None:
        """Have the runner stop the job; the first reason counts."""
        if self.stop is None:
            self.stop = reason
        act, self.on_stop = self.on_stop, None
        if act is not None:
            act()

    async def changed(self) -> None:
        """Wait for the next publication."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


async def wait_for(live: LiveJob, *, after: int | None, timeout: float) -> None:
    """Return once the job is final, or newer than ``after``, or after ``timeout`` seconds."""
    try:
        async with asyncio.timeout(timeout):
            while not live.record.is_final and (after is None or live.record.version <= after):
                await live.changed()
    except TimeoutError:
        return


class EventFollower:
    """Turns publications of a job into events; states in quick succession become one event."""

    def __init__(self, live: LiveJob, after: int | None) -> None:
        self._live = live
        self._seen = -1 if after is None else after
        self._previews = live.previews
        self.log = EventLog()
        """Of what was sent, for the final state."""

    async def events(self) -> AsyncIterator[JobEvent]:
        """Every state newer than what was seen; ends before the final one."""
        while not self._live.record.is_final:
            for event in self._news():
                yield event
            if not self._news_waits():
                await self._live.changed()

    def _news_waits(self) -> bool:
        live = self._live
        return live.record.version > self._seen or live.previews > self._previews

    def _news(self) -> list[JobEvent]:
        live, record = self._live, self._live.record
        events: list[JobEvent] = []
        if record.version > self._seen:
            self._seen = record.version
            events += self.log.of(record)
        if live.previews > self._previews:
            self._previews = live.previews
            events.append(JobEvent(type="preview", preview=live.preview))
        return events
