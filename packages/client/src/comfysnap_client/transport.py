"""Sends requests: the only module that uses the HTTP library and sees its errors."""

import asyncio
import logging
import random
import ssl
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from comfysnap_client.errors import (
    APIError,
    ComfysnapError,
    ConnectionFailed,
    DeadlineExceeded,
    ServerError,
    UnexpectedResponse,
    api_error_type,
    chain,
)
from comfysnap_client.retry import NEVER, Deadline, RetryPolicy, retry_after
from comfysnap_schema.wire import PROBLEM_JSON, REQUEST_ID, Problem

logger: logging.Logger = logging.getLogger("comfysnap_client")
logger.addHandler(logging.NullHandler())  # silent unless the application sets up logging

ModelT = TypeVar("ModelT", bound=BaseModel)
T = TypeVar("T")

MAX_REDIRECTS = 20
"""Maximum number of 303 responses followed in one attempt; Modal sends one every 150 s."""

_RequestInfo = dict[str, Any]
"""The arguments common to all errors of an attempt."""

Content = bytes | Callable[[], AsyncIterator[bytes]]
"""A request body; a callable returns a new stream for each attempt."""


@dataclass(kw_only=True)
class Request:
    """One call, which may take several attempts."""

    method: str
    url: str
    """Relative to the base URL, or absolute."""
    params: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    content: Content | None = None
    hold: float = 0.0
    """Seconds that the server may hold the response."""
    job_id: str | None = None
    sent: bool = False
    """Whether the server may have received any part of it; False while only connecting."""


@dataclass(frozen=True, kw_only=True)
class ApiResponse:
    """A successful response, with its body read."""

    response: httpx.Response
    request_id: str
    attempts: int

    @property
    def retry_after(self) -> float | None:
        """The server's ``Retry-After`` in seconds."""
        return retry_after(self.response.headers)

    def parse(self, model: type[ModelT]) -> ModelT:
        """Parse the body as a model.

        Raises:
            UnexpectedResponse: The body is not valid.
        """
        return self._checked(model, lambda: model.model_validate_json(self.response.content))

    def parse_list(self, model: type[ModelT]) -> list[ModelT]:
        """Parse the body as a list of models.

        Raises:
            UnexpectedResponse: The body is not valid.
        """
        return self._checked(
            model, lambda: [model.model_validate(one) for one in self.response.json()]
        )

    def _checked(self, model: type[BaseModel], parse: Callable[[], T]) -> T:
        try:
            return parse()
        except (ValueError, TypeError) as error:
            raise UnexpectedResponse(
                f"{self.response.request.method} {self.response.request.url.path} "
                f"returned an invalid {model.__name__}",
                request_id=self.request_id,
                attempts=self.attempts,
                status=self.response.status_code,
            ) from error


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
            headers={"User-Agent": "comfysnap-client"},
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def send(
        self, request: Request, *, deadline: Deadline = NEVER, retry: RetryPolicy | None = None
    ) -> ApiResponse:
        """Send a request, with retries, and read the response.

        Raises:
            APIError: The server rejected the request.
            ConnectionFailed: No response after all attempts.
            UnexpectedResponse: The response is not one of this API.
            DeadlineExceeded: The deadline passed.
        """
        policy = retry or self.retry
        started = time.monotonic()
        attempt = 0
        failure: ComfysnapError | None = None
        while True:
            attempt += 1
            request_id = uuid.uuid4().hex
            limit = asyncio.timeout(deadline.remaining())
            try:
                async with limit, self._once(request, request_id) as response:
                    await response.aread()
                return ApiResponse(response=response, request_id=request_id, attempts=attempt)
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise self._timed_out(request, request_id, attempt, failure) from failure or error
            except _Retryable as retryable:
                failure = retryable.error
            failure.attempts = attempt
            pause = policy.pause(
                attempt,
                time.monotonic() - started,
                retry_after=failure.retry_after,
                rand=random.random(),  # noqa: S311 -- spreads load, not security
            )
            if pause is None:
                raise failure
            if not deadline.allows(pause):
                raise self._timed_out(request, request_id, attempt, failure) from failure
            logger.warning(
                "%s %s: %s; attempt %d in %.1f s",
                request.method, _path(request.url), failure.message, attempt + 1, pause,
                extra={"job_id": request.job_id, "request_id": request_id},
            )  # fmt: skip
            await asyncio.sleep(pause)

    async def once(self, request: Request) -> ApiResponse:
        """Send a request in a single attempt and read the response.

        Raises:
            APIError: The server rejected the request.
            ConnectionFailed: The connection failed.
            UnexpectedResponse: The response is not one of this API.
        """
        request_id = uuid.uuid4().hex
        async with self.stream(request, request_id=request_id) as response:
            await response.aread()
        return ApiResponse(response=response, request_id=request_id, attempts=1)

    @asynccontextmanager
    async def stream(
        self, request: Request, *, request_id: str | None = None
    ) -> AsyncGenerator[httpx.Response]:
        """Send a request in a single attempt; the caller reads the body.

        Raises:
            APIError: The server rejected the request.
            ConnectionFailed: The connection failed, also while the body is read.
            UnexpectedResponse: The response is not one of this API.
        """
        try:
            async with self._once(request, request_id or uuid.uuid4().hex) as response:
                yield response
        except _Retryable as retryable:
            raise retryable.error from retryable.error.__cause__

    @asynccontextmanager
    async def _once(self, request: Request, request_id: str) -> AsyncGenerator[httpx.Response]:
        """Make one attempt, following redirects; the body is not read yet."""
        info: _RequestInfo = {"request_id": request_id, "job_id": request.job_id, "attempts": 1}
        try:
            response = await self._follow(request, info)
            try:
                if response.status_code >= 300:
                    await response.aread()
                    raise self._error(response, info)
                yield response
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            failed = ConnectionFailed(_network_sentence(error), **info)
            failed.__cause__ = error
            if _is_permanent(error):
                raise failed from error
            raise _Retryable(failed) from error

    async def _follow(self, request: Request, info: _RequestInfo) -> httpx.Response:
        response = await self._client.send(
            self._build(request, info["request_id"]), stream=True, follow_redirects=False
        )
        for _ in range(MAX_REDIRECTS):
            if response.status_code != 303:
                return response
            await response.aclose()
            target = response.url.join(response.headers.get("location", ""))
            if _origin(target) != _origin(response.url) or "location" not in response.headers:
                raise UnexpectedResponse(
                    f"refusing to follow a redirect away from {response.url.host}",
                    status=303, **info,
                )  # fmt: skip
            follow = Request(method="GET", url=str(target), hold=request.hold)
            response = await self._client.send(
                self._build(follow, info["request_id"]), stream=True, follow_redirects=False
            )
        await response.aclose()
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
        return absolute, _origin(absolute) == _origin(self.base)

    def _error(self, response: httpx.Response, info: _RequestInfo) -> Exception:
        """The exception for an error response."""
        status = response.status_code
        details = {**info, "request_id": response.headers.get(REQUEST_ID) or info["request_id"]}
        seconds = retry_after(response.headers)
        problem = _problem(response)
        error: ComfysnapError
        if problem is not None:
            error = api_error_type(problem, status)(
                problem, status=status, retry_after=seconds, **details
            )
        elif self.retry.retries(status) or response.request.method == "HEAD":
            title = f"the server returned {status} {response.reason_phrase}".rstrip()
            unnamed = Problem(title=title, status=status, code=f"http_{status}")
            error = api_error_type(unnamed, status)(
                unnamed, status=status, retry_after=seconds, **details
            )
        else:
            error = UnexpectedResponse(
                _unexpected_sentence(response), status=status, retry_after=seconds, **details
            )
        return _Retryable(error) if self.retry.retries(status) else error

    def _timed_out(
        self, request: Request, request_id: str, attempts: int, failure: ComfysnapError | None
    ) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"{request.method} {_path(request.url)} timed out",
            job_id=request.job_id,
            request_id=request_id,
            attempts=attempts,
            status=failure.status if failure else None,
        )


