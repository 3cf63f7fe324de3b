"""``comfysnap open``: a deployment in a browser, with the keys that it asks for."""

import asyncio
import os
import sys
import webbrowser
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from comfysnap_server.remote_server import checked_url, keys_of

if TYPE_CHECKING:
    from comfysnap_server.browser_proxy import BrowserProxy


def open_(
    url: Annotated[
        str,
        typer.Option(
            envvar="COMFYSNAP_URL", show_default=False,
            help="URL of the server. Keys are read from"
            " COMFYSNAP_API_KEY, MODAL_KEY, MODAL_SECRET.",
        ),
    ],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1. 0: any free one.")
    ] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page, or only print its URL.")
    ] = True,
) -> None:  # fmt: skip
    """Open a server in the browser, through a local proxy that adds your keys. Ctrl-C stops it.

    A browser cannot send the headers that Modal's proxy auth requires; the proxy can. It listens on
    127.0.0.1 only, reaches only that server, and pages of other origins cannot use it. Other users
    of this machine can.

    Example: comfysnap open --url https://me--flux.modal.run
    """
    from comfysnap_server.browser_proxy import BrowserProxy

    try:
        proxy = BrowserProxy(checked_url(url), keys_of(os.environ))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(proxy, port, browser=browser))
    print("stopped")


async def _serve(proxy: "BrowserProxy", port: int, *, browser: bool) -> None:
    from comfysnap_server.browser_proxy import loopback

    async with loopback(proxy, port) as address:
        print(f"{address} (Ctrl-C stops it)", flush=True)
        if browser and not await asyncio.to_thread(webbrowser.open, address):
            print("no browser found; open the address yourself", file=sys.stderr)
        await asyncio.Event().wait()
