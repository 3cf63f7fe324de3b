"""Output files on their way down: streamed, resumed when the connection breaks, checked by hash."""

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
from comfysnap_client.transport import Http, Request, is_transient
from comfysnap_schema.wire import OutputFile

logger: logging.Logger = logging.getLogger("comfysnap_client")

CHUNK = 1024 * 1024


class Downloads:
    """Reads output files of one server; bound to every file that the client hands out."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def read(self, file: OutputFile) -> bytes:
        """The whole content, checked.

        Raises:
            DownloadFailed: Wrong length or hash.
            OutputExpired: Past retention.
            ComfysnapError: The server or the network failed.
        """
        return b"".join([chunk async for chunk in self.stream(file)])

    async def save(self, file: OutputFile, path: Path) -> Path:
        """Write to ``path``, or into it if it is a folder; nothing is there before all is.

        Raises:
            OSError: The folder cannot be written.
            DownloadFailed: Wrong length or hash.
            OutputExpired: Past retention.
            ComfysnapError: The server or the network failed.
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
        """The content in chunks; the hash is known, and checked, after the last one.

        Raises:
            DownloadFailed: Wrong length or hash.
            OutputExpired: Past retention.
            ComfysnapError: The server or the network failed.
        """
        got = _Got()
        failures = 0
        failing_since = 0.0
        while True:
            before = got.size
            try:
                async with aclosing(self._rest(file, got)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                break
            except ComfysnapError as error:
                if got.size >= file.size:
                    break
                if not is_transient(error):
                    raise
                if got.size > before or failures == 0:
                    failures, failing_since = 0, time.monotonic()
                failures += 1
                pause = self._http.retry.pause(
                    failures,
                    time.monotonic() - failing_since,
                    retry_after=error.retry_after,
                    draw=random.random(),  # noqa: S311 -- spreads load, guards nothing
                )
                if pause is None:
                    error.attempts = failures
                    raise
                logger.warning(
                    "%s: broken at %d of %d bytes, resumed in %.1f s: %s",
                    file.name, got.size, file.size, pause, error,
                    extra={"request_id": error.request_id},
                )  # fmt: skip
                await asyncio.sleep(pause)
        if got.size != file.size or got.digest.hexdigest() != file.sha256:
            raise DownloadFailed(
                f"{file.name}: {got.size} of {file.size} bytes with SHA-256 "
                f"{got.digest.hexdigest()}, the job told {file.sha256}"
            )

    async def _rest(self, file: OutputFile, got: "_Got") -> AsyncGenerator[bytes]:
        """One attempt, from where the last one broke."""
        headers = {"Accept-Encoding": "identity"}
        if got.size:
            headers["Range"] = f"bytes={got.size}-"
        if got.size and got.etag:
            headers["If-Range"] = got.etag
        request = Request(method="GET", url=file.url.lstrip("/"), headers=headers)
        async with self._http.stream(request) as response:
            got.etag = response.headers.get("etag")
            skip = 0 if response.status_code == 206 else got.size
            async for whole in response.aiter_raw():
                chunk, skip = whole[skip:], max(0, skip - len(whole))
                got.size += len(chunk)
                if got.size > file.size:
                    return
                got.digest.update(chunk)
                if chunk:
                    yield chunk


class _Got:
    """What has come of a file."""

    def __init__(self) -> None:
        self.size = 0
        self.digest = hashlib.sha256()
        self.etag: str | None = None


def safe_name(name: str) -> str:
    """The last part of a name that a server told, fit for a folder of the caller's."""
    last = PurePosixPath(PureWindowsPath(name).name).name
    kept = "".join(char for char in last if char.isprintable() and char not in '<>:"|?*')
    return kept.strip(". ") or "output"


async def _write(chunks: AsyncIterator[bytes], path: Path) -> None:
    """Write on a thread, a megabyte at a time."""
    handle = await asyncio.to_thread(path.open, "xb", CHUNK)
    try:
        waiting: list[bytes] = []
        async for chunk in chunks:
            waiting.append(chunk)
            if sum(map(len, waiting)) >= CHUNK:
                await asyncio.to_thread(handle.writelines, waiting)
                waiting = []
        await asyncio.to_thread(handle.writelines, waiting)
    finally:
        await asyncio.to_thread(handle.close)
