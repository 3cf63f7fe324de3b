"""MCP on stdin and stdout, answered by the ``/mcp`` of a server; needs the extra ``mcp``."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final, TypeVar, cast

import httpx2
from mcp import Client, MCPError
from mcp.client.session import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp_types import (
    INTERNAL_ERROR,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    DiscoverRequest,
    DiscoverResult,
    ListToolsResult,
    PaginatedRequestParams,
    RequestParamsMeta,
    TextContent,
)
from mcp_types.version import LATEST_MODERN_VERSION

from comfysnap_server.errors import CommandError

ResultT = TypeVar("ResultT")

_META_PREFIX: Final = "comfysnap/"
"""What of ``_meta`` is for the server; the rest belongs to the connection of the host."""
_START_S: Final = 150.0
"""To connect: a deployment may have to start."""
_SILENCE_S: Final = 300.0
"""Between two bytes; servers send some every 15 s."""


class BridgeError(CommandError):
    """The server cannot be used for MCP."""


class Bridge:
    """Sends each request of a host to a server, without a session: the server may restart.

    Args:
        url: Of the server's ``/mcp``.
        headers: With its keys.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url = url
        self._http = httpx2.AsyncClient(
            headers=dict(headers),
            timeout=httpx2.Timeout(_START_S, read=_SILENCE_S),
            event_hooks={"response": [_check]},
        )

    async def serve(self) -> None:
        """Serve until stdin ends.

        Raises:
            BridgeError: The server does not respond, refuses the key, or does not offer MCP.
        """
        async with self._http:
            try:
                found = await self._ask(
                    lambda session: session.send_request(DiscoverRequest(), DiscoverResult)
                )
            except MCPError as error:
                raise BridgeError("mcp_unavailable", error.message) from error
            server = Server(
                "comfysnap",
                version=version("comfysnap-server"),
                title="comfysnap",
                instructions=found.instructions,
                on_list_tools=self._list_tools,
                on_call_tool=self._call_tool,
            )
            async with stdio_server() as (read, write):
                await server.run(read, write, server.create_initialization_options())

    async def _list_tools(
        self, _: ServerRequestContext[Any, Any], params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return await self._ask(lambda session: session.list_tools(params=params))

    async def _call_tool(
        self, ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams
    ) -> CallToolResult:
        kept = {
            key: value for key, value in (ctx.meta or {}).items() if key.startswith(_META_PREFIX)
        }
        meta = cast("RequestParamsMeta | None", kept or None)
        request = CallToolRequest(
            params=CallToolRequestParams(name=params.name, arguments=params.arguments, _meta=meta)
        )
        report = ctx.session.report_progress
        try:
            return await self._ask(
                lambda session: session.send_request(
                    request, CallToolResult, progress_callback=report
                )
            )
        except MCPError as error:  # as a result, which the model reads
            text = f"{params.name} failed: {error.message}"
            return CallToolResult(content=[TextContent(text=text)], is_error=True)

    async def _ask(self, ask: Callable[[ClientSession], Awaitable[ResultT]]) -> ResultT:
        """The answer of the server.

        Raises:
            MCPError: It refuses, or does not answer.
        """
        refusal: MCPError | None = None
        try:
            async with self._session() as session:
                try:
                    return await ask(session)
                except MCPError as error:  # the groups of tasks around it would wrap it
                    refusal = error
        except Exception as error:
            reason = _innermost(error)
            message = f"{self._url}: {str(reason) or type(reason).__name__}"
            raise MCPError(INTERNAL_ERROR, message) from error
        raise MCPError(refusal.code, f"{self._url}: {refusal.message}", refusal.data)

    @asynccontextmanager
    async def _session(self) -> AsyncGenerator[ClientSession]:
        transport = streamable_http_client(self._url, http_client=self._http)
        async with Client(transport, mode=LATEST_MODERN_VERSION, cache=None) as client:
            yield client.session


async def _check(response: httpx2.Response) -> None:
    """Name the reason of a refusal that is not in JSON-RPC, as those of a proxy are."""
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        raise httpx2.HTTPError(
            "the key is missing or not valid: set COMFYSNAP_API_KEY, or MODAL_KEY and MODAL_SECRET"
        )
    kind = response.headers.get("content-type", "")
    if response.is_error and not kind.startswith("application/json"):
        raise httpx2.HTTPError(f"the server responded with status {response.status_code}")


def _innermost(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = cast("ExceptionGroup[Exception]", error).exceptions[0]
    return error
