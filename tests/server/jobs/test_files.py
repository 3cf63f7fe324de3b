"""The file store: whole files or none, checked, kept apart by owner."""

import asyncio
import hashlib
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from comfysnap_schema.wire.errors import ErrorCode
from comfysnap_schema.wire.files import FileBySha256
from comfysnap_server.errors import BackendError
from comfysnap_server.jobs.files import FileStore
from comfysnap_server.jobs.run import InputUnavailableError, stage_inputs
from tests.server.backends.suite import loading, request


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files_in(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


async def test_a_stored_file_is_on_the_disk_with_every_folder_that_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[Path] = set()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        status = os.fstat(descriptor)
        synced.update(path for path in tmp_path.rglob("*") if os.path.samestat(path.stat(), status))

    monkeypatch.setattr(os, "fsync", fsync)
    store = FileStore(tmp_path / "files")
    stored = await store.put("anna", digest(b"a"), chunks(b"a"))
    folders = {path for path in stored.parents if path.is_relative_to(tmp_path / "files")}
    assert synced >= folders


async def test_uploads_of_one_owner_leave_threads_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
    release, real, slow = threading.Event(), os.fsync, b"slow"

    def fsync(descriptor: int) -> None:
        if os.fstat(descriptor).st_size == len(slow):
            release.wait(200)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store = FileStore(tmp_path)
    sent = (store.put("anna", digest(slow), chunks(slow)) for _ in range(3))
    uploads = [asyncio.create_task(each) for each in sent]
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await store.put("ben", digest(b"b"), chunks(b"b"))
    assert not any(upload.done() for upload in uploads)
    release.set()
    await asyncio.gather(*uploads)


async def test_a_stored_file_is_found_by_its_owner_only(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    sha256 = digest(b"ab")
    await store.put("anna", sha256, chunks(b"a", b"b"))
    assert store.has("anna", sha256)
    assert store.path("anna", sha256).read_bytes() == b"ab"
    assert not store.has("berta", sha256)
    with pytest.raises(BackendError) as caught:
        store.path("berta", sha256)
    assert caught.value.code is ErrorCode.UNKNOWN_FILE


async def test_content_with_another_hash_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    with pytest.raises(BackendError) as caught:
        await store.put("anna", digest(b"other"), chunks(b"content"))
    assert caught.value.code is ErrorCode.HASH_MISMATCH
    assert files_in(tmp_path) == []


async def test_a_file_above_the_limit_is_refused_before_it_is_read_whole(tmp_path: Path) -> None:
    store = FileStore(tmp_path, max_bytes=10)
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"12345"

    with pytest.raises(BackendError) as caught:
        await store.put("anna", "0" * 64, endless())
    assert caught.value.code is ErrorCode.FILE_TOO_LARGE
    assert taken == 3
    assert files_in(tmp_path) == []


async def test_an_upload_leaves_room_on_the_disk(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    store = FileStore(tmp_path, keep_free=free + 2**40)
    with pytest.raises(BackendError) as caught:
        await store.put("anna", digest(b"x"), chunks(b"x"))
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert "keep_free_bytes" in caught.value.detail
    assert files_in(tmp_path) == []
    roomy = FileStore(tmp_path, keep_free=1)
    assert (await roomy.put("anna", digest(b"x"), chunks(b"x"))).read_bytes() == b"x"


async def test_a_broken_upload_leaves_nothing(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(BackendError):
        await FileStore(tmp_path).put("anna", "0" * 64, broken())
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "A" * 64, "", "0" * 63, "0" * 64 + "\n"])
async def test_a_name_that_is_no_hash_is_unknown(tmp_path: Path, name: str) -> None:
    with pytest.raises(BackendError) as caught:
        FileStore(tmp_path).path("anna", name)
    assert caught.value.code is ErrorCode.UNKNOWN_FILE


async def test_two_uploads_of_one_file_at_once_both_succeed(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    data = os.urandom(3_000_000)
    await asyncio.gather(*(store.put("anna", digest(data), chunks(data)) for _ in range(4)))
    assert [path.read_bytes() for path in files_in(tmp_path)] == [data]


async def test_a_sweep_deletes_old_files_but_none_that_is_needed_or_was_asked_for(
    tmp_path: Path,
) -> None:
    store = FileStore(tmp_path)
    hashes = {name: digest(name.encode()) for name in ("old", "needed", "asked")}
    for name, sha256 in hashes.items():
        path = await store.put("anna", sha256, chunks(name.encode()))
        os.utime(path, (0, time.time() - 100))
    assert store.has("anna", hashes["asked"])
    assert store.sweep(older_than=50, keep={hashes["needed"]}) == 1
    assert not store.has("anna", hashes["old"])
    assert store.has("anna", hashes["needed"])
    assert store.has("anna", hashes["asked"])


async def test_a_sweep_leaves_what_no_store_put_there(tmp_path: Path) -> None:
    theirs = tmp_path / "holiday" / "2019" / "beach.png"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    os.utime(theirs, (0, 0))
    assert FileStore(tmp_path).sweep(older_than=50) == 0
    assert theirs.exists()


async def test_an_input_that_cannot_be_copied_says_why_and_nothing_of_the_server(
    tmp_path: Path,
) -> None:
    store = FileStore(tmp_path / "files")
    sha256 = digest(b"x")
    await store.put("anna", sha256, chunks(b"x"))
    asked = request(loading("photo.png"), files={"photo.png": FileBySha256(sha256=sha256)})
    with pytest.raises(InputUnavailableError) as caught:
        stage_inputs(asked, store, tmp_path / "gone")
    assert str(caught.value) == "photo: No such file or directory"
