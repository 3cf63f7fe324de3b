"""Parsing of server-sent events, as defined by the HTML standard; no I/O."""

import re
from dataclasses import dataclass

MAX_EVENT_BYTES = 32 * 1024 * 1024
"""Maximum size of one event."""

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class ServerSentEvent:
    """One event; ``id`` is the last one of the stream so far, ``retry`` is in milliseconds."""

    event: str
    data: str
    id: str
    retry: int | None


class SseParser:
    """An incremental parser, whose time is linear in the size of the stream."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._data = bytearray()
        self._size = 0
        self._event = ""
        self._id = ""
        self._retry: int | None = None
        self._ended_with_cr = False
        self._started = False

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the events completed by ``chunk``.

        Raises:
            ValueError: An event is larger than ``MAX_EVENT_BYTES``.
        """
        if not chunk:
            return []
        rest = chunk.removeprefix(b"\n") if self._ended_with_cr else chunk  # half of a CRLF
        self._ended_with_cr = chunk.endswith(b"\r")
        *ends, rest = _LINE_END.split(rest)
        found: list[ServerSentEvent] = []
        for end in ends:
            self._append(end)
            line, self._line = bytes(self._line), bytearray()
            if not self._started:
                line, self._started = line.removeprefix(b"\xef\xbb\xbf"), True
            if line:
                self._field(line)
            elif (event := self._dispatch()) is not None:
                found.append(event)
        self._append(rest)
        return found

    def _append(self, part: bytes) -> None:
        if len(self._line) + self._size + len(part) > MAX_EVENT_BYTES:
            raise ValueError("the event is too large")
        self._line += part

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data += value + b"\n"
            self._size += len(line)
        elif name == b"event":
            self._event = value.decode(errors="replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode(errors="replace")
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            self._retry = int(value)

    def _dispatch(self) -> ServerSentEvent | None:
        data, event = self._data, self._event
        self._data, self._event, self._size = bytearray(), "", 0
        if not data:
            return None
        text = data[:-1].decode(errors="replace")
        return ServerSentEvent(event or "message", text, self._id, self._retry)
