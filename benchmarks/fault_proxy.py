"""A proxy on loopback that drops connections, and refuses, delays and truncates responses."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

REASONS: Final = {502: b"Bad Gateway", 503: b"Service Unavailable", 429: b"Too Many Requests"}


@dataclass(kw_only=True)
class Faults:
    """Share of requests, from 0 to 1, for each fault."""

    drop_before: float = 0.0
    drop_after: float = 0.0
    refuse: float = 0.0
    delay: float = 0.0
    delay_s: tuple[float, float] = (0.5, 3.0)
    cut_after: int | None = None
    """Bytes of a response after which the connection breaks, while ``cuts`` is positive."""
    cuts: int = 0
    seed: int = 1

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def choose(self) -> str:
        """The fault of the next request, or ``pass``."""
        chance = self.random.random()
        for name in ("drop_before", "drop_after", "refuse", "delay"):
            share: float = getattr(self, name)
            if chance < share:
                return name
            chance -= share
        return "pass"


@asynccontextmanager
async def fault_proxy(upstream: str, faults: Faults) -> AsyncGenerator[str]:
    """Start a proxy in front of ``upstream``; yields its address."""
    host, port = upstream.removeprefix("http://").split(":")
    open_now: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_now.add(task)  # asyncio itself holds it only weakly
        task.add_done_callback(open_now.discard)
        # cancelled only when the proxy stops; asyncio would print that as an error
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await _exchange(reader, writer, (host, int(port)), faults):
                pass
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for task in open_now:
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    upstream: tuple[str, int],
    faults: Faults,
) -> bool:
    """Pass on one request; returns whether the connection stays open."""
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readexactly(_length(head))
    fault = faults.choose()
    if fault == "drop_before":
        return False
    if fault == "refuse":
        status = faults.random.choice(list(REASONS))
        writer.write(
            b"HTTP/1.1 %d %s\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
            % (status, REASONS[status])
        )
        await writer.drain()
        return True
    if fault == "delay":
        await asyncio.sleep(faults.random.uniform(*faults.delay_s))
    first = head.index(b"\r\n")
    head = head[:first] + b"\r\nConnection: close" + head[first:]
    up_reader, up_writer = await asyncio.open_connection(*upstream)
    try:
        up_writer.write(head + body)
        if fault == "drop_after":
            await up_reader.read(1)  # the server has the request, since it has responded
            return False
        await _relay(up_reader, writer, faults)
    finally:
        up_writer.close()
    return False


async def _relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: Faults
) -> None:
    left = faults.cut_after if faults.cuts else None
    while chunk := await reader.read(256 * 1024):
        if left is not None and len(chunk) >= left:
            faults.cuts -= 1
            writer.write(chunk[:left])
            return
        left = None if left is None else left - len(chunk)
        writer.write(chunk)
        await writer.drain()


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0
