"""The MCP server of the SDK, over HTTP without sessions; imported when ``/mcp`` is first used."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, cast

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
)
from pydantic import JsonValue
from starlette.requests import Request

from comfysnap_server.gateway.mcp.calls import Call, ToolCalls

INSTRUCTIONS = (
    "Each tool except get_job and cancel_job runs a ComfyUI workflow as a job. A result has a small"
    " preview and links to the full files. A job that takes long is returned while it runs: call"
    " get_job with its ID until it has ended. The link of a result can be the input of another"
    " tool."
)


def make_manager(calls: ToolCalls, max_body_bytes: int) -> StreamableHTTPSessionManager:
    """Serves requests of both eras of the protocol, each on its own: any process of the server can
    answer any of them.

    Args:
        calls: The tools.
        max_body_bytes: Largest request.
    """

    async def list_tools(
        ctx: ServerRequestContext[Any, Any], _: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return ListToolsResult(tools=calls.tools(_request(ctx)))

    async def call_tool(
        ctx: ServerRequestContext[Any, Any], params: CallToolRequestParams
    ) -> CallToolResult:
        return await calls.call(
            Call(
                name=params.name,
                arguments=cast("Mapping[str, JsonValue]", params.arguments or {}),
                request=_request(ctx),
                session=ctx.session,
                meta=cast("Mapping[str, Any]", ctx.meta or {}),
                request_id=ctx.request_id,
            )
        )

    server = Server(
        "comfysnap",
        version=version("comfysnap-server"),
        title="comfysnap",
        instructions=INSTRUCTIONS,
        get_tool_input_schema=calls.schema,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
    return StreamableHTTPSessionManager(
        server,
        stateless=True,
        # the gateway checks Host and Origin itself
        security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        max_request_body_size=max_body_bytes,
    )


def _request(ctx: ServerRequestContext[Any, Any]) -> Request:
    return cast("Request", ctx.request)