class _Retryable(Exception):
    """Wraps an error that may not occur on another attempt."""

    def __init__(self, error: ComfysnapError) -> None:
        self.error = error
        super().__init__(str(error))


def is_transient(error: ComfysnapError) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, APIError):
        return isinstance(error, ServerError) or error.status in (408, 425, 429)
    return isinstance(error, ConnectionFailed) and not _is_permanent(error.__cause__)


def job_url(route: str, job_id: str) -> str:
    """The relative URL of a job's route."""
    if not job_id or not all(
        char.isascii() and (char.isalnum() or char in "_-") for char in job_id
    ):
        raise ValueError(f"{job_id!r} is not a valid job ID")
    return f"{route[1:]}/{job_id}"


def _problem(response: httpx.Response) -> Problem | None:
    if not response.headers.get("content-type", "").startswith(PROBLEM_JSON):
        return None
    try:
        return Problem.model_validate_json(response.content)
    except ValidationError:
        return None


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    default = {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, url.port or default


def _path(url: str) -> str:
    """The path alone: a query may contain a signature."""
    return httpx.URL(url).path


def _is_permanent(error: BaseException | None) -> bool:
    """Whether retrying is pointless: an invalid URL or certificate."""
    if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
        return True
    return any(isinstance(one, ssl.SSLCertVerificationError) for one in chain(error))


def _network_sentence(error: Exception) -> str:
    kinds: dict[type[Exception], str] = {
        httpx.ConnectTimeout: "timed out connecting",
        httpx.ReadTimeout: "timed out waiting for data from the server",
        httpx.WriteTimeout: "timed out sending data to the server",
        httpx.ConnectError: "cannot connect",
    }
    kind = kinds.get(type(error), "the connection failed")
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        kind += f" to {error.request.url.scheme}://{error.request.url.netloc.decode()}"
    return f"{kind}: {error}" if str(error) else kind


def _unexpected_sentence(response: httpx.Response) -> str:
    text = f"unexpected response with status {response.status_code}, not a problem+json document"
    if response.is_redirect:
        target = response.url.join(response.headers["location"]).copy_with(query=None)
        text = f"the server redirects ({response.status_code}) to {target}; use that URL instead"
    return text
