"""Downloads of output files: streamed, resumed after a lost connection, verified by hash."""

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

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
            await self._write(file, part)
            await asyncio.to_thread(os.replace, part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return target

    async def _write(self, file: OutputFile, path: Path) -> None:
        handle = await opened(partial(path.open, "xb"))
        progress = _Progress(handle)
        try:
            async with aclosing(self._receive(file, progress)) as chunks:
                async for _ in chunks:
                    pass
        finally:
            try:
                await progress.settle()
            finally:
                await asyncio.to_thread(handle.close)

    def stream(self, file: OutputFile) -> AsyncGenerator[bytes]:
        """Yield the content in chunks; it is verified after the last one."""
        return self._receive(file, _Progress())

    async def _receive(self, file: OutputFile, progress: "_Progress") -> AsyncGenerator[bytes]:
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
    """The part of a file received so far; a thread hashes and writes it while the next one comes.

    Args:
        copy: File to write it to. None: it is only hashed.
    """

    def __init__(self, copy: BinaryIO | None = None) -> None:
        self.size = 0
        self.etag = ""
        self._digest = hashlib.sha256()
        self._copy = copy
        self._chunks: list[bytes] = []
        self._held = 0
        self._working: asyncio.Future[None] | None = None

    async def add(self, chunk: bytes) -> None:
        """Count a chunk, and hand it to the thread with those before, a megabyte at a time."""
        self.size += len(chunk)
        self._chunks.append(chunk)
        self._held += len(chunk)
        if self._held >= CHUNK:
            await self._hand_over()

    async def hexdigest(self) -> str:
        """The SHA-256 of all chunks, in hex, once they are written."""
        await asyncio.shield(await self._hand_over())
        return self._digest.hexdigest()

    async def settle(self) -> None:
        """Wait until the thread is done, with or without an error."""
        if self._working is not None:
            await asyncio.gather(self._working, return_exceptions=True)

    async def _hand_over(self) -> "asyncio.Future[None]":
        if self._working is not None:  # shielded: an attempt that ends early leaves the order
            await asyncio.shield(self._working)
        chunks, self._chunks, self._held = self._chunks, [], 0
        loop = asyncio.get_running_loop()
        self._working = loop.run_in_executor(None, self._process, chunks)
        return self._working

    def _process(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            self._digest.update(chunk)
        if self._copy is not None:  # not joined: writes above 128 KiB cost three times as much
            self._copy.writelines(chunks)

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
