"""Receives what clients send, within limits on size, speed and number."""

import asyncio
import math
import re
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from typing import Final, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

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
            ClientDisconnect: The client hung up.
        """
        with self._place(request, owner, limit, code) as body:
            while (chunk := await body.receive()) is not None:
                yield chunk

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
            ClientDisconnect: The client hung up.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        allowed = kind in _JSON_TYPES or kind.endswith("+json") or (forms and kind == _FORM)
        if not allowed:
            raise ProblemError(
                ErrorCode.UNSUPPORTED_MEDIA_TYPE,
                f"send the body as application/json, not {kind[:100]!r}",
                headers={"Accept-Post": "application/json"},
            )
        chunks: list[bytes] = []
        code = ErrorCode.BODY_TOO_LARGE
        with self._place(request, owner, limit, code, within=self._patience) as arriving:
            while (chunk := await arriving.receive()) is not None:
                chunks.append(chunk)
        body = b"".join(chunks)
        if len(body) <= _LARGE_BYTES:
            return parse(body)
        async with self._locks.hold(owner):
            return await asyncio.to_thread(parse, body)

    @contextmanager
    def _place(
        self,
        request: Request,
        owner: str,
        limit: int,
        code: ErrorCode,
        *,
        within: float = math.inf,
    ) -> "Generator[_Body]":
        """A place for a body, which must be whole ``within`` so many seconds, however fast."""
        announced = request.headers.get("content-length", "")
        if _LENGTH.fullmatch(announced) and int(announced) > limit:
            raise _too_large(code, limit)
        crowded = self._places.full_for(owner)
        body = _Body(
            request.receive,
            owner,
            code,
            limit=limit,
            patience=self._patience,
            min_rate=self._min_rate,
            deadline=asyncio.get_running_loop().time() + within,
        )
        with self._places.take(owner, over_limit=crowded and self._displace_slowest(owner)):
            self._open.add(body)
            try:
                yield body
            finally:
                self._open.discard(body)

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

    def __init__(
        self,
        receive: Receive,
        owner: str,
        code: ErrorCode,
        *,
        limit: int,
        patience: float,
        min_rate: float,
        deadline: float,
    ) -> None:
        self.owner = owner
        self._receive = receive
        self._code = code
        self._limit = self._room = limit
        self._patience = patience
        self._min_rate = min_rate
        self._deadline = deadline
        """When it must be whole, by the clock of the loop."""
        self._more = True
        self._left = patience
        """Seconds in hand when it last waited."""
        self._since: float | None = None
        self._wait: asyncio.Timeout | None = None
        self._displaced = False

    def in_hand(self, now: float) -> float:
        """Seconds in hand at this moment."""
        return self._left if self._since is None else self._left - (now - self._since)

    def displace(self) -> None:
        """Give its place to another."""
        self._displaced = True
        if self._wait is not None and not self._wait.expired():
            self._wait.reschedule(asyncio.get_running_loop().time())

    async def receive(self) -> bytes | None:
        """The next chunk; None after the last one.

        Raises:
            ProblemError: There are more bytes than the limit; 408, there is no time left.
            ClientDisconnect: The client hung up.
        """
        if not self._more:
            return None
        loop = asyncio.get_running_loop()
        self._since = now = loop.time()
        end = now if self._displaced else min(now + self._left, self._deadline)
        try:
            async with asyncio.timeout_at(end) as self._wait:
                message = await self._receive()
        except TimeoutError as error:
            text = "arrives too slowly" + (", and others wait" if self._displaced else "")
            raise _late(text) from error
        finally:
            self._left, self._since, self._wait = self.in_hand(loop.time()), None, None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self._more = message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        self._room -= len(chunk)
        if self._room < 0:
            raise _too_large(self._code, self._limit)
        self._left = min(self._left + len(chunk) / self._min_rate, self._patience)
        return chunk


def _too_large(code: ErrorCode, limit: int) -> ProblemError:
    return ProblemError(code, f"the body may have at most {limit} bytes")


def _late(text: str) -> ProblemError:
    return ProblemError(
        ErrorCode.INVALID_REQUEST,
        f"the body {text}",
        status=408,
        headers={"Connection": "close"},
    )
