"""Receives what clients send, within limits on size, speed and number."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Final, TypeVar

from starlette.requests import Request

from comfysnap_schema.wire import ErrorCode
from comfysnap_server.gateway.capacity import Places
from comfysnap_server.gateway.problems import ProblemError
from comfysnap_server.owner_locks import OwnerLocks

T = TypeVar("T")

_JSON_TYPES: Final = frozenset({"", "application/json"})
_FORM: Final = "application/x-www-form-urlencoded"
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_LARGE_BYTES: Final = 64 * 1024
"""A larger JSON body is parsed beside the loop, one of each owner at a time: parsing 4 MiB holds
up every request for 10 ms."""
_BEHIND_S: Final = 0.25
"""A body that is so much behind may lose its place to another. Short, so that senders who come
back at once with another slow body leave places to those who do send."""


class BodyReader:
    """Receives bodies, a limited number at once.

    A body has ``patience`` seconds in hand. Waiting for its bytes takes from them, and bytes add to
    them at ``min_rate``; when nothing is left, it is refused. When all places are taken, the
    slowest body loses its own to the next one, unless none is behind.

    Args:
        places: How many at once.
        patience: Seconds of silence, or of less than ``min_rate``.
        min_rate: Bytes per second that a sender has to keep up.
    """

    def __init__(self, places: Places, *, patience: float, min_rate: float) -> None:
        self._places = places
        self._patience = patience
        self._min_rate = min_rate
        self._open: set[_Body] = set()
        self._locks = OwnerLocks()

    async def stream(
        self, request: Request, owner: str, limit: int, code: ErrorCode
    ) -> AsyncGenerator[bytes]:
        """The body in chunks, at most ``limit`` bytes.

        Raises:
            ProblemError: ``code``, before anything is read when the length was announced;
                ``rate_limited``, no place; 408, too slow.
        """
        error = ProblemError(code, f"the body may have at most {limit} bytes")
        announced = request.headers.get("content-length", "")
        if _LENGTH.fullmatch(announced) and int(announced) > limit:
            raise error
        crowded = self._places.full_for(owner)
        body = _Body(owner, self._patience)
        with self._places.take(owner, over_limit=crowded and self._displace_slowest(owner)):
            self._open.add(body)
            try:
                read = 0
                chunks = request.stream()
                while (chunk := await body.receive(chunks)) is not None:
                    read += len(chunk)
                    if read > limit:
                        raise error
                    body.left = min(body.left + len(chunk) / self._min_rate, self._patience)
                    yield chunk
            finally:
                self._open.discard(body)

    async def read_json(
        self,
        request: Request,
        owner: str,
        limit: int,
        *,
        forms: bool,
        parse: Callable[[bytes], T],
    ) -> T:
        """What is in a JSON body. A missing content type is JSON.

        Args:
            request: The request.
            owner: Whose place it takes.
            limit: Bytes.
            forms: Whether the type that ``curl -d`` sends by itself is JSON too. A web page can
                send it to any server, without a preflight.
            parse: Reads the body, usually ``parse_json_object``; large ones in a thread.

        Raises:
            ProblemError: ``unsupported_media_type``, ``body_too_large``, ``invalid_json``,
                ``rate_limited``, and 408 when the body takes longer than its patience.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        allowed = kind in _JSON_TYPES or kind.endswith("+json") or (forms and kind == _FORM)
        if not allowed:
            raise ProblemError(
                ErrorCode.UNSUPPORTED_MEDIA_TYPE,
                f"send the body as application/json, not {kind[:100]!r}",
                headers={"Accept-Post": "application/json"},
            )
        chunks = self.stream(request, owner, limit, ErrorCode.BODY_TOO_LARGE)
        try:
            async with asyncio.timeout(self._patience), aclosing(chunks):
                body = b"".join([chunk async for chunk in chunks])
        except TimeoutError as error:
            raise _late(f"did not arrive within {self._patience:g} s") from error
        if len(body) <= _LARGE_BYTES:
            return parse(body)
        async with self._locks.hold(owner):
            return await asyncio.to_thread(parse, body)

    def _displace_slowest(self, owner: str) -> bool:
        """Free a place: one of the owner's when only the owner has too many."""
        now = asyncio.get_running_loop().time()
        rivals = [body for body in self._open if self._places.full or body.owner == owner]
        slowest = min(rivals, key=lambda body: body.in_hand(now), default=None)
        if slowest is None or slowest.in_hand(now) > self._patience - _BEHIND_S:
            return False
        self._open.discard(slowest)
        slowest.displace()
        return True


class _Body:
    """A body that is being received."""

    def __init__(self, owner: str, patience: float) -> None:
        self.owner = owner
        self.left = patience
        """Seconds in hand when it last waited."""
        self._wait: asyncio.Timeout | None = None
        self._displaced = False

    def in_hand(self, now: float) -> float:
        """Seconds in hand at this moment."""
        when = self._wait and self._wait.when()
        return self.left if when is None else when - now

    def displace(self) -> None:
        """Give its place to another."""
        self._displaced = True
        if self._wait is not None and not self._wait.expired():
            self._wait.reschedule(asyncio.get_running_loop().time())

    async def receive(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        """The next chunk; None after the last one.

        Raises:
            ProblemError: 408, there is no time left for it.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(0 if self._displaced else self.left) as self._wait:
                return await anext(chunks, None)
        except TimeoutError as error:
            text = "arrives too slowly" + (", and others wait" if self._displaced else "")
            raise _late(text) from error
        finally:
            self.left = self.in_hand(loop.time())
            self._wait = None


def _late(text: str) -> ProblemError:
    return ProblemError(
        ErrorCode.INVALID_REQUEST,
        f"the body {text}",
        status=408,
        headers={"Connection": "close"},
    )
