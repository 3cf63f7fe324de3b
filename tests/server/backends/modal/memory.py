"""The platform in memory, for tests of what no container is needed for."""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from comfysnap_schema.wire.files import Kind
from comfysnap_schema.workflow.map import OutputSpec
from comfysnap_server.backends.modal.platform import CallEnd, CallState, Platform
from comfysnap_server.backends.modal.records import Claim, End, claim_key, job_key
from comfysnap_server.backends.modal.shared_files import output_folder
from comfysnap_server.jobs.request import JobRequest

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class MemoryRecords:
    entries: dict[str, str] = field(default_factory=dict[str, str])

    asked: int = 0

    async def get(self, key: str) -> str | None:
        self.asked += 1
        return self.entries.get(key)

    async def add(self, key: str, value: str) -> bool:
        self.asked += 1
        return self.entries.setdefault(key, value) is value

    async def put(self, key: str, value: str) -> None:
        self.asked += 1
        self.entries[key] = value

    async def update(self, values: Mapping[str, str]) -> None:
        self.asked += 1
        self.entries.update(values)

    async def pop(self, key: str) -> None:
        self.asked += 1
        self.entries.pop(key, None)

    async def items(self) -> AsyncIterator[tuple[str, str]]:
        self.asked += 1
        for item in list(self.entries.items()):
            yield item


@dataclass
class MemoryFeed:
    entries: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    news: asyncio.Event = field(default_factory=asyncio.Event)
    reads: int = 0
    """How often it was read to its end."""

    async def append(self, job_id: str, entry: str, *, keep: int = 60) -> None:
        self.entries.append((job_id, entry))
        self.news.set()

    async def read(self, job_id: str, *, wait: float) -> AsyncIterator[str]:
        for key, entry in list(self.entries):
            if key == job_id:
                yield entry
        self.reads += 1
        await asyncio.sleep(min(wait, 0.01))


@dataclass
class MemoryCalls:
    """Calls that never run; ``states`` says what is told of each."""

    spawned: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])
    pools: list[str] = field(default_factory=list[str])
    states: dict[str, CallState] = field(default_factory=dict[str, CallState])
    reason: str = ""
    cancelled: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    killed: asyncio.Event = field(default_factory=asyncio.Event)
    failing: bool = False

    async def spawn(self, job_id: str, request: str | None, pool: str) -> str:
        if self.failing:
            raise ConnectionError("Modal is away")
        self.spawned.append((job_id, request))
        self.pools.append(pool)
        return f"fc-{len(self.spawned)}"

    async def end(self, call_id: str, *, wait: float) -> CallEnd | None:
        await asyncio.sleep(min(wait, 0.01))
        state = self.states.get(call_id)
        return state and CallEnd(call_id, state, self.reason)

    async def cancel(self, call_id: str, *, terminate: bool) -> None:
        self.cancelled.append((call_id, terminate))
        if terminate:
            self.killed.set()


@dataclass
class MemoryFolder:
    root: Path
    commits: int = 0

    async def commit(self) -> None:
        self.commits += 1

    async def reload(self) -> None:
        return


@dataclass
class Cloud:
    """The parts, and a clock that stands still."""

    root: Path
    records: MemoryRecords = field(default_factory=MemoryRecords)
    index: MemoryRecords = field(default_factory=MemoryRecords)
    listings: defaultdict[str, MemoryRecords] = field(
        default_factory=lambda: defaultdict(MemoryRecords)
    )
    feed: MemoryFeed = field(default_factory=MemoryFeed)
    calls: MemoryCalls = field(default_factory=MemoryCalls)
    now: datetime = START

    def __post_init__(self) -> None:
        self.files = MemoryFolder(self.root)
        self.platform = Platform(
            records=self.records,
            index=self.index,
            listings=self.listings.__getitem__,
            feed=self.feed,
            calls=self.calls,
            files=self.files,
            now=lambda: self.now,
        )

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def request(number: int = 1, **changes: object) -> JobRequest:
    """A job that draws nothing."""
    base: dict[str, object] = {
        "job_id": f"job_{number:026d}",
        "owner": "someone",
        "workflow": "hello",
        "inputs": {},
        "graph": {"3": {"class_type": "SaveImage", "inputs": {}}},
        "graph_hash": "0" * 16,
        "outputs": {"images": OutputSpec(node="3", kind=Kind.IMAGE)},
        "timeout": 60.0,
        "created_at": START,
    }
    return JobRequest.model_validate(base | changes)


def end(cloud: Cloud, job_id: str, **changes: object) -> None:
    """What a worker writes of a job that ends."""
    claim = Claim(
        call_id="fc-1", at=START, start_kind="warm",
        start_seconds=0, load_seconds=0, attach_seconds=0,
    )  # fmt: skip
    final = End.model_validate({"status": "succeeded", "at": START, "attempt": 1, **changes})
    cloud.records.entries[claim_key(job_id, 1)] = claim.model_dump_json()
    cloud.records.entries[job_key(job_id, "final")] = final.model_dump_json()


def put_output(cloud: Cloud, job_id: str, content: bytes = b"1234") -> dict[str, object]:
    """A picture on the volume, as it is in the outputs of its job."""
    folder = cloud.root / output_folder(job_id)
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(content)
    return {
        "name": "a.png", "kind": "image", "content_type": "image/png", "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(), "url": f"/outputs/{job_id}/a.png",
    }  # fmt: skip
