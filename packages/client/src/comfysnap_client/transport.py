"""Sends requests: the only module that uses the HTTP library and sees its errors."""

import asyncio
import logging
import random
import ssl
import time
import uuid
import zlib
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from comfysnap_client.errors import (
    APIError,
    ComfysnapError,
    ConnectionFailed,
    DeadlineExceeded,
    UnexpectedResponse,
    api_error_type,
    chain,
)
from comfysnap_client.requests import Request
from comfysnap_client.retry import NEVER, NO_RETRY, Deadline, RetryPolicy, retry_after
from comfysnap_schema.wire import PROBLEM_JSON, REQUEST_ID, Problem

logger: logging.Logger = logging.getLogger("comfysnap_client")
logger.addHandler(logging.NullHandler())  # silent unless the application sets up logging

ModelT = TypeVar("ModelT", bound=BaseModel)

MAX_REDIRECTS = 20
"""Maximum number of 303 responses followed in one attempt; Modal sends one every 150 s."""
MAX_JSON_BYTES = 32 * 1024 * 1024
"""Maximum size of a response, decompressed: a server ends a page of jobs after 8 Mi characters,
which UTF-8 may triple, and one more job."""
MAX_ERROR_BYTES = 1024 * 1024
"""Maximum size of an error's body: a problem for each node of a large graph fits."""
CHUNK_BYTES = 256 * 1024
"""Maximum size of the pieces in which a compressed body is decompressed."""

# The last one comes from host names that cannot be looked up.
_INVALID = (
    httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, UnicodeError,
)  # fmt: skip

NOT_CONNECTED = (httpx.ConnectError, httpx.ConnectTimeout)
"""Network errors before anything was sent."""

_RequestInfo = dict[str, Any]
"""The arguments common to all errors of an attempt."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A successful response, with its body read."""

    name: str
    """Method and path of the request."""
    body: bytes
    retry_after: float | None
    """The server's ``Retry-After`` in seconds."""
    info: _RequestInfo

    def parse(self, model: type[ModelT]) -> ModelT:
        """Parse the body as a model.

        Raises:
            UnexpectedResponse: The body is not valid.
        """
        try:
            return model.model_validate_json(self.body)
        except ValidationError as error:
            raise UnexpectedResponse(
                f"{self.name} returned an invalid {model.__name__}", **self.info
            ) from error


