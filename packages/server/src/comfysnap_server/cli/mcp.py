"""``comfysnap mcp``: MCP on stdin and stdout, answered by the ``/mcp`` of a server."""

import asyncio
import os
import signal
import sys
from importlib.util import find_spec
from types import FrameType
from typing import Annotated, NoReturn

import typer

from comfysnap_server.remote_server import checked_url, keys_of

Url = Annotated[
    str,
    typer.Option(
        "--url", envvar="COMFYSNAP_URL", show_default=False,
        help="URL of the server. Keys are read from COMFYSNAP_API_KEY, MODAL_KEY, MODAL_SECRET.",
    ),
]  # fmt: skip


def mcp(url: Url = "http://127.0.0.1:8000") -> None:
    """Connect programs that start MCP servers, such as Claude Desktop, to a server.

    Example: comfysnap mcp --url http://127.0.0.1:8000
    """
    if find_spec("mcp") is None:
        _refuse("MCP needs the extra: pip install 'comfysnap-server[mcp]'")
    try:
        address, keys = checked_url(url), keys_of(os.environ)
    except ValueError as error:
        _refuse(str(error))
    from comfysnap_server.mcp_bridge import Bridge, BridgeError

    # at once: the thread that reads stdin ends with the next line only
    signal.signal(signal.SIGINT, _exit_at_once)
    try:
        asyncio.run(Bridge(f"{address}/mcp", keys).serve())
    except BridgeError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(3) from error


def _refuse(reason: str) -> NoReturn:
    print(f"error: {reason}", file=sys.stderr)
    raise typer.Exit(2)


def _exit_at_once(_number: int, _frame: FrameType | None) -> None:
    os._exit(130)
