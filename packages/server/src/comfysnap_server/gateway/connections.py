"""uvicorn's HTTP protocol with what it lacks: limits on the number of connections and on the head
of a request, which come from strangers before any key is seen, and on readers who take nothing of
their answer."""

import asyncio
import time
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from comfysnap_schema.wire import PROBLEM_JSON, RETRY_AFTER, ErrorCode, Problem
from comfysnap_server.gateway.capacity import FullLog

MAX_HEAD_BYTES: Final = 64 * 1024
"""Of request line and headers, and of trailers."""
HEAD_TIMEOUT_S: Final = 20.0
"""For a head to come, from the connection or from its first byte on."""
WRITE_TIMEOUT_S: Final = 60.0
"""How long an answer waits for a reader that takes nothing of it."""
LINGER_S: Final = 5.0
"""How long the rest of a request is read that was answered already."""
CHANCE_S: Final = 0.05
"""Twice: how long a connection may keep its place before it sends its first request. In a rush,
closing those that had no chance yet would leave nobody served."""
STALLED_S: Final = 2.0
"""A reader who took nothing for so long may lose the connection to a newcomer."""
_SECOND_LOOK_S: Final = 1.0
"""What was written just now has left by then."""
_BODY_SHARE: Final = 16
"""Framing may cost this many times its content: chunks of one byte have six around it."""


class ConnectionTable:
    """The connections of a server. When there are too many, the one goes that has been without a
    request for the longest time, else one whose reader stopped reading.

    Args:
        limit: Most connections.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[BoundedHttpProtocol] = set()
        self._idle: dict[BoundedHttpProtocol, None] = {}  # in the order of a dict: oldest first
        self._stalled: dict[BoundedHttpProtocol, float] = {}
        self._log = FullLog()

    def add(self, connection: "BoundedHttpProtocol") -> bool:
        """Count a connection; false when there is no room, and none that could go."""
        self._open.add(connection)
        if len(self._open) <= self._limit:
            return True
        self._log.warn(
            "all %d connections are in use: the one that is idle for the longest time is closed"
            " for each new one; when none is idle, new ones are refused",
            self._limit,
        )
        victim = self._dispensable()
        if victim is None:
            return False
        self.remove(victim)
        victim.transport.abort()
        return True

    def remove(self, connection: "BoundedHttpProtocol") -> None:
        """Forget a connection."""
        self._open.discard(connection)
        self._idle.pop(connection, None)
        self._stalled.pop(connection, None)

    def set_idle(self, connection: "BoundedHttpProtocol", *, idle: bool = True) -> None:
        """Whether no request is being answered."""
        if not idle:
            self._idle.pop(connection, None)
        elif connection in self._open:
            self._idle.setdefault(connection)

    def set_stalled(self, connection: "BoundedHttpProtocol", *, stalled: bool) -> None:
        """Whether the reader takes nothing now."""
        if not stalled:
            self._stalled.pop(connection, None)
        elif connection in self._open:
            self._stalled.setdefault(connection, time.monotonic())

    def _dispensable(self) -> "BoundedHttpProtocol | None":
        if self._idle:
            return next(iter(self._idle))
        stalled, since = next(iter(self._stalled.items()), (None, 0.0))
        return stalled if time.monotonic() - since >= STALLED_S else None


class BoundedHttpProtocol(HttpToolsProtocol):
    """Hangs up on heads that are too large or too slow, and on readers who stopped reading.

    Args:
        table: Where the connections of the server are counted.
    """

    head_timeout = HEAD_TIMEOUT_S
    linger = LINGER_S
    write_timeout = WRITE_TIMEOUT_S

    def __init__(self, *args: Any, table: ConnectionTable, **options: Any) -> None:
        super().__init__(*args, **options)
        self._table = table
        self._in_body = False
        self._at_rest = False
        self._framing = 0
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._chance: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Expect a head soon."""
        super().connection_made(transport)
        if self._table.add(self):
            self._give_chance(1)
            self._expect(self.head_timeout)
        else:
            self._refuse(503, "Service Unavailable", ErrorCode.UNAVAILABLE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        self._table.remove(self)
        self._end_chance()
        self._rest()
        self._forget_reader()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes that are not content."""
        self._at_rest = False
        self._framing += len(data)
        super().data_received(data)
        if self._framing > MAX_HEAD_BYTES:
            self._refuse(431, "Request Header Fields Too Large")
        elif not self._in_body and not self._at_rest:
            self._expect(self.head_timeout)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._at_rest = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._end_chance()
        self._table.set_idle(self, idle=False)
        self._rest()
        self._in_body, self._framing = True, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Content is limited by who reads it."""
        self._framing = max(0, self._framing - _BODY_SHARE * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._rest()
        self._in_body, self._at_rest, self._framing = False, True, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Who was answered before the request was whole does not keep the connection with it."""
        super().on_response_complete()
        if self.cycle.response_complete:  # else the next one is answered now
            self._table.set_idle(self, idle=True)
            if self._in_body:
                self._expect(self.linger)
        # What is too little to pause for would keep a connection that closes open for ever.
        if self._watch is None and (unread := self.transport.get_write_buffer_size()):
            self._watch_reader(unread)

    def pause_writing(self) -> None:
        """The reader is slow; watch it."""
        super().pause_writing()
        self._forget_reader()
        self._watch_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The reader has all there is."""
        self._forget_reader()
        super().resume_writing()

    def _watch_reader(self, unread: int) -> None:
        self._table.set_stalled(self, stalled=True)
        self._watch = self.loop.call_later(self.write_timeout, self._look_at_reader, unread)

    def _look_at_reader(self, before: int) -> None:
        """A second look separates what is stuck from what was just written."""
        self._watch = None
        unread = self.transport.get_write_buffer_size()
        if unread >= before:
            self._watch = self.loop.call_later(_SECOND_LOOK_S, self._end_reader, unread)
        else:
            self._look_on(unread)

    def _end_reader(self, before: int) -> None:
        self._watch = None
        unread = self.transport.get_write_buffer_size()
        if unread >= before:
            self.transport.abort()
        else:
            self._look_on(unread)

    def _look_on(self, unread: int) -> None:
        self._table.set_stalled(self, stalled=False)
        if unread:
            self._watch_reader(unread)

    def _forget_reader(self) -> None:
        self._table.set_stalled(self, stalled=False)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _give_chance(self, rounds: int) -> None:
        """After two timers the loop has read what had come, however late it was."""
        if rounds:
            self._chance = self.loop.call_later(CHANCE_S, self._give_chance, rounds - 1)
        else:
            self._chance = self.loop.call_later(CHANCE_S, self._table.set_idle, self)

    def _end_chance(self) -> None:
        if self._chance is not None:
            self._chance.cancel()
            self._chance = None

    def _expect(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, self._late)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        if self._in_body:
            self.transport.close()
        else:
            self._refuse(408, "Request Timeout")

    def _refuse(self, status: int, title: str, code: ErrorCode = ErrorCode.INVALID_REQUEST) -> None:
        self._rest()
        if self.transport.is_closing():
            return
        if not self.cycle or self.cycle.response_complete:  # else it would end up in an answer
            problem = Problem(title=title, status=status, code=code, detail=title.lower())
            body = problem.model_dump_json().encode()
            again = f"{RETRY_AFTER}: 1\r\n" if status == 503 else ""
            head = (
                f"HTTP/1.1 {status} {title}\r\nContent-Type: {PROBLEM_JSON}\r\n{again}"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
