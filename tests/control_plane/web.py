"""HTTP front end of ASGI functions: proxy auth, streamed responses, 303 for slow ones."""

import asyncio
import contextlib
import functools
import pickle
import socket
from collections.abc import AsyncIterator

from aiohttp import web
from modal_proto import api_pb2

from tests.control_plane.calls import FunctionCalls
from tests.control_plane.scheduler import Scheduler
from tests.control_plane.state import Call, Function, State

CALL_PARAMETER = "__modal_function_call_id"
CHUNK_BYTES = 1024 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
PROXY_HEADERS = ("modal-key", "modal-secret")


class WebFront:
    """Serves each web function on a loopback port."""

    def __init__(self, state: State, scheduler: Scheduler, calls: FunctionCalls) -> None:
        self._state = state
        self._scheduler = scheduler
        self._calls = calls
        self._sockets: dict[str, socket.socket] = {}
        self._runners: dict[str, web.AppRunner] = {}
        self.redirect_after = 150.0
        """Seconds without a response until the client is redirected to the result
        (https://modal.com/docs/guide/webhook-timeouts)."""
        self.key = ("wk-test", "ws-test")
        """Key and secret for functions with proxy auth."""

    def url(self, function: Function) -> str:
        """URL of a function; redeploys keep it."""
        if function.id not in self._sockets:
            self._sockets[function.id] = listening_socket()
        host, port = self._sockets[function.id].getsockname()
        return f"http://{host}:{port}"

    async def serve(self) -> None:
        """Start serving every URL given out so far."""
        for function_id, listener in self._sockets.items():
            if function_id in self._runners:
                continue
            app = web.Application(client_max_size=MAX_BODY_BYTES)
            handler = functools.partial(self._answer, self._state.function(function_id))
            app.router.add_route("*", "/{path:.*}", handler)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
            await runner.setup()
            await web.SockSite(runner, listener).start()
            self._runners[function_id] = runner

    async def close(self) -> None:
        """Stop serving."""
        for runner in self._runners.values():
            await runner.cleanup()
        for listener in self._sockets.values():
            listener.close()

    async def _answer(self, function: Function, request: web.Request) -> web.StreamResponse:
        if function.definition.webhook_config.requires_proxy_auth and not self._is_known(request):
            return web.Response(status=401, text="modal-http: missing or wrong proxy auth")
        known = request.query.get(CALL_PARAMETER)
        call = self._state.call(known) if known else await self._start(function, request)
        chunks = self._chunks(call)
        try:
            async with asyncio.timeout(self.redirect_after):
                start = await anext(chunks, None)
        except TimeoutError:
            query = f"{request.query_string}&" if request.query_string and not known else ""
            target = f"{request.path}?{query}{CALL_PARAMETER}={call.id}"
            return web.Response(status=303, headers={"Location": target})
        if start is None or not start.HasField("http_response_start"):
            return web.Response(status=500, text="modal-http: internal error")
        try:
            return await self._stream(request, start.http_response_start, chunks)
        except ConnectionResetError:
            await self._put(call, api_pb2.Asgi(http_disconnect=api_pb2.Asgi.HttpDisconnect()))
            return web.Response(status=499)  # the client has disconnected

    def _is_known(self, request: web.Request) -> bool:
        return tuple(request.headers.get(name) for name in PROXY_HEADERS) == self.key

    async def _start(self, function: Function, request: web.Request) -> Call:
        item = api_pb2.FunctionInput(
            args=pickle.dumps(((_scope(request),), {})), data_format=api_pb2.DATA_FORMAT_PICKLE
        )
        call = self._calls.make(function.id, item, api_pb2.FUNCTION_CALL_INVOCATION_TYPE_SYNC)
        body = await request.read()
        pieces = [body[i : i + CHUNK_BYTES] for i in range(0, len(body), CHUNK_BYTES)] or [b""]
        for number, piece in enumerate(pieces, start=1):
            more = number < len(pieces)
            message = api_pb2.Asgi.HttpRequest(body=piece, more_body=more)
            await self._put(call, api_pb2.Asgi(http_request=message))
        await self._scheduler.submit(call)
        return call

    async def _put(self, call: Call, message: api_pb2.Asgi) -> None:
        async with call.changed:
            call.data_in.append(
                api_pb2.DataChunk(
                    data_format=api_pb2.DATA_FORMAT_ASGI,
                    data=message.SerializeToString(),
                    index=len(call.data_in) + 1,
                )
            )
            call.changed.notify_all()

    async def _chunks(self, call: Call) -> AsyncIterator[api_pb2.Asgi]:
        sent = 0
        while True:
            for chunk in call.data_out[sent:]:
                sent += 1
                yield api_pb2.Asgi.FromString(chunk.data)
            if call.done.is_set() and sent == len(call.data_out):
                return
            await call.more(call.data_out, sent)

    async def _stream(
        self,
        request: web.Request,
        start: api_pb2.Asgi.HttpResponseStart,
        chunks: AsyncIterator[api_pb2.Asgi],
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=start.status)
        names = list(start.headers)
        for name, value in zip(names[::2], names[1::2], strict=True):
            response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
        await response.prepare(request)
        async for message in chunks:
            if message.HasField("http_response_body"):
                if message.http_response_body.body and request.method != "HEAD":
                    await response.write(message.http_response_body.body)
                if not message.http_response_body.more_body:
                    break
        with contextlib.suppress(ConnectionResetError):
            await response.write_eof()
        return response


def _scope(request: web.Request) -> dict[str, object]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.rel_url.path,
        "query_string": request.query_string.encode(),
        "headers": [
            (name.lower(), value)
            for name, value in request.raw_headers
            if name.lower().decode() not in PROXY_HEADERS
        ],
        "client": ("127.0.0.1", 1),
    }


def listening_socket() -> socket.socket:
    """A loopback socket on a free port; without IPPROTO_TCP asyncio leaves Nagle's delay on."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    listener.setblocking(False)
    return listener
