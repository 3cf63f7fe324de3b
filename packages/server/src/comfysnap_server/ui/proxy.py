"""Reverse proxy in front of ComfyUI's interface that requires a token.

Only this process listens on an outside address, so a node pack cannot bypass it."""

import argparse
import asyncio
import hmac
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import sha256
from typing import Final

import aiohttp
from aiohttp import web

from comfysnap_server.reverse_proxy import end_to_end, open_session, relay, send, target

ACCESS_VARIABLE: Final = "COMFYSNAP_UI_TOKEN"
COOKIE: Final = "comfysnap_ui"
_OURS: Final = frozenset({"authorization", "cookie"})
STARTING: Final = (
    '<!doctype html><meta http-equiv="refresh" content="2"><title>ComfyUI</title>'
    "<p>ComfyUI is starting. This page reloads automatically."
)
ENDED: Final = (
    "<!doctype html><title>ComfyUI</title>"
    "<p>ComfyUI exited with code {code}. Its output is in the terminal of "
    "<code>comfysnap ui</code>; stop that command and run it again."
)
"""Does not reload: requests would keep the container running."""
_SHUTDOWN_S: Final = 2.0
_CONNECT_S: Final = 5.0


class UiProxy:
    """Proxy for one ComfyUI with one token.

    Args:
        token: Access token, at least 16 characters.
        upstream: ComfyUI's URL, ``http://127.0.0.1:PORT``.
        secure: Whether the cookie is only sent over https.
        heartbeat: Seconds between pings to a page. A page that does not respond is disconnected, so
            that a sleeping laptop does not keep the container running.
        exit_code: Returns ComfyUI's exit code, None while it runs.

    Raises:
        ValueError: The token is too short.
    """

    def __init__(
        self,
        token: str,
        upstream: str,
        *,
        secure: bool = True,
        heartbeat: float = 30,
        exit_code: Callable[[], int | None] = lambda: None,
    ) -> None:
        if len(token) < 16:
            raise ValueError(f"{ACCESS_VARIABLE} must have at least 16 characters")
        self._token = token
        self._session_value = hmac.new(token.encode(), b"cookie", sha256).hexdigest()
        self._upstream = upstream
        self._secure = secure
        self._heartbeat = heartbeat
        self._exit_code = exit_code
        self._client: aiohttp.ClientSession | None = None
        self._pages: set[web.WebSocketResponse] = set()

    def app(self) -> web.Application:
        """The server."""
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_startup.append(self._open)
        app.on_shutdown.append(self._close_pages)
        app.on_cleanup.append(self._close)
        return app

    async def _open(self, _app: web.Application) -> None:
        self._client = open_session(_CONNECT_S)

    async def _close_pages(self, _app: web.Application) -> None:
        # else the server waits for them
        for page in list(self._pages):
            await page.close(code=aiohttp.WSCloseCode.GOING_AWAY)

    async def _close(self, _app: web.Application) -> None:
        if self._client is not None:
            await self._client.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        token = request.query.get("token")
        if token is not None and request.method == "GET" and _equal(token, self._token):
            return self._log_in(request)
        if not self._is_authorized(request):
            return web.Response(status=401, text="Open the URL that `comfysnap ui` printed.\n")
        if self._client is None:
            raise RuntimeError("the proxy was not started")
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._relay(request, self._client)
        return await self._forward(request, self._client)

    def _unavailable(self) -> web.Response:
        """The response while ComfyUI starts, restarts (Manager does that), or after it exited."""
        code = self._exit_code()
        if code is not None:
            return web.Response(status=502, text=ENDED.format(code=code), content_type="text/html")
        return web.Response(status=503, text=STARTING, content_type="text/html")

    def _log_in(self, request: web.Request) -> web.Response:
        query = request.rel_url.query.copy()
        query.popall("token")
        response = web.Response(
            status=303, headers={"Location": str(request.rel_url.with_query(query))}
        )
        response.set_cookie(
            COOKIE, self._session_value, httponly=True, secure=self._secure, samesite="Lax"
        )
        return response

    def _is_authorized(self, request: web.Request) -> bool:
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _equal(bearer, self._token):
            return True
        return _equal(request.cookies.get(COOKIE, ""), self._session_value)

    def _headers(self, request: web.Request) -> list[tuple[str, str]]:
        """Headers for ComfyUI. Host stays, because ComfyUI compares it with Origin."""
        dropped = _OURS
        if request.method == "GET" and request.path == "/":
            # ComfyUI refuses requests from other sites, even a click on the printed URL
            dropped |= {"sec-fetch-site"}
        kept = end_to_end(request.headers.items(), dropped)
        others = {k: v for k, v in request.cookies.items() if k != COOKIE}
        if others:
            kept.append(("Cookie", "; ".join(f"{key}={value}" for key, value in others.items())))
        return kept

    async def _forward(
        self, request: web.Request, client: aiohttp.ClientSession
    ) -> web.StreamResponse:
        url = target(request, self._upstream)
        try:
            answer = await send(request, client, url, self._headers(request))
        except aiohttp.ClientConnectionError:
            return self._unavailable()
        async with answer:
            return await relay(request, answer, end_to_end(answer.headers.items()))

    async def _relay(
        self, request: web.Request, client: aiohttp.ClientSession
    ) -> web.StreamResponse:
        own = {
            "content-length", "sec-websocket-key", "sec-websocket-version",
            "sec-websocket-extensions",
        }  # fmt: skip
        headers = [(k, v) for k, v in self._headers(request) if k.lower() not in own]
        try:
            inner = await client.ws_connect(
                target(request, self._upstream), headers=headers, max_msg_size=0
            )
        except aiohttp.WSServerHandshakeError as error:
            return web.Response(status=error.status)
        except aiohttp.ClientConnectionError:
            return self._unavailable()
        async with inner:
            outer = web.WebSocketResponse(max_msg_size=0, heartbeat=self._heartbeat)
            await outer.prepare(request)
            self._pages.add(outer)
            directions = {
                asyncio.create_task(_pump(outer, inner)),
                asyncio.create_task(_pump(inner, outer)),
            }
            try:
                await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._pages.discard(outer)
                for direction in directions:
                    direction.cancel()
                await asyncio.gather(*directions, return_exceptions=True)
                await outer.close()
            return outer


