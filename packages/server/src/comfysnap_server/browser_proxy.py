"""A proxy on loopback that adds keys, for a browser that cannot send them: ``comfysnap open``."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
from aiohttp import web

from comfysnap_server.reverse_proxy import Headers, end_to_end, open_session, relay, send, target

HOST: Final = "127.0.0.1"
_CONNECT_S: Final = 30.0
_SHUTDOWN_S: Final = 2.0
_SAME_PAGE: Final = frozenset({"same-origin", "none"})
_NOT_SENT: Final = frozenset(
    {
        "host", "origin", "referer",
        # browsers share them between all ports of this machine
        "cookie",
        "sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "sec-fetch-user",
    }
)  # fmt: skip
_NOT_RETURNED: Final = frozenset({"set-cookie", "strict-transport-security", "alt-svc"})


class BrowserProxy:
    """Serves one server to the pages of its own address.

    Args:
        upstream: URL of the server, from ``checked_url``.
        keys: Headers that every request gets. A page may send another ``Authorization``.
    """

    def __init__(self, upstream: str, keys: Mapping[str, str]) -> None:
        self._upstream = upstream
        self._keys = dict(keys)
        self._client: aiohttp.ClientSession | None = None

    def app(self) -> web.Application:
        """The server."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_startup.append(self._open)
        app.on_cleanup.append(self._close)
        return app

    async def _open(self, _app: web.Application) -> None:
        self._client = open_session(_CONNECT_S)

    async def _close(self, _app: web.Application) -> None:
        if self._client is not None:
            await self._client.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        refusal = _refusal(request)
        if refusal is not None:
            return web.Response(status=403, text=f"{refusal}\n")
        if self._client is None:
            raise RuntimeError("the proxy was not started")
        url = target(request, self._upstream)
        try:
            answer = await send(request, self._client, url, self._sent(request))
        except aiohttp.ClientError as error:
            return web.Response(status=502, text=f"cannot reach {self._upstream}: {error}\n")
        async with answer:
            return await relay(request, answer, self._returned(answer))

    def _sent(self, request: web.Request) -> Headers:
        keys = self._keys
        if "Authorization" in request.headers:
            keys = {name: value for name, value in keys.items() if name != "Authorization"}
        replaced = {name.lower() for name in keys} | {"modal-key", "modal-secret"}
        return [*end_to_end(request.headers.items(), _NOT_SENT | replaced), *keys.items()]

    def _returned(self, answer: aiohttp.ClientResponse) -> Headers:
        headers = end_to_end(answer.headers.items(), _NOT_RETURNED)
        return [
            (key, self._location(value) if key.lower() == "location" else value)
            for key, value in headers
        ]

    def _location(self, location: str) -> str:
        """A redirect within the server stays behind the proxy."""
        rest = location.removeprefix(self._upstream)
        within = rest != location and (not rest or rest[0] in "/?")
        return (rest if rest.startswith("/") else f"/{rest}") if within else location


@asynccontextmanager
async def loopback(proxy: BrowserProxy, port: int) -> AsyncGenerator[str]:
    """Serve a proxy on this machine, and yield its URL.

    Args:
        proxy: The proxy.
        port: 0 for any free one.

    Raises:
        OSError: The port is in use.
    """
    runner = web.AppRunner(
        proxy.app(),
        access_log=None,
        handler_cancellation=True,  # a page that is closed ends its streams
        shutdown_timeout=_SHUTDOWN_S,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
        yield f"http://{HOST}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _refusal(request: web.Request) -> str | None:
    """Why a request is not of this proxy's own pages: a name that leads here by DNS rebinding, or
    a page of another origin."""
    port = request.transport.get_extra_info("sockname")[1] if request.transport else 0
    if request.host not in (f"{HOST}:{port}", f"localhost:{port}"):
        return f"This proxy answers only as http://{HOST}:{port}."
    if not (_is_own(request) or _is_link(request)):
        return f"Pages of other origins cannot use this proxy; open http://{HOST}:{port} itself."
    return None


def _is_own(request: web.Request) -> bool:
    origin = request.headers.get("Origin", f"http://{request.host}")
    site = request.headers.get("Sec-Fetch-Site", "none")
    return origin == f"http://{request.host}" and site in _SAME_PAGE


def _is_link(request: web.Request) -> bool:
    """Whether someone followed a link to the proxy: what opens is a page of its own, which the
    other page cannot read. A terminal in a browser has such links."""
    shown = [request.headers.get(f"Sec-Fetch-{name}") for name in ("Mode", "Dest")]
    return request.method == "GET" and shown == ["navigate", "document"]
