"""Downloads of output files: streamed, resumed after a lost connection, verified by hash."""

import asyncio
import hashlib
import logging
import os
import random
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path, PurePosixPath, PureWindowsPath

from comfysnap_client.errors import ComfysnapError, DownloadFailed
from comfysnap_client.transport import Request, Transport, is_transient
from comfysnap_schema.wire import OutputFile

logger: logging.Logger = logging.getLogger("comfysnap_client")

CHUNK = 1024 * 1024


class Downloads:
    """Reads the output files of one server; every ``OutputFile`` of the client refers to it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def read(self, file: OutputFile) -> bytes:
        """Return the content, verified.

        Raises:
            DownloadFailed: The length or hash does not match.
            OutputExpired: The file has expired.
            ComfysnapError: The request failed.
        """
        return b"".join([chunk async for chunk in self.stream(file)])

    async def save(self, file: OutputFile, path: Path) -> Path:
        """Write to ``path``, or into it if it is a folder, atomically.

        Raises:
            OSError: The file cannot be written.
            DownloadFailed: The length or hash does not match.
            OutputExpired: The file has expired.
            ComfysnapError: The request failed.
        """
        target = path / safe_name(file.name) if await asyncio.to_thread(path.is_dir) else path
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            async with aclosing(self.stream(file)) as chunks:
                await _write(chunks, part)
            await asyncio.to_thread(os.replace, part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return target

    async def stream(self, file: OutputFile) -> AsyncGenerator[bytes]:
        """Yield the content in chunks; it is verified after the last one.

        Raises:
            DownloadFailed: The length or hash does not match.
            OutputExpired: The file has expired.
            ComfysnapError: The request failed.
        """
        progress = _Progress()
        failures = 0
        failing_since = 0.0
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
                if not is_transient(error):
                    raise
                if progress.size > before or failures == 0:
                    failures, failing_since = 0, time.monotonic()
                failures += 1
                pause = self._transport.retry.pause(
                    failures,
                    time.monotonic() - failing_since,
                    retry_after=error.retry_after,
                    rand=random.random(),  # noqa: S311 -- spreads load, not security
                )
                if pause is None:
                    error.attempts = failures
                    raise
                logger.warning(
                    "%s: interrupted at %d of %d bytes, resuming in %.1f s: %s",
                    file.name, progress.size, file.size, pause, error,
                    extra={"request_id": error.request_id},
                )  # fmt: skip
                await asyncio.sleep(pause)
        if progress.size != file.size or progress.digest.hexdigest() != file.sha256:
            raise DownloadFailed(
                f"{file.name}: {progress.size} of {file.size} bytes with SHA-256 "
                f"{progress.digest.hexdigest()}, expected {file.sha256}"
            )

    async def _attempt(self, file: OutputFile, progress: "_Progress") -> AsyncGenerator[bytes]:
        """Yield the rest of the content, in a single attempt."""
        headers = {"Accept-Encoding": "identity"}
        if progress.size:
            headers["Range"] = f"bytes={progress.size}-"
        if progress.size and progress.etag:
            headers["If-Range"] = progress.etag
        request = Request(method="GET", url=file.url.lstrip("/"), headers=headers)
        async with self._transport.stream(request) as response:
            progress.etag = response.headers.get("etag")
            skip = 0 if response.status_code == 206 else progress.size
            async for data in response.aiter_raw():
                chunk, skip = data[skip:], max(0, skip - len(data))
                progress.size += len(chunk)
                if progress.size > file.size:
                    return
                progress.digest.update(chunk)
                if chunk:
                    yield chunk


class _Progress:
    """The part of a file received so far."""

    def __init__(self) -> None:
        self.size = 0
        self.digest = hashlib.sha256()
        self.etag: str | None = None


def safe_name(name: str) -> str:
    """The last part of a name from the server, without characters unsafe in file names."""
    last = PurePosixPath(PureWindowsPath(name).name).name
    safe = "".join(char for char in last if char.isprintable() and char not in '<>:"|?*')
    return safe.strip(". ") or "output"


async def _write(chunks: AsyncIterator[bytes], path: Path) -> None:
    """Write in a thread, a megabyte at a time."""
    handle = await asyncio.to_thread(path.open, "xb", CHUNK)
    try:
        buffer: list[bytes] = []
        async for chunk in chunks:
            buffer.append(chunk)
            if sum(map(len, buffer)) >= CHUNK:
                await asyncio.to_thread(handle.writelines, buffer)
                buffer = []
        await asyncio.to_thread(handle.writelines, buffer)
    finally:
        await asyncio.to_thread(handle.close)
