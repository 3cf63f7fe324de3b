"""What surrounds every request: its id, owner and origin, and unforeseen errors."""

import logging
import math
import re
import secrets
import time
from collections.abc import Mapping
from typing import Final

from starlette.datastructures import Headers, QueryParams
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from comfysnap_schema.wire import BudgetName, ErrorCode, routes
from comfysnap_server.errors import BackendError
from comfysnap_server.gateway import docs_page
from comfysnap_server.gateway.auth import Access, Authenticator, check_scope
from comfysnap_server.gateway.capacity import FullLog
from comfysnap_server.gateway.links import Links, is_linkable
from comfysnap_server.gateway.metrics import Metrics
from comfysnap_server.gateway.page.routes import is_page
from comfysnap_server.gateway.problems import (
    PROBLEM_KEY,
    REQUEST_ID_KEY,
    ProblemError,
    problem_of,
    problem_response,
)
from comfysnap_server.gateway.rate import RateLimiter
from comfysnap_server.gateway.settings import GatewaySettings
from comfysnap_server.logs import every_line, fields

log = logging.getLogger("comfysnap.gateway")

ACCESS_KEY: Final = "comfysnap.access"
"""Where the ``Access`` of the request stands in the ASGI scope."""
_RATE_KEY: Final = "comfysnap.rate"
"""Where the headers about the request budget stand."""
_LINK_KEY: Final = "comfysnap.link"
"""Where the seconds stand that the link of the request is still valid."""

_OPEN: Final = frozenset({routes.HEALTH, routes.READY, *docs_page.PAGES})
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SAME_SITE: Final = frozenset({"same-origin", "none"})


