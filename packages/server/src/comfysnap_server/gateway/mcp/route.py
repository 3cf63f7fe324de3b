"""The route ``/mcp``. What it needs is imported by the first request to it, or at the start when it
is turned on by the settings."""

import asyncio
import secrets
from collections.abc import Mapping
from contextvars import Context
from http import HTTPStatus
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from comfysnap_schema.wire import ErrorCode
from comfysnap_schema.workflow import Workflow
from comfysnap_server.backends.protocol import Backend
from comfysnap_server.gateway.bodies import BodyReader
from comfysnap_server.gateway.jobs import owner_of
from comfysnap_server.gateway.json_bodies import parse_json_object
from comfysnap_server.gateway.links import Links
from comfysnap_server.gateway.long_polls import LongPolls
from comfysnap_server.gateway.mcp.errors import PATH, SESSION_HEADER
from comfysnap_server.gateway.problems import ProblemError
from comfysnap_server.gateway.settings import GatewaySettings
from comfysnap_server.gateway.submit import JobSubmitter

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    from comfysnap_server.gateway.mcp.calls import ToolCalls


class McpRoute:
    """Handles ``/mcp``, over one backend.

    Args:
        backend: Where jobs run.
        submitter: Makes the jobs.
        workflows: Each is a tool.
        settings: Limits, and whether MCP is spoken.
        waits: Held requests.
        bodies: Receives JSON.
        links: Signs the links to files.

    Raises:
        ValueError: It is turned on, and the extra ``mcp`` is not installed.
    """

    def __init__(
        self,
        backend: Backend,
        submitter: JobSubmitter,
        workflows: Mapping[str, Workflow],
        settings: GatewaySettings,
        *,
        waits: LongPolls,
        bodies: BodyReader,
        links: Links,
    ) -> None:
        self._backend = backend
        self._submitter = submitter
        self._workflows = workflows
        self._settings = settings
        self._waits = waits
        self._bodies = bodies
        self._links = links
        self._enabled = settings.mcp.enabled
        if self._enabled is None:
            self._enabled = find_spec("mcp") is not None
        elif self._enabled:
            try:
                _load()  # now, so that a memory snapshot holds it
            except ImportError as error:
                raise ValueError(
                    "[serve.mcp] enabled needs the extra: pip install 'comfysnap-server[mcp]'"
                ) from error
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[tuple[StreamableHTTPSessionManager, ToolCalls]]
        self._stopping = asyncio.Event()

    def router(self) -> APIRouter:
        """The route. There are no sessions, so nothing can be read from it or deleted."""
        router = APIRouter(include_in_schema=False)
        router.add_api_route(PATH, self.handle, methods=["POST"])
        return router

    async def handle(self, request: Request) -> Response:
        """One message of JSON-RPC, answered as JSON or as events."""
        if not self._enabled:
            raise ProblemError(
                ErrorCode.NOT_FOUND,
                "this server does not offer MCP: install 'comfysnap-server[mcp]' where it runs, and"
                " set enabled = true in [serve.mcp]",
            )
        owner = owner_of(request)
        message, body = await self._bodies.read_json(
            request,
            owner,
            self._settings.max_body_bytes,
            forms=False,
            parse=lambda body: (parse_json_object(body), body),
        )
        manager, calls = await self._started()
        session = request.headers.get(SESSION_HEADER)
        if message.get("method") == "notifications/cancelled" and session is not None:
            params = message.get("params")
            request_id = params.get("requestId") if isinstance(params, dict) else None
            if isinstance(request_id, str | int):
                calls.cancelled(owner, session, request_id)
        return _Answer(manager, body, opens=message.get("method") == "initialize")

    async def stop(self) -> None:
        """End what the first request started."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait({self._task})  # its failure was that of the requests

    async def _started(self) -> "tuple[StreamableHTTPSessionManager, ToolCalls]":
        if self._task is None:
            self._ready = asyncio.get_running_loop().create_future()
            # without the request's part of log lines, as it serves others too
            self._task = asyncio.create_task(self._run(), context=Context())
        await asyncio.wait({self._task, self._ready}, return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.done():
            self._task.result()
        return self._ready.result()

    async def _run(self) -> None:
        """Its task group has to be left by the task that entered it."""
        calls, server = await asyncio.to_thread(_load)
        made = calls.ToolCalls(
            self._backend, self._submitter, self._workflows, self._settings,
            waits=self._waits, links=self._links,
        )  # fmt: skip
        manager = server.make_manager(made, 2 * self._settings.max_body_bytes)
        async with manager.run():
            self._ready.set_result((manager, made))
            await self._stopping.wait()


def _load() -> tuple[Any, Any]:
    """The modules that import the SDK, which takes half a second."""
    return (
        import_module("comfysnap_server.gateway.mcp.calls"),
        import_module("comfysnap_server.gateway.mcp.server"),
    )


class _Answer(Response):
    """Hands a request on whose body was read; one that opens a connection names it."""

    def __init__(
        self, manager: "StreamableHTTPSessionManager", body: bytes, *, opens: bool
    ) -> None:
        super().__init__()
        self._manager = manager
        self._opens = opens
        self._message: Message | None = {
            "type": "http.request",
            "body": body,
            "more_body": False,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request."""

        async def receive_again() -> Message:
            message, self._message = self._message, None
            return message or await receive()

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.OK:
                name = secrets.token_hex(16).encode()
                message["headers"] = [*message["headers"], (SESSION_HEADER.encode(), name)]
            await send(message)

        await self._manager.handle_request(
            scope, receive_again, send_named if self._opens else send
        )
