"""The gateway's side of the files volume."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_server.backends.modal import shared_files
from comfysnap_server.backends.modal.shared_files import (
    GatewayFiles,
    GroupCall,
    ReloadGate,
    accepted_at,
    output_folder,
)
from comfysnap_server.errors import BackendError
from comfysnap_server.gateway.submit import new_job_id
from tests.server.backends.modal.memory import MemoryFolder

pytestmark = pytest.mark.modal


class LateFolder(MemoryFolder):
    """Shows a file only after a reload, as a commit of another container does."""

    late: dict[str, bytes]

    async def reload(self) -> None:
        for name, content in self.late.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@pytest.fixture
def folder(tmp_path: Path) -> LateFolder:
    folder = LateFolder(tmp_path / "volume")
    folder.late = {}
    return folder


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_a_reload_waits_for_users_and_later_users_wait_for_it() -> None:
    gate = ReloadGate()
    order: list[str] = []
    inside, leave = asyncio.Event(), asyncio.Event()

    async def use(name: str) -> None:
        async with gate.use():
            order.append(f"{name} in")
            inside.set()
            await leave.wait()
            order.append(f"{name} out")

    async def reload() -> None:
        async with gate.alone():
            order.append("reload")

    first = asyncio.create_task(use("first"))
    await inside.wait()
    reloading = asyncio.create_task(reload())
    await asyncio.sleep(0)
    second = asyncio.create_task(use("second"))
    await asyncio.sleep(0)
    assert order == ["first in"]
    leave.set()
    await asyncio.gather(first, reloading, second)
    assert order == ["first in", "first out", "reload", "second in", "second out"]


async def test_an_upload_is_committed_and_leaves_nothing_on_the_containers_disk(
    folder: LateFolder, tmp_path: Path
) -> None:
    files = GatewayFiles(folder, tmp_path / "local")
    digest = hashlib.sha256(b"data").hexdigest()
    await files.put("anna", digest, once(b"data"))
    assert folder.commits == 1
    assert await files.has("anna", digest)
    assert [path for path in (tmp_path / "local").rglob("*") if path.is_file()] == []


async def test_an_upload_with_another_hash_never_reaches_the_volume(
    folder: LateFolder, tmp_path: Path
) -> None:
    files = GatewayFiles(folder, tmp_path / "local")
    with pytest.raises(BackendError) as caught:
        await files.put("anna", "0" * 64, once(b"data"))
    assert caught.value.code is ErrorCode.HASH_MISMATCH
    assert folder.commits == 0
    assert not folder.root.exists()


async def test_an_output_that_another_container_committed_is_found(
    folder: LateFolder, tmp_path: Path
) -> None:
    files = GatewayFiles(folder, tmp_path / "local")
    assert await files.output("job", "a.png") is None
    folder.late["outputs/job/a.png"] = b"picture"
    paths = await asyncio.gather(*(files.output("job", "a.png") for _ in range(5)))
    assert {path.read_bytes() for path in paths if path} == {b"picture"}
    assert folder.root not in (paths[0] or folder.root).parents


async def test_the_least_recently_used_outputs_make_room(
    folder: LateFolder, tmp_path: Path
) -> None:
    files = GatewayFiles(folder, tmp_path / "local", cache_bytes=250)
    folder.late = {f"outputs/job/{name}": name.encode() * 100 for name in "abc"}
    first, second = await files.output("job", "a"), await files.output("job", "b")
    assert first is not None
    assert second is not None
    os.utime(second, (1, 1))
    third = await files.output("job", "c")
    assert third is not None
    assert [path.exists() for path in (first, second, third)] == [True, False, True]
    assert await files.output("job", "b") is not None


def job_at(moment: float) -> str:
    """A job's id of that time."""
    number, digits = int(moment * 1000), "0123456789abcdefghjkmnpqrstvwxyz"
    time = "".join(digits[number >> shift & 31] for shift in range(45, -1, -5))
    return f"job_{time}{'0' * 16}"


def test_a_jobs_id_says_when_it_was_accepted() -> None:
    now = time.time()
    assert accepted_at(new_job_id()) == pytest.approx(now, abs=5)
    assert accepted_at(job_at(now)) == pytest.approx(now, abs=0.001)
    assert accepted_at("job_not an id") is None
    shard = output_folder(job_at(now)).split("/")[1]
    assert now - 10 * 3600 < (accepted_at(shard) or 0) <= now


