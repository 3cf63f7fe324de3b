"""Downloads of output files: streamed, resumed after a lost connection, verified by hash."""

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

from comfysnap_client.errors import ComfysnapError, DownloadFailed
from comfysnap_client.requests import Request, output
from comfysnap_client.threads import opened
from comfysnap_client.transport import Attempts, Transport, is_header_value
from comfysnap_schema.wire import OutputFile

CHUNK = 1024 * 1024
MAX_NAME_BYTES = 200
"""Maximum length of a file name: file systems allow 255 bytes, encrypted ones fewer."""
MAX_SUFFIX = 16
"""Maximum length of a suffix, which a shortened name keeps."""

_WINDOWS_DEVICES = {
    "CON", "PRN", "AUX", "NUL", *(f"{name}{n}" for name in ("COM", "LPT") for n in range(10)),
}  # fmt: skip


class Downloads:
    """Reads the output files of one server; every ``OutputFile`` of the client refers to it.

    Every call raises ``DownloadFailed`` if length or hash do not match, ``OutputExpired``, and the
    other errors of requests.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def read(self, file: OutputFile) -> bytes:
        """Return the content, verified."""
        return b"".join([chunk async for chunk in self.stream(file)])

    async def save(self, file: OutputFile, path: Path) -> Path:
        """Write to ``path``, or into it if it is a folder, atomically.

        Raises:
            OSError: The file cannot be written.
        """
        target = path / safe_name(file.name) if await asyncio.to_thread(path.is_dir) else path
        part = target.with_name(f".{secrets.token_hex(8)}.part")
        try:
            async with aclosing(self.stream(file)) as chunks:
                await _write(chunks, part)
            await asyncio.to_thread(os.replace, part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return target

    async def stream(self, file: OutputFile) -> AsyncGenerator[bytes]:
        """Yield the content in chunks; it is verified after the last one."""
        progress = _Progress()
        attempts = self._attempts(file, progress)
        while True:
            before = progress.size
            try:
                async with aclosing(self._attempt(file, progress)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                break
            except ComfysnapError as error:
                if progress.size >= file.size:
                    break
                if progress.size > before:
                    attempts = self._attempts(file, progress)
                await attempts.pause(error)
        digest = await progress.hexdigest()
        if progress.size != file.size or digest != file.sha256:
            raise DownloadFailed(
                f"{file.name}: {progress.size} of {file.size} bytes with SHA-256 "
                f"{digest}, expected {file.sha256}"
            )

    def _attempts(self, file: OutputFile, progress: "_Progress") -> Attempts:
        return Attempts(self._transport.retry, progress.request(file))

    async def _attempt(self, file: OutputFile, progress: "_Progress") -> AsyncGenerator[bytes]:
        """Yield the rest of the content, in a single attempt."""
        async with (
            self._transport.stream(progress.request(file)) as response,
            aclosing(response.chunks()) as chunks,
        ):
            progress.etag = response.header("etag")
            skip = 0 if response.status == 206 else progress.size
            async for data in chunks:
                chunk, skip = data[skip:], max(0, skip - len(data))
                await progress.add(chunk)
                if progress.size > file.size:
                    return
                if chunk:
                    yield chunk


class _Progress:
    """The part of a file received so far; hashed in a thread while the next part arrives."""

    def __init__(self) -> None:
        self.size = 0
        self.etag = ""
        self._digest = hashlib.sha256()
        self._unhashed: list[bytes] = []
        self._held = 0
        self._hashing: asyncio.Future[None] | None = None

    async def add(self, chunk: bytes) -> None:
        """Count and hash a chunk."""
        self.size += len(chunk)
        self._unhashed.append(chunk)
        self._held += len(chunk)
        if self._held >= CHUNK:
            await self._hash()

    async def hexdigest(self) -> str:
        """The SHA-256 of all chunks, in hex."""
        await asyncio.shield(await self._hash())
        return self._digest.hexdigest()

    async def _hash(self) -> "asyncio.Future[None]":
        if self._hashing is not None:  # shielded: an attempt that ends early leaves the order
            await asyncio.shield(self._hashing)
        chunks, self._unhashed, self._held = self._unhashed, [], 0
        self._hashing = asyncio.ensure_future(asyncio.to_thread(self._update, chunks))
        return self._hashing

    def _update(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            self._digest.update(chunk)

    def request(self, file: OutputFile) -> Request:
        """The request for the rest of the file."""
        etag = self.etag if is_header_value(self.etag) else ""
        return output(file, start=self.size, etag=etag)


def safe_name(name: str) -> str:
    """The last part of a name from the server, as a file name that every system accepts."""
    last = PurePosixPath(PureWindowsPath(name).name).name
    allowed = (char for char in last if char.isprintable() and char not in '<>:"|?*')
    safe = "".join(allowed).strip(". ")
    stem, dot, suffix = safe.rpartition(".")
    if not dot or len(suffix) > MAX_SUFFIX:
        stem, dot, suffix = safe, "", ""
    if stem.partition(".")[0].upper() in _WINDOWS_DEVICES:
        stem = f"_{stem}"
    room = MAX_NAME_BYTES - len((dot + suffix).encode())
    return (stem.encode()[:room].decode(errors="ignore") + dot + suffix) or "output"


async def _write(chunks: AsyncIterator[bytes], path: Path) -> None:
    """Write in a thread, a megabyte at a time."""
    handle = await opened(partial(path.open, "xb", CHUNK))
    try:
        buffer: list[bytes] = []
        held = 0
        async for chunk in chunks:
            buffer.append(chunk)
            held += len(chunk)
            if held >= CHUNK:
                await asyncio.to_thread(handle.writelines, buffer)
                buffer, held = [], 0
        await asyncio.to_thread(handle.writelines, buffer)
    finally:
        await asyncio.to_thread(handle.close)
