"""Input files on their way up: small ones inline, others hashed, asked for, and sent once."""

import asyncio
import base64
import hashlib
import io
import mimetypes
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, BinaryIO, cast

from pydantic_core import to_jsonable_python

from comfysnap_client._http import Http, Request
from comfysnap_client.deadline import Deadline
from comfysnap_client.errors import NotFound
from comfysnap_schema.files import FileBySha256, FileByUrl, FileInline
from comfysnap_schema.routes import FILES, MAX_INLINE_FILE_BYTES

CHUNK = 1024 * 1024
MAX_INLINE_TOTAL = 1024 * 1024
"""Bytes of all inline files of one submit, before base64; the rest is uploaded."""
AT_ONCE = 4
"""Uploads of one client under way at a time."""

_SPOOL_BYTES = 8 * CHUNK


class Uploads:
    """Turns the files among a job's inputs into what the wire takes."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def wire(self, inputs: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        """The inputs as JSON values; files are uploaded where the server lacks them.

        Raises:
            OSError: A file cannot be read.
            ComfysnapError: An upload failed.
        """
        room = MAX_INLINE_TOTAL
        ready: dict[str, Any] = {}
        async with AsyncExitStack() as stack:
            tasks: dict[str, asyncio.Task[FileBySha256]] = {}
            stack.push_async_callback(_stop, tasks)
            for name, value in inputs.items():
                source = _source(value)
                if source is None:
                    ready[name] = to_jsonable_python(value)
                    continue
                small = await asyncio.to_thread(source.small, min(room, MAX_INLINE_FILE_BYTES))
                if small is not None:
                    room -= len(small)
                    inline = FileInline(
                        data=base64.b64encode(small).decode(), content_type=source.content_type
                    )
                    ready[name] = inline.model_dump()
                else:
                    ready[name] = None  # keeps the order of the inputs
                    tasks[name] = asyncio.create_task(self._upload(source, deadline))
            if tasks:
                await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_EXCEPTION)
                for task in tasks.values():
                    if task.done():
                        task.result()  # the first failure, before the others are stopped
                ready.update({name: task.result().model_dump() for name, task in tasks.items()})
        return ready

    async def _upload(self, source: "_Source", deadline: Deadline) -> FileBySha256:
        async with self._turn:
            file = await asyncio.to_thread(source.open)
            try:
                start, size, sha256 = await asyncio.to_thread(_measure, file)
                if not await self._known(sha256, deadline):
                    await self._put(file, start, size, sha256, source.content_type, deadline)
            finally:
                if source.ours:
                    await asyncio.to_thread(file.close)
        return FileBySha256(sha256=sha256)

    async def _known(self, sha256: str, deadline: Deadline) -> bool:
        request = Request(method="HEAD", url=f"{FILES[1:]}/{sha256}")
        try:
            await self._http.send(request, deadline=deadline)
        except NotFound:
            return False
        return True

    async def _put(
        self,
        file: BinaryIO,
        start: int,
        size: int,
        sha256: str,
        content_type: str,
        deadline: Deadline,
    ) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            await asyncio.to_thread(file.seek, start)
            while chunk := await asyncio.to_thread(file.read, CHUNK):
                yield chunk

        await self._http.send(
            Request(
                method="PUT", url=f"{FILES[1:]}/{sha256}", content=chunks,
                headers={"Content-Length": str(size), "Content-Type": content_type},
            ),
            deadline=deadline,
        )  # fmt: skip


class _Source:
    """A file as the caller gave it."""

    def __init__(self, open_file: Callable[[], BinaryIO], *, name: str, ours: bool) -> None:
        self._open = open_file
        self.ours = ours
        self.content_type = mimetypes.guess_type(name)[0] or "application/octet-stream"

    def small(self, most: int) -> bytes | None:
        """The content if it has at most ``most`` bytes; the file stays where it was."""
        file = self.open()
        try:
            start = file.tell()
            content = file.read(most + 1)
            file.seek(start)
        finally:
            if self.ours:
                file.close()
        return content if len(content) <= most else None

    def open(self) -> BinaryIO:
        """The file, readable and seekable."""
        return self._open()


def _source(value: object) -> _Source | None:
    if isinstance(value, (bytes, bytearray)):
        return _Source(lambda: io.BytesIO(value), name="", ours=True)
    if isinstance(value, Path):
        return _Source(lambda: value.open("rb"), name=value.name, ours=True)
    if isinstance(value, (FileBySha256, FileByUrl, FileInline)) or not hasattr(value, "read"):
        return None
    given = cast("BinaryIO", value)
    name = getattr(given, "name", "")
    file = given if given.seekable() else _spooled(given)
    return _Source(lambda: file, name=name if isinstance(name, str) else "", ours=False)


def _spooled(stream: BinaryIO) -> BinaryIO:
    """A pipe, kept so that it can be hashed first and sent again."""
    spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 -- lives as long as the upload
    while chunk := stream.read(CHUNK):
        spool.write(chunk)
    spool.seek(0)
    return cast("BinaryIO", spool)


def _measure(file: BinaryIO) -> tuple[int, int, str]:
    """Where the file stands, how much follows, and its hash."""
    start = file.tell()
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    size = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    return start, size, digest.hexdigest()


async def _stop(tasks: Mapping[str, asyncio.Task[FileBySha256]]) -> None:
    for task in tasks.values():
        task.cancel()
    if tasks:
        await asyncio.gather(*tasks.values(), return_exceptions=True)