async def test_the_sweep_deletes_outputs_by_the_time_in_the_jobs_id(
    folder: LateFolder, tmp_path: Path
) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    old, late, new = (job_at(now.timestamp() - age) for age in (7200, 5400, 60))
    files = GatewayFiles(folder, tmp_path / "local")
    folder.late = {
        f"{output_folder(old)}/a": b"a",
        f"outputs/{old}/a": b"a",  # as earlier versions put it
        f"{output_folder(late)}/a": b"a",
        f"{output_folder(new)}/a": b"a",
        "outputs/notes/a": b"not ours",
    }
    await folder.reload()
    for path in folder.root.rglob("*"):
        os.utime(path, (1, 1))  # means nothing
    folder.late = {}
    asked: list[str] = []

    async def is_due(job_id: str) -> bool:
        asked.append(job_id)
        return job_id == old

    assert await files.sweep(older_than=3600, is_due=is_due, now=now) == 2
    assert sorted(asked) == sorted([old, old, late])
    left = {str(path.relative_to(folder.root)) for path in folder.root.rglob("*/a")}
    assert left == {f"{output_folder(late)}/a", f"{output_folder(new)}/a", "outputs/notes/a"}
    assert folder.commits == 1


async def test_an_output_of_an_earlier_version_is_found(folder: LateFolder, tmp_path: Path) -> None:
    files = GatewayFiles(folder, tmp_path / "local")
    folder.late = {f"outputs/{job_at(0)}/a.png": b"picture"}
    path = await files.output(job_at(0), "a.png")
    assert path is not None
    assert path.read_bytes() == b"picture"


class SlowFolder(MemoryFolder):
    """Its first reload and commit take until ``go``."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reloads = 0
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def commit(self) -> None:
        self.commits += 1
        await self._pass()

    async def reload(self) -> None:
        self.reloads += 1
        await self._pass()

    async def _pass(self) -> None:
        self.begun.set()
        await self.go.wait()
        if self.error:
            raise self.error


class Waiting:
    """Counts those who asked for the volume; from then on they wait for their turn."""

    def __init__(self) -> None:
        self._asked = asyncio.Semaphore(0)

    def add(self) -> None:
        self._asked.release()

    async def until(self, count: int) -> None:
        for _ in range(count):
            await self._asked.acquire()


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    """Those who want to open files of the volume."""
    waiting = Waiting()

    class Gate(ReloadGate):
        @asynccontextmanager
        async def use(self) -> AsyncGenerator[None]:
            waiting.add()
            async with super().use():
                yield

    monkeypatch.setattr(shared_files, "ReloadGate", Gate)
    return waiting


@pytest.fixture
def callers(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    """Those who want a reload or a commit."""
    waiting = Waiting()

    class Call(GroupCall):
        async def __call__(self) -> None:
            waiting.add()
            await super().__call__()

    monkeypatch.setattr(shared_files, "GroupCall", Call)
    return waiting


async def test_one_reload_answers_all_who_waited_for_it(tmp_path: Path, callers: Waiting) -> None:
    folder = SlowFolder(tmp_path / "volume")
    files = GatewayFiles(folder, tmp_path / "local")
    first = asyncio.create_task(files.has("anna", "0" * 64))
    await folder.begun.wait()
    others = [asyncio.create_task(files.has("anna", f"{n:064}")) for n in range(20)]
    await callers.until(1 + len(others))
    folder.go.set()
    assert not any(await asyncio.gather(first, *others))
    assert folder.reloads == 2


async def test_uploads_that_arrive_together_share_a_commit(tmp_path: Path, users: Waiting) -> None:
    folder = SlowFolder(tmp_path / "volume")
    files = GatewayFiles(folder, tmp_path / "local")

    async def put(data: bytes) -> None:
        await files.put("anna", hashlib.sha256(data).hexdigest(), once(data))

    first = asyncio.create_task(put(b"first"))
    await folder.begun.wait()
    others = [asyncio.create_task(put(b"%d" % number)) for number in range(20)]
    await users.until(1 + len(others))
    folder.go.set()
    await asyncio.gather(first, *others)
    assert folder.commits == 2


async def test_a_shared_call_that_fails_fails_for_all_and_the_next_is_another(
    tmp_path: Path,
) -> None:
    folder = SlowFolder(tmp_path)
    folder.error = ConnectionError("Modal is away")
    reload = GroupCall(ReloadGate(), folder.reload)
    folder.go.set()
    failed = await asyncio.gather(reload(), reload(), return_exceptions=True)
    assert [type(error) for error in failed] == [ConnectionError] * 2
    folder.error = None
    await reload()
    assert folder.reloads == 2


async def test_a_file_may_be_stored_while_its_last_upload_is_still_committed(
    tmp_path: Path, users: Waiting
) -> None:
    content = b"one picture for two jobs"
    digest = hashlib.sha256(content).hexdigest()
    committing, arrived = asyncio.Event(), asyncio.Event()

    class SlowFolder(MemoryFolder):
        async def commit(self) -> None:
            committing.set()
            await arrived.wait()

    files = GatewayFiles(SlowFolder(tmp_path / "volume"), tmp_path / "local")
    first = asyncio.create_task(files.put("someone", digest, once(content)))
    await committing.wait()
    second = asyncio.create_task(files.put("someone", digest, once(content)))
    await users.until(2)
    arrived.set()
    await asyncio.gather(first, second)
    assert await files.has("someone", digest)
    assert not [path for path in (tmp_path / "local").rglob("*") if path.is_file()]
