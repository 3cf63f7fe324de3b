"""The one place that sends requests and sees errors of the HTTP library."""

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

from comfysnap_client.deadline import NEVER, Deadline
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
from comfysnap_client.retry import RetryPolicy, retry_after
from comfysnap_schema.wire import PROBLEM_JSON, REQUEST_ID, Problem

logger: logging.Logger = logging.getLogger("comfysnap_client")
logger.addHandler(logging.NullHandler())  # silent unless the application sets up logging

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

MAX_REDIRECTS = 20
"""303 answers followed in one attempt; Modal sends one for each 150 s that an answer takes."""

_Facts = dict[str, Any]
"""What every error of an attempt carries."""

Content = bytes | Callable[[], AsyncIterator[bytes]]
"""A body; a callable makes a fresh stream for each attempt."""


@dataclass(kw_only=True)
class Request:
    """One call, whatever number of attempts it takes."""

    method: str
    url: str
    """Relative to the base address, or absolute."""
    params: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    content: Content | None = None
    hold: float = 0.0
    """Seconds the server may hold its answer."""
    job_id: str | None = None
    sent: bool = False
    """Whether bytes of an attempt may have left; False again while it only connects."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response that is no error, read whole."""

    response: httpx.Response
    request_id: str
    attempts: int

    @property
    def pace(self) -> float | None:
        """The server's ``Retry-After`` in seconds."""
        return retry_after(self.response.headers)

    def parse(self, model: type[M]) -> M:
        """The body as a model.

        Raises:
            UnexpectedResponse: It is none.
        """
        return self._checked(model, lambda: model.model_validate_json(self.response.content))

    def parse_list(self, model: type[M]) -> list[M]:
        """The body as a list of models.

        Raises:
            UnexpectedResponse: It is none.
        """
        return self._checked(
            model, lambda: [model.model_validate(one) for one in self.response.json()]
        )

    def _checked(self, model: type[BaseModel], parse: Callable[[], T]) -> T:
        try:
            return parse()
        except (ValueError, TypeError) as error:
            raise UnexpectedResponse(
                f"the answer to {self.response.request.method} {self.response.request.url.path} "
                f"is no {model.__name__}",
                request_id=self.request_id,
                attempts=self.attempts,
                status=self.response.status_code,
            ) from error


