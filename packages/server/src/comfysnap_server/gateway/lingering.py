"""An answer to a request whose body is not going to be read."""

import asyncio
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_LINGER_S: Final = 2.0
_LINGER_BYTES: Final = 8 * 1024 * 1024


class LingeringResponse(Response):
    """Answers at once, then discards a bounded part of the body before the connection closes.

    Closing while the client still sends resets the connection, and the reset can overtake the
    answer (RFC 9112, section 9.6).
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, linger, close."""
        self.headers["Connection"] = "close"
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(_LINGER_S):
                await _discard(receive)
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _discard(receive: Receive) -> None:
    read = 0
    while read < _LINGER_BYTES:
        message = await receive()
        read += len(message.get("body", b""))
        if not message.get("more_body", False):
            return
