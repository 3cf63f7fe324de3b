"""``comfysnap mcp``: MCP on stdin and stdout, answered by the ``/mcp`` of a server."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from types import FrameType
from typing import Annotated, Final

import typer

_VARIABLES: Final = {
    "Authorization": "COMFYSNAP_API_KEY",
    "Modal-Key": "MODAL_KEY",
    "Modal-Secret": "MODAL_SECRET",
}
"""Headers, and the variables with their values."""


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
    problem = _problem(url, os.environ)
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
        raise typer.Exit(2)
    from comfysnap_server.mcp_bridge import Bridge, BridgeError

    # at once: the thread that reads stdin ends with the next line only
    signal.signal(signal.SIGINT, _exit_at_once)
    try:
        asyncio.run(Bridge(url.rstrip("/") + "/mcp", _headers(os.environ)).serve())
    except BridgeError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(3) from error


def _exit_at_once(_number: int, _frame: FrameType | None) -> None:
    os._exit(130)


def _problem(url: str, environment: Mapping[str, str]) -> str | None:
    if find_spec("mcp") is None:
        return "MCP needs the extra: pip install 'comfysnap-server[mcp]'"
    if not url.startswith(("http://", "https://")):
        return "--url must start with http:// or https://, for example http://127.0.0.1:8000"
    for name in _VARIABLES.values():
        value = environment.get(name, "")
        if not (value.isascii() and value.isprintable()):
            return f"{name} must contain only printable ASCII characters"
    return None


def _headers(environment: Mapping[str, str]) -> dict[str, str]:
    """The keys of the environment."""
    given = {header: environment.get(name, "") for header, name in _VARIABLES.items()}
    if given["Authorization"]:
        given["Authorization"] = f"Bearer {given['Authorization']}"
    return {header: value for header, value in given.items() if value}
