"""Uploads of input files: small ones inline, others once, addressed by their hash."""

import asyncio
import base64
import hashlib
import io
import mimetypes
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from pydantic_core import to_jsonable_python

from comfysnap_client import requests
from comfysnap_client.errors import NotFound
from comfysnap_client.retry import Deadline
from comfysnap_client.threads import opened
from comfysnap_client.transport import Transport
from comfysnap_schema.wire import MAX_INLINE_FILE_BYTES, FileBySha256, FileInline

CHUNK = 1024 * 1024
MAX_INLINE_TOTAL = 1024 * 1024
"""Maximum bytes of all inline files of one submit, before base64; others are uploaded."""
MAX_CONCURRENT = 4
"""Maximum number of concurrent uploads of one client."""

_SPOOL_BYTES = 8 * CHUNK


class Uploads:
    """Replaces the files among a job's inputs by their form in the request body."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._turn = asyncio.Semaphore(MAX_CONCURRENT)

    async def wire(self, inputs: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        """Return the inputs as JSON values, after uploading the files that the server lacks.

        Raises:
            OSError: A file cannot be read.
            ComfysnapError: An upload failed.
        """
        room = MAX_INLINE_TOTAL
        ready: dict[str, Any] = {}
        async with AsyncExitStack() as stack:
            tasks: dict[_Place, asyncio.Task[FileBySha256]] = {}
            for place, value in _values(inputs, ready):
                source = _source(value)
                if source is None:
                    place.put(to_jsonable_python(value))
                    continue
                await opened(source.open)
                stack.push_async_callback(asyncio.to_thread, source.close)
                small = await asyncio.to_thread(source.read_small, min(room, MAX_INLINE_FILE_BYTES))
                if small is not None:
                    room -= len(small)
                    inline = FileInline(
                        data=base64.b64encode(small).decode(), content_type=source.content_type
                    )
                    place.put(inline.model_dump())
                else:
                    task = asyncio.create_task(self._upload(source, deadline))
                    stack.push_async_callback(_stop, task)
                    tasks[place] = task
            if tasks:
                await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_EXCEPTION)
                for task in sorted(tasks.values(), key=lambda task: not task.done()):
                    task.result()  # raises the first failure, then the others are stopped
                for place, task in tasks.items():
                    place.put(task.result().model_dump())
        return ready

    async def _upload(self, source: "_Source", deadline: Deadline) -> FileBySha256:
        async def chunks() -> AsyncIterator[bytes]:
            await asyncio.to_thread(source.rewind)
            while chunk := await asyncio.to_thread(source.file.read, CHUNK):
                yield chunk

        async with self._turn:
            await asyncio.to_thread(source.measure)
            sha256 = source.sha256
            try:
                await self._transport.send(requests.has_file(sha256), deadline)
            except NotFound:
                request = requests.upload(
                    sha256, chunks, size=source.size, content_type=source.content_type
                )
                await self._transport.send(request, deadline)
        return FileBySha256(sha256=sha256)


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a value of the body goes: a key of an object, or an index of a list."""

    container: Any
    key: str | int

    def put(self, value: Any) -> None:
        self.container[self.key] = value


def _values(inputs: Mapping[str, Any], ready: dict[str, Any]) -> Iterator[tuple[_Place, Any]]:
    """Each value with its place in ``ready``, which keeps the order of the inputs; those of a list
    one by one."""
    for name, value in inputs.items():
        ready[name] = None
        if isinstance(value, list):
            values = cast("list[Any]", value)
            ready[name] = [None] * len(values)
            for index, item in enumerate(values):
                yield _Place(ready[name], index), item
        else:
            yield _Place(ready, name), value


class _Source:
    """A file passed by the caller; its methods block."""

    file: BinaryIO
    start = 0
    size = 0
    sha256 = ""

    def __init__(self, given: Path | bytes | BinaryIO) -> None:
        self._given = given
        name = given if isinstance(given, Path) else getattr(given, "name", "")
        self.content_type = mimetypes.guess_type(str(name))[0] or "application/octet-stream"

    def open(self) -> "_Source":
        """Open ``file`` as seekable; a pipe is copied, so that it can be hashed and re-sent."""
        if isinstance(self._given, Path):
            self.file = self._given.open("rb")
        elif isinstance(self._given, bytes):
            self.file = io.BytesIO(self._given)
        elif self._given.seekable():
            self.file = self._given
        else:
            self.file = cast("BinaryIO", tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES))  # noqa: SIM115 -- close() closes it
            shutil.copyfileobj(self._given, self.file, CHUNK)
            self.file.seek(0)
        self.start = self.file.tell()
        return self

    def close(self) -> None:
        """Close the file, unless the caller opened it."""
        if self.file is not self._given:
            self.file.close()

    def rewind(self) -> None:
        """Seek to the position that the file had when it was passed."""
        self.file.seek(self.start)

    def read_small(self, limit: int) -> bytes | None:
        """Return the content, or None if it is larger than ``limit`` bytes."""
        content = self.file.read(limit + 1)
        self.rewind()
        return content if len(content) <= limit else None

    def measure(self) -> None:
        """Compute size and hash."""
        digest = hashlib.sha256()
        while chunk := self.file.read(CHUNK):
            digest.update(chunk)
            self.size += len(chunk)
        self.sha256 = digest.hexdigest()


def _source(value: Any) -> _Source | None:
    is_file = isinstance(value, (Path, bytes)) or hasattr(value, "read")
    return _Source(value) if is_file else None


async def _stop(task: asyncio.Task[FileBySha256]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
