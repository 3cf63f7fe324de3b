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
    """An incremental parser."""

    def __init__(self) -> None:
        self._rest = b""
        self._event = ""
        self._data: list[str] = []
        self._id = ""
        self._retry: int | None = None
        self._size = 0
        self._started = False

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the events completed by ``chunk``.

        Raises:
            ValueError: An event is larger than ``MAX_EVENT_BYTES``.
        """
        text = self._rest + chunk
        if not self._started and text:
            text = text.removeprefix(b"\xef\xbb\xbf")
            self._started = True
        # A trailing CR may be half of a CRLF.
        held = b"\r" if text.endswith(b"\r") else b""
        *lines, rest = _LINE_END.split(text.removesuffix(held))
        if held:
            self._rest = rest + held
        else:
            self._rest = rest
        self._limit(len(self._rest))
        found = [self._line(line.decode(errors="replace")) for line in lines]
        return [event for event in found if event is not None]

    def _line(self, line: str) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._limit(len(value))
            self._size += len(value) + 1
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit() and len(value) < 10:
            self._retry = int(value)
        return None

    def _limit(self, more: int) -> None:
        if self._size + more > MAX_EVENT_BYTES:
            raise ValueError("the event is too large")

    def _dispatch(self) -> ServerSentEvent | None:
        data, event = self._data, self._event
        self._data, self._event, self._size = [], "", 0
        if not data:
            return None
        return ServerSentEvent(event or "message", "\n".join(data), self._id, self._retry)