WebSocket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


async def _pump(source: WebSocket, target: WebSocket) -> None:
    async for message in source:
        with suppress(ConnectionResetError):
            if message.type is aiohttp.WSMsgType.TEXT:
                await target.send_str(message.data)
            elif message.type is aiohttp.WSMsgType.BINARY:
                await target.send_bytes(message.data)


def _equal(actual: str, expected: str) -> bool:
    # aiohttp decodes headers that are not valid UTF-8 to surrogates
    return hmac.compare_digest(actual.encode(errors="surrogateescape"), expected.encode())


def main(arguments: Iterable[str] | None = None) -> None:
    """Start ComfyUI (the command after the options) and proxy it until it exits."""
    parser = argparse.ArgumentParser(prog="ui.proxy", description=__doc__)
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 Modal forwards to this port
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", type=int, required=True)
    parser.add_argument("--plain-http", action="store_true", help="send the cookie over http too")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(None if arguments is None else list(arguments))
    token = os.environ.pop(ACCESS_VARIABLE, "")
    with subprocess.Popen(given.command) as comfyui:
        try:
            proxy = UiProxy(
                token,
                f"http://127.0.0.1:{given.upstream}",
                secure=not given.plain_http,
                exit_code=comfyui.poll,
            )
            web.run_app(
                proxy.app(),
                host=given.host,
                port=given.port,
                print=None,
                access_log=None,
                shutdown_timeout=_SHUTDOWN_S,
            )
        finally:
            comfyui.terminate()
            with suppress(subprocess.TimeoutExpired):
                comfyui.wait(10)
            comfyui.kill()


if __name__ == "__main__":
    sys.exit(main())
