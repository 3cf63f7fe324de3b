"""The gateway's side of the files volume."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_server.backends.modal.shared_files import GatewayFiles, ReloadGate
from comfysnap_server.errors import BackendError
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


async def test_the_sweep_deletes_what_is_old_and_commits(
    folder: LateFolder, tmp_path: Path
) -> None:
    files = GatewayFiles(folder, tmp_path / "local")
    folder.late = {"outputs/old/a": b"a", "outputs/new/a": b"a"}
    await folder.reload()
    folder.late = {}
    os.utime(folder.root / "outputs" / "old", (1, 1))
    assert await files.sweep(older_than=3600) == 1
    assert [path.name for path in (folder.root / "outputs").iterdir()] == ["new"]
    assert folder.commits == 1


async def test_a_file_may_be_stored_while_its_last_upload_is_still_committed(
    tmp_path: Path,
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
    read = asyncio.Event()

    async def until_read() -> AsyncIterator[bytes]:
        yield content
        read.set()

    second = asyncio.create_task(files.put("someone", digest, until_read()))
    await read.wait()
    await asyncio.sleep(0.1)  # until it waits for its turn on the volume
    arrived.set()
    await asyncio.gather(first, second)
    assert await files.has("someone", digest)
    assert not [path for path in (tmp_path / "local").rglob("*") if path.is_file()]