class GatewayMiddleware:
    """Pure ASGI, so that it costs the hot path next to nothing and leaves streams alone."""

    def __init__(
        self,
        app: ASGIApp,
        auth: Authenticator,
        settings: GatewaySettings,
        links: Links,
        rates: RateLimiter,
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._auth = auth
        self._settings = settings
        self._links = links
        self._rates = rates
        self._foreign = FullLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        scope[REQUEST_ID_KEY] = request_id
        with every_line(request=request_id, client=client and client[0]):
            await self._handle(scope, headers, receive, send)

    async def _handle(self, scope: Scope, given: Headers, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        request_id = scope[REQUEST_ID_KEY]
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    *scope.get(_RATE_KEY, ()),
                ]
                if _LINK_KEY in scope:
                    _hide_link(message, scope[_LINK_KEY])
            await send(message)

        try:
            self._check_preflight(scope["method"], given)
            await self._admit(scope, given)
            await self._app(scope, receive, send_with_id)
        except ProblemError as error:
            await problem_response(scope, error)(scope, receive, send_with_id)
        except BackendError as error:  # Modal does not say which key signs links
            await problem_response(scope, problem_of(error))(scope, receive, send_with_id)
        except ClientDisconnect:
            log.debug("%s %r: the client hung up", scope["method"], scope["path"])
        except Exception:
            log.exception("%s %r failed", scope["method"], scope["path"])
            if status:
                raise
            error = ProblemError(
                ErrorCode.INTERNAL, "the server failed; its log has the request id"
            )
            await problem_response(scope, error)(scope, receive, send_with_id)
        finally:
            self._metrics.request(scope, status)
            if log.isEnabledFor(logging.DEBUG):
                log.debug(
                    "%s %r",
                    scope["method"],
                    scope["path"],
                    extra=fields(
                        status=status,
                        **_who(scope),
                        error=scope.get(PROBLEM_KEY),
                        seconds=round(time.perf_counter() - started, 6),
                    ),
                )

    async def _admit(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Refuse who may not pass; note what the others may do."""
        self._check_host(headers)
        if scope["path"] in _OPEN or is_page(scope["path"]):
            return
        access = await self._by_link(scope) or self._auth.access(headers)
        if access is None:
            raise _unauthorized("send a valid key as 'Authorization: Bearer KEY'")
        self._check_rate(access, scope)
        check_scope(access, scope["method"], scope["path"])
        scope[ACCESS_KEY] = access

    async def _by_link(self, scope: Scope) -> Access | None:
        """What the token in the query opens; None without one."""
        if not is_linkable(scope["path"]) or scope["method"] not in ("GET", "HEAD"):
            return None
        token = QueryParams(scope["query_string"]).get(routes.LINK_PARAMETER)
        if token is None:
            return None
        scope[_LINK_KEY] = 0
        opened = await self._links.opened(scope["path"], token)
        if opened is None:
            raise _unauthorized("the link has expired or is not valid; ask for a new one")
        owner, scope[_LINK_KEY] = opened
        return self._auth.by_link(owner)

    def _check_rate(self, access: Access, scope: Scope) -> None:
        limit = access.requests_per_minute
        if limit is None:
            return
        now = time.monotonic()
        bucket = self._rates.bucket(access.bucket, limit, now)
        wait = bucket.take(now)
        scope[_RATE_KEY] = bucket.headers(now)
        if wait:
            raise ProblemError(
                ErrorCode.RATE_LIMITED,
                f"more than {limit} requests in a minute, or {bucket.at_once} at once",
                budget=BudgetName.REQUESTS_PER_MINUTE,
                limit=limit,
                retry_after=math.ceil(wait),
            )

    def _check_host(self, headers: Mapping[str, str]) -> None:
        """Where no key is sent, a stranger's web page can get here through a reader's browser: by
        DNS rebinding (a foreign Host) or by a cross-origin request. A proxy that knows its user by
        a cookie lets it pass."""
        settings = self._settings
        host = headers.get("host", "")
        if settings.hosts and _host_name(host) not in settings.hosts:
            raise ProblemError(
                ErrorCode.FORBIDDEN,
                f"this server does not answer to the host name {_host_name(host)[:100]!r};"
                " allow it in [serve] hosts",
            )
        origin = headers.get("origin")
        if settings.auth == "keys" or origin is None or origin in settings.origins:
            return
        site = headers.get("sec-fetch-site")
        if site not in _SAME_SITE and origin.partition("://")[2] != host:
            raise _foreign(origin)

    def _check_preflight(self, method: str, headers: Mapping[str, str]) -> None:
        """Refuse a browser's question for a page that may not call, with the reason: it carries no
        key, and those of allowed pages are answered before they come here."""
        origin = headers.get("origin")
        if method == "OPTIONS" and origin and "access-control-request-method" in headers:
            error = _foreign(origin)
            self._foreign.warn("%s", error)
            raise error


class AllowedPages(CORSMiddleware):
    """CORS for the pages of ``[serve] origins``. Preflights of others go on to the gateway, whose
    refusal names the setting."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        origin = Headers(scope=scope).get("origin") if scope["type"] == "http" else None
        app = super().__call__ if origin and self.is_allowed_origin(origin) else self.app
        await app(scope, receive, send)


def _who(scope: Scope) -> dict[str, str | None]:
    access: Access | None = scope.get(ACCESS_KEY)
    return {} if access is None else {"owner": access.owner, "key": access.key}


def _foreign(origin: str) -> ProblemError:
    return ProblemError(
        ErrorCode.FORBIDDEN,
        f"pages of {origin[:200]!r} may not call this server; allow them in [serve] origins",
    )


def _unauthorized(detail: str) -> ProblemError:
    return ProblemError(ErrorCode.UNAUTHORIZED, detail, headers={"WWW-Authenticate": "Bearer"})


def _hide_link(message: Message, seconds: int) -> None:
    """Keep the URL with the token from other sites, and the response from shared caches."""
    headers: list[tuple[bytes, bytes]] = message["headers"]
    kept = [
        (name, f"private, max-age={seconds}".encode() if _is_cached(name, value) else value)
        for name, value in headers
    ]
    message["headers"] = [*kept, (b"referrer-policy", b"no-referrer")]


def _is_cached(name: bytes, value: bytes) -> bool:
    return name.lower() == b"cache-control" and b"max-age" in value


def _host_name(host: str) -> str:
    """``localhost`` of ``localhost:8000``, ``[::1]`` of ``[::1]:8000``."""
    return host.rsplit(":", 1)[0] if re.search(r":\d+$", host) else host


def _request_id(headers: Mapping[str, str]) -> str:
    given = headers.get(routes.REQUEST_ID.lower())
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return f"req_{secrets.token_hex(10)}"