@dataclass(frozen=True, kw_only=True)
class Response:
    """A response whose body is not read yet."""

    raw: httpx.Response
    info: _RequestInfo

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.raw.status_code

    def header(self, name: str) -> str:
        """The value of a header, empty if it is missing."""
        return self.raw.headers.get(name, "")

    def unexpected(self, message: str) -> UnexpectedResponse:
        """The error for a response that is not one of this API."""
        return UnexpectedResponse(message, status=self.status, **self.info)

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the body, decompressed in pieces of bounded size.

        Raises:
            UnexpectedResponse: The compression is invalid or unknown.
        """
        if self.raw.is_stream_consumed:  # by an event hook, or by a transport for tests
            yield self.raw.content
            return
        encoding = self.header("content-encoding").strip().lower()
        if encoding in ("", "identity"):
            async for chunk in self.raw.aiter_raw():
                yield chunk
            return
        if encoding != "gzip":
            raise self.unexpected(f"the content encoding {encoding!r} is not supported")
        decoder = zlib.decompressobj(wbits=31)
        async for chunk in self.raw.aiter_raw():
            rest, piece = chunk, b"more"
            while piece and not decoder.eof:
                try:
                    piece = decoder.decompress(rest, CHUNK_BYTES)
                except zlib.error as error:
                    raise self.unexpected("the response is not valid gzip") from error
                rest = decoder.unconsumed_tail
                yield piece
            if decoder.eof:
                return

    async def read(self, limit: int) -> bytes:
        """Return the whole body.

        Raises:
            UnexpectedResponse: It is larger than ``limit`` bytes, or its compression is invalid.
        """
        body = bytearray()
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > limit:
                    raise self.unexpected(f"the response is larger than {limit} bytes")
        return bytes(body)


class Attempts:
    """The attempts of one call: counts them, and pauses in between."""

    def __init__(
        self,
        policy: RetryPolicy,
        request: Request,
        deadline: Deadline = NEVER,
        *,
        reached: Callable[[], bool] = lambda: True,
    ) -> None:
        self._reached = reached
        self.count: int = 1
        self.request_id: str = uuid.uuid4().hex
        self._failure: ComfysnapError | None = None
        self._policy = policy
        self._request = request
        self._deadline = deadline
        self._started = time.monotonic()

    async def pause(self, failure: ComfysnapError) -> None:
        """Wait before the next attempt.

        Raises:
            ComfysnapError: ``failure``, if another attempt is pointless.
            DeadlineExceeded: The pause would not end before the deadline.
        """
        failure.attempts = self.count
        self._failure = failure
        pause = self._policy.pause(
            self.count,
            time.monotonic() - self._started,
            retry_after=failure.retry_after,
            rand=random.random(),  # noqa: S311 -- spreads load, not security
            reached=self._reached() or not isinstance(failure.__cause__, NOT_CONNECTED),
        )
        if pause is None or not is_transient(failure):
            raise failure
        if not self._deadline.allows(pause):
            raise self.timed_out() from failure
        self.count += 1
        logger.warning(
            "%s: %s; attempt %d in %.1f s", self._request.name, failure.message, self.count, pause,
            extra={"job_id": failure.job_id, "request_id": failure.request_id},
        )  # fmt: skip
        await asyncio.sleep(pause)
        self.request_id = uuid.uuid4().hex

    def timed_out(self) -> DeadlineExceeded:
        """The error for the end of the deadline."""
        error = DeadlineExceeded(
            f"{self._request.name} timed out", job_id=self._request.job_id,
            request_id=self.request_id, attempts=self.count,
            status=self._failure.status if self._failure else None,
        )  # fmt: skip
        error.__cause__ = self._failure
        return error


class Transport:
    """Sends requests to one server, with retries, deadlines, 303 redirects and its own errors."""

    def __init__(
        self,
        base_url: str,
        *,
        credentials: Mapping[str, str],
        connect_timeout: float,
        read_timeout: float,
        max_connections: int,
        retry: RetryPolicy,
        transport: httpx.AsyncBaseTransport | None,
        event_hooks: Mapping[str, list[Callable[..., Any]]] | None,
    ) -> None:
        self.base: httpx.URL = httpx.URL(base_url if base_url.endswith("/") else base_url + "/")
        self._base_text = str(self.base)
        self.retry = retry
        self._reached = False
        self._credentials = credentials
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        # Common servers close idle connections after 5 s: stay below, or requests hit closed ones.
        limits = httpx.Limits(
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=4.0,
        )
        self._client = httpx.AsyncClient(
            transport=transport,
            limits=limits,
            event_hooks={name: list(hooks) for name, hooks in (event_hooks or {}).items()},
            headers={"User-Agent": "comfysnap-client", "Accept-Encoding": "gzip"},
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def send(
        self, request: Request, deadline: Deadline = NEVER, *, retry: RetryPolicy | None = None
    ) -> Reply:
        """Send a request, with retries, and read the response.

        Raises:
            APIError: The server rejected the request.
            ConnectionFailed: No response after all attempts.
            UnexpectedResponse: The response is not one of this API.
            DeadlineExceeded: The deadline passed.
        """
        attempts = Attempts(retry or self.retry, request, deadline, reached=lambda: self._reached)
        async with deadline.enforced(attempts.timed_out):
            while True:
                try:
                    async with self.stream(request, request_id=attempts.request_id) as response:
                        body = await response.read(MAX_JSON_BYTES)
                except ComfysnapError as failure:
                    await attempts.pause(failure)
                    continue
                return Reply(
                    name=request.name, body=body, retry_after=retry_after(response.raw.headers),
                    info={
                        **response.info, "attempts": attempts.count, "status": response.status
                    },
                )  # fmt: skip

    @asynccontextmanager
    async def stream(
        self, request: Request, *, request_id: str | None = None
    ) -> AsyncGenerator[Response]:
        """Send a request in a single attempt, following redirects; the caller reads the body.

        Raises:
            APIError: The server rejected the request.
            ConnectionFailed: The connection failed, also while the body is read.
            UnexpectedResponse: The response is not one of this API.
        """
        info: _RequestInfo = {
            "request_id": request_id or uuid.uuid4().hex, "job_id": request.job_id, "attempts": 1,
        }  # fmt: skip
        try:
            response = Response(raw=await self._follow(request, info), info=info)
            try:
                if response.status >= 300:
                    raise await _error(response)
                yield response
            finally:
                await response.raw.aclose()
        except (httpx.HTTPError, httpx.StreamError, *_INVALID) as error:
            raise ConnectionFailed(_network_sentence(error), **info) from error

    async def _follow(self, request: Request, info: _RequestInfo) -> httpx.Response:
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._client.send(
                self._build(request, info["request_id"]), stream=True, follow_redirects=False
            )
            self._reached = True
            if response.status_code != 303:
                return response
            await response.aclose()
            target = _location(response)
            if target is None or _origin(target) != _origin(response.url):
                raise UnexpectedResponse(
                    f"refusing to follow a redirect away from {response.url.host}",
                    status=303, **info,
                )  # fmt: skip
            request = Request(method="GET", url=str(target), hold=request.hold)
        raise UnexpectedResponse(f"more than {MAX_REDIRECTS} redirects", status=303, **info)

    def _build(self, request: Request, request_id: str) -> httpx.Request:
        url, is_own = self._resolve(request.url)
        headers = {REQUEST_ID: request_id, **request.headers}
        if is_own:
            headers.update(self._credentials)
        content = request.content() if callable(request.content) else request.content
        timeout = httpx.Timeout(
            self._read_timeout, connect=self._connect_timeout,
            read=self._read_timeout + request.hold, pool=None,
        )  # fmt: skip
        built = self._client.build_request(
            request.method, url, params=request.params or None, headers=headers, content=content,
            timeout=timeout,
        )  # fmt: skip
        before, request.sent = request.sent, True
        if request.method == "GET":
            return built  # repeating a GET is harmless: ``sent`` is not needed

        async def trace(name: str, _info: dict[str, Any]) -> None:
            if name == "connection.connect_tcp.started":
                request.sent = before
            elif name.endswith("send_request_headers.started"):
                request.sent = True

        built.extensions["trace"] = trace
        return built

    def _resolve(self, url: str) -> tuple[httpx.URL, bool]:
        """The absolute URL, and whether it is on this server, which may see the credentials."""
        if url[:1].isalnum() and ":" not in url:
            return httpx.URL(f"{self._base_text}{url}"), True
        absolute = self.base.join(url)
        if (absolute.port or 0) >= 65536:
            raise httpx.InvalidURL("the port must be below 65536")
        return absolute, _origin(absolute) == _origin(self.base)


async def _error(response: Response) -> ComfysnapError:
    """The exception for an error response."""
    try:
        body = await response.read(MAX_ERROR_BYTES)
    except UnexpectedResponse:
        body = b""
    status = response.status
    problem = None
    if response.header("content-type").startswith(PROBLEM_JSON):
        with suppress(ValidationError):
            problem = Problem.model_validate_json(body)
    if problem is None:
        if not NO_RETRY.retries(status) and response.raw.request.method != "HEAD":
            return response.unexpected(_unexpected_sentence(response.raw))
        title = f"the server returned {status} {response.raw.reason_phrase}".rstrip()
        problem = Problem(title=title, status=status, code=f"http_{status}")
    details: _RequestInfo = {
        **response.info,
        "request_id": response.header(REQUEST_ID) or response.info["request_id"],
        "retry_after": retry_after(response.raw.headers),
    }
    return api_error_type(problem, status)(problem, status=status, **details)


def is_transient(error: ComfysnapError) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, APIError):
        return error.status is not None and NO_RETRY.retries(error.status)
    return isinstance(error, ConnectionFailed) and not _is_permanent(error.__cause__)


def is_header_value(text: str) -> bool:
    """Whether a header can be sent with this value."""
    return text.isascii() and text.isprintable() and text == text.strip()


def checked_url(base_url: str) -> str:
    """``base_url`` without a trailing slash.

    Raises:
        ValueError: Not an http(s) URL, or one with credentials, a query or a fragment.
    """
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError):
        raise ValueError("base_url is not a valid URL") from None
    if url.scheme not in ("http", "https") or not url.host or not 0 < (url.port or 80) < 65536:
        raise ValueError(
            "base_url must start with http:// or https://, for example http://127.0.0.1:8000"
        )
    if url.userinfo or url.query or url.fragment:
        raise ValueError(
            "base_url must not contain credentials, a query or a fragment; use api_key"
        )
    return base_url.rstrip("/")


def credentials(
    api_key: str | None, modal_key: str | None, modal_secret: str | None
) -> dict[str, str]:
    """The authentication headers.

    Raises:
        ValueError: Only half of a proxy token, or a key with characters not allowed in a header.
    """
    if (modal_key is None) != (modal_secret is None):
        raise ValueError("modal_key and modal_secret must be set together")
    headers: dict[str, str] = {}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    if modal_key is not None and modal_secret is not None:
        headers.update({"Modal-Key": modal_key, "Modal-Secret": modal_secret})
    for value in headers.values():
        if not is_header_value(value):
            raise ValueError("a key must contain only printable ASCII characters")
    return headers


def _location(response: httpx.Response) -> httpx.URL | None:
    """The target of a redirect, or None if it is missing or invalid."""
    try:
        target = response.url.join(response.headers["location"])
        known = bool(target.host)
    except (KeyError, UnicodeError, httpx.InvalidURL):
        return None
    return target if known else None


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    default = {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, url.port or default


def _is_permanent(error: BaseException | None) -> bool:
    """Whether retrying is pointless: an invalid URL or certificate."""
    return isinstance(error, _INVALID) or any(
        isinstance(one, ssl.SSLCertVerificationError) for one in chain(error)
    )


def _network_sentence(error: Exception) -> str:
    kinds: dict[type[Exception], str] = {
        httpx.ConnectTimeout: "timed out connecting",
        httpx.ReadTimeout: "timed out waiting for data from the server",
        httpx.WriteTimeout: "timed out sending data to the server",
        httpx.ConnectError: "cannot connect",
        httpx.InvalidURL: "not a valid URL",
    }
    kind = kinds.get(type(error), "the connection failed")
    if not isinstance(error, NOT_CONNECTED):
        return f"{kind}: {error}" if str(error) else kind
    reason = f" ({error})" if str(error) else ""
    server = f"{error.request.url.scheme}://{error.request.url.netloc.decode()}"
    return f"{kind} to {server}{reason}: check the URL, or start a server with `comfysnap serve`"


def _unexpected_sentence(response: httpx.Response) -> str:
    target = _location(response) if response.is_redirect else None
    if target is None:
        return (
            f"unexpected response with status {response.status_code}, not a problem+json document"
        )
    url = target.copy_with(query=None)
    return f"the server redirects ({response.status_code}) to {url}; use that URL instead"
