"""What reverse proxies share: a request goes on to one server, and bodies stream both ways."""

from collections.abc import Collection, Iterable
from typing import Final

import aiohttp
from aiohttp import web
from yarl import URL

Headers = list[tuple[str, str]]

_HOP_BY_HOP: Final = frozenset(
    {
        "connection", "expect", "keep-alive", "proxy-authenticate", "proxy-authorization", "te",
        "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip


def open_session(connect_timeout: float) -> aiohttp.ClientSession:
    """A client that sends what it is given and nothing of its own.

    Args:
        connect_timeout: Seconds for establishing one connection; nothing else has a limit.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),  # each open page uses a connection
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout),
    )


def end_to_end(headers: Iterable[tuple[str, str]], dropped: Collection[str] = ()) -> Headers:
    """The headers that go on, without those for one connection and those ``dropped``, whose names
    are in lower case."""
    headers = list(headers)
    named = {
        name.strip().lower()
        for key, value in headers
        if key.lower() == "connection"
        for name in value.split(",")
    }
    without = _HOP_BY_HOP | named | set(dropped)
    return [(key, value) for key, value in headers if key.lower() not in without]


def target(request: web.Request, upstream: str) -> URL:
    """The URL to ask, on the same server whatever the request says.

    Raises:
        web.HTTPBadRequest: The request is not for a path.
    """
    if not request.raw_path.startswith("/"):
        raise web.HTTPBadRequest(text="The request must be for a path.\n")
    return URL(upstream + request.raw_path, encoded=True)


async def send(
    request: web.Request, client: aiohttp.ClientSession, url: URL, headers: Headers
) -> aiohttp.ClientResponse:
    """Send a request on, with its body as it comes.

    Raises:
        aiohttp.ClientError: No answer.
    """
    return await client.request(
        request.method,
        url,
        headers=headers,
        data=request.content if request.body_exists else None,
        allow_redirects=False,
    )


async def relay(
    request: web.Request, answer: aiohttp.ClientResponse, headers: Headers
) -> web.StreamResponse:
    """Pass an answer on, with its body as it comes; one that breaks off does so here too."""
    response = web.StreamResponse(status=answer.status, reason=answer.reason)
    for key, value in headers:
        response.headers.add(key, value)
    await response.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    except aiohttp.ClientError:
        if request.transport is not None:
            request.transport.abort()
    return response
