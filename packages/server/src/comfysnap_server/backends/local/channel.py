"""Messages between the server and its processes: length-prefixed JSON on a socket."""

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any, Final

LENGTH: Final = struct.Struct("!I")


def frame(message: Mapping[str, Any] | bytes) -> bytes:
    """One message ready to send; ``bytes`` are JSON already."""
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    return LENGTH.pack(len(data)) + data


def receive(channel: socket.socket) -> bytes | None:
    """The next message, JSON; None when the other side is gone."""
    head = _exactly(channel, LENGTH.size)
    return None if head is None else _exactly(channel, LENGTH.unpack(head)[0])


def _exactly(channel: socket.socket, count: int) -> bytes | None:
    parts: list[bytes] = []
    while count:
        try:
            part = channel.recv(min(count, 1 << 20))
        except OSError:
            return None
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