class Http:
    """Sends requests to one server: retries, deadlines, 303 by hand, errors of this package."""

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
        # Below the 5 s for which common servers keep an idle connection: none is used as it dies.
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
    ) -> Answer:
        """Send until an answer comes that is worth no retry.

        Raises:
            APIError: The server refused.
            ConnectionFailed: No answer after every attempt.
            UnexpectedResponse: Something else answered.
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
                return Answer(response=response, request_id=request_id, attempts=attempt)
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise self._late(request, request_id, attempt, failure) from failure or error
            except _Retryable as retryable:
                failure = retryable.error
            failure.attempts = attempt
            pause = policy.pause(
                attempt,
                time.monotonic() - started,
                retry_after=failure.retry_after,
                draw=random.random(),  # noqa: S311 -- spreads load, guards nothing
            )
            if pause is None:
                raise failure
            if not deadline.allows(pause):
                raise self._late(request, request_id, attempt, failure) from failure
            logger.warning(
                "%s %s: %s; attempt %d follows in %.1f s",
                request.method, _path(request.url), failure.message, attempt + 1, pause,
                extra={"job_id": request.job_id, "request_id": request_id},
            )  # fmt: skip
            await asyncio.sleep(pause)

    async def once(self, request: Request) -> Answer:
        """One attempt, read whole.

        Raises:
            APIError: The server refused.
            ConnectionFailed: The connection failed or broke.
            UnexpectedResponse: Something else answered.
        """
        request_id = uuid.uuid4().hex
        async with self.stream(request, request_id=request_id) as response:
            await response.aread()
        return Answer(response=response, request_id=request_id, attempts=1)

    @asynccontextmanager
    async def stream(
        self, request: Request, *, request_id: str | None = None
    ) -> AsyncGenerator[httpx.Response]:
        """One attempt whose body the caller reads; errors of the body come out as ours too.

        Raises:
            APIError: The server refused.
            ConnectionFailed: The connection failed or broke.
            UnexpectedResponse: Something else answered.
        """
        try:
            async with self._once(request, request_id or uuid.uuid4().hex) as response:
                yield response
        except _Retryable as retryable:
            raise retryable.error from retryable.error.__cause__

    @asynccontextmanager
    async def _once(self, request: Request, request_id: str) -> AsyncGenerator[httpx.Response]:
        """One attempt, redirects included; the body is not read yet."""
        facts: _Facts = {"request_id": request_id, "job_id": request.job_id, "attempts": 1}
        try:
            response = await self._follow(request, facts)
            try:
                if response.status_code >= 300:
                    await response.aread()
                    raise self._refused(response, facts)
                yield response
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            failed = ConnectionFailed(_network_sentence(error), **facts)
            failed.__cause__ = error
            if _is_permanent(error):
                raise failed from error
            raise _Retryable(failed) from error

    async def _follow(self, request: Request, facts: _Facts) -> httpx.Response:
        response = await self._client.send(
            self._build(request, facts["request_id"]), stream=True, follow_redirects=False
        )
        for _ in range(MAX_REDIRECTS):
            if response.status_code != 303:
                return response
            await response.aclose()
            target = response.url.join(response.headers.get("location", ""))
            if _origin(target) != _origin(response.url) or "location" not in response.headers:
                raise UnexpectedResponse(
                    f"a 303 leads away from {response.url.host}: not followed",
                    status=303, **facts,
                )  # fmt: skip
            follow = Request(method="GET", url=str(target), hold=request.hold)
            response = await self._client.send(
                self._build(follow, facts["request_id"]), stream=True, follow_redirects=False
            )
        await response.aclose()
        raise UnexpectedResponse(f"more than {MAX_REDIRECTS} redirects", status=303, **facts)

    def _build(self, request: Request, request_id: str) -> httpx.Request:
        url, own = self._resolve(request.url)
        headers = {REQUEST_ID: request_id, **request.headers}
        if own:
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
            return built  # read again at will: nobody asks whether it was sent

        async def trace(name: str, _info: dict[str, Any]) -> None:
            if name == "connection.connect_tcp.started":
                request.sent = before
            elif name.endswith("send_request_headers.started"):
                request.sent = True

        built.extensions["trace"] = trace
        return built

    def _resolve(self, url: str) -> tuple[httpx.URL, bool]:
        """The whole address, and whether it is on this server and may see the credentials."""
        if url[:1].isalnum() and ":" not in url:
            return httpx.URL(f"{self._base_text}{url}"), True
        whole = self.base.join(url)
        return whole, _origin(whole) == _origin(self.base)

    def _refused(self, response: httpx.Response, facts: _Facts) -> Exception:
        """The error of an answer that is no success."""
        status = response.status_code
        known = {**facts, "request_id": response.headers.get(REQUEST_ID) or facts["request_id"]}
        hint = retry_after(response.headers)
        problem = _problem(response)
        error: ComfysnapError
        if problem is not None:
            error = api_error_type(problem, status)(
                problem, status=status, retry_after=hint, **known
            )
        elif self.retry.retries(status) or response.request.method == "HEAD":
            title = f"the server answered {status} {response.reason_phrase}".rstrip()
            unnamed = Problem(title=title, status=status, code=f"http_{status}")
            error = api_error_type(unnamed, status)(
                unnamed, status=status, retry_after=hint, **known
            )
        else:
            error = UnexpectedResponse(
                _unexpected_sentence(response), status=status, retry_after=hint, **known
            )
        return _Retryable(error) if self.retry.retries(status) else error

    def _late(
        self, request: Request, request_id: str, attempts: int, failure: ComfysnapError | None
    ) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"no result of {request.method} {_path(request.url)} in time",
            job_id=request.job_id,
            request_id=request_id,
            attempts=attempts,
            status=failure.status if failure else None,
        )


class _Retryable(Exception):
    """Carries an error that another attempt may cure."""

    def __init__(self, error: ComfysnapError) -> None:
        self.error = error
        super().__init__(str(error))


def is_transient(error: ComfysnapError) -> bool:
    """Whether the same request may well succeed later."""
    if isinstance(error, APIError):
        return isinstance(error, ServerError) or error.status in (408, 425, 429)
    return isinstance(error, ConnectionFailed) and not _is_permanent(error.__cause__)


def job_url(route: str, job_id: str) -> str:
    """The relative address of a job's route."""
    if not job_id or not all(
        char.isascii() and (char.isalnum() or char in "_-") for char in job_id
    ):
        raise ValueError(f"{job_id!r} is no job id")
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
    """Without the query, which may hold a signature."""
    return httpx.URL(url).path


def _is_permanent(error: BaseException | None) -> bool:
    """Whether trying again is of no use: a bad address, a bad certificate."""
    if isinstance(error, (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
        return True
    return any(isinstance(one, ssl.SSLCertVerificationError) for one in chain(error))


def _network_sentence(error: Exception) -> str:
    kinds: dict[type[Exception], str] = {
        httpx.ConnectTimeout: "no connection in time",
        httpx.ReadTimeout: "the server fell silent",
        httpx.WriteTimeout: "the server stopped reading",
        httpx.ConnectError: "cannot connect",
    }
    kind = kinds.get(type(error), "the connection failed")
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        kind += f" to {error.request.url.scheme}://{error.request.url.netloc.decode()}"
    return f"{kind}: {error}" if str(error) else kind


def _unexpected_sentence(response: httpx.Response) -> str:
    text = f"the server answered {response.status_code} without a problem description"
    if response.is_redirect:
        target = response.url.join(response.headers["location"]).copy_with(query=None)
        text = f"the server redirects ({response.status_code}) to {target}: use that address"
    return text
