"""The proxy of ``comfysnap open``: what it adds, what it keeps back, and whom it refuses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from comfysnap_server.browser_proxy import BrowserProxy, loopback
from comfysnap_server.remote_server import checked_url, keys_of
from tests.server.ui.test_proxy import echo

KEYS = {"Authorization": "Bearer sesame", "Modal-Key": "wk-1", "Modal-Secret": "ws-1"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Upstream:
    """A server that echoes requests; ``handler`` answers in its place."""

    def __init__(self) -> None:
        self.url = ""
        self.handler: Handler = echo

    async def handle(self, request: web.Request) -> web.StreamResponse:
        return await self.handler(request)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    server = Upstream()
    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
async def url(upstream: Upstream) -> AsyncIterator[str]:
    async with loopback(BrowserProxy(upstream.url, KEYS), 0) as url:
        yield url


@pytest.fixture
async def http(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(url, auto_decompress=False) as session:
        yield session


async def test_a_request_gets_the_keys_and_leaves_the_browser_s_own_behind(
    http: aiohttp.ClientSession, upstream: Upstream, url: str
) -> None:
    own = {
        "Origin": url, "Referer": f"{url}/", "Cookie": "other_app=1",
        "Sec-Fetch-Site": "same-origin", "Modal-Key": "wk-stranger",
        "Connection": "X-Hop", "X-Hop": "1", "X-Kept": "1",
    }  # fmt: skip
    async with http.post("/a%2Fb?c=%20d", data=b"body", headers=own) as answer:
        seen = await answer.json()
    assert (answer.status, answer.headers["X-Upstream"]) == (201, "yes")
    assert (seen["method"], seen["path"], seen["body"]) == ("POST", "/a%2Fb?c=%20d", "body")
    headers = {name.lower(): value for name, value in seen["headers"].items()}
    assert headers["host"] == upstream.url.removeprefix("http://")
    assert {name.lower(): value for name, value in KEYS.items()}.items() <= headers.items()
    assert headers["x-kept"] == "1"
    assert headers["content-length"] == "4"
    assert not {"origin", "referer", "cookie", "sec-fetch-site", "x-hop"} & headers.keys()


async def test_a_key_typed_into_the_page_comes_first(http: aiohttp.ClientSession) -> None:
    async with http.get("/jobs", headers={"Authorization": "Bearer typed"}) as answer:
        seen = (await answer.json())["headers"]
    assert (seen["Authorization"], seen["Modal-Key"]) == ("Bearer typed", "wk-1")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"}, {"Host": "evil.example:80"}, {"Host": "127.0.0.1"}, {"Host": ""},
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_pages_of_other_origins_are_refused(
    http: aiohttp.ClientSession, method: str, headers: dict[str, str]
) -> None:
    async with http.request(method, "/infer_async", headers=headers) as answer:
        assert answer.status == 403
        assert "X-Upstream" not in answer.headers


async def test_a_link_elsewhere_may_open_the_page_but_not_post_to_it(
    http: aiohttp.ClientSession, url: str
) -> None:
    followed = {
        "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document",
    }  # fmt: skip
    async with http.get("/", headers=followed) as answer:
        assert answer.status == 201
    async with http.post("/", headers=followed | {"Origin": "https://evil.example"}) as answer:
        assert answer.status == 403
    port = url.rpartition(":")[2]
    async with http.get("/", headers={"Host": f"localhost:{port}"}) as answer:
        assert answer.status == 201


@pytest.mark.parametrize("path", ["@evil.example/", "http://evil.example/", "*"])
async def test_a_request_reaches_no_other_server(url: str, path: str) -> None:
    host = url.removeprefix("http://")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(host.rpartition(":")[2]))
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    assert answer.split()[1] in (b"400", b"403", b"404")
    assert b"X-Upstream" not in answer


async def test_redirects_within_the_server_stay_behind_the_proxy(
    http: aiohttp.ClientSession, upstream: Upstream
) -> None:
    for given, expected in (
        (f"{upstream.url}/check_status/job_1?x=1", "/check_status/job_1?x=1"),
        (upstream.url, "/"), (f"{upstream.url}?x=1", "/?x=1"), ("/jobs", "/jobs"),
        (f"{upstream.url}0/jobs", f"{upstream.url}0/jobs"),
        ("https://bucket.example/x", "https://bucket.example/x"),
    ):  # fmt: skip

        async def redirect(_: web.Request, to: str = given) -> web.StreamResponse:
            return web.Response(status=303, headers={"Location": to, "Set-Cookie": "a=b"})

        upstream.handler = redirect
        async with http.get("/", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, expected)
            assert "Set-Cookie" not in answer.headers


async def test_events_come_one_by_one_and_a_closed_page_ends_the_stream(
    http: aiohttp.ClientSession, upstream: Upstream
) -> None:
    seen, ended = asyncio.Event(), asyncio.Event()

    async def events(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            await response.write(b"data: 1\n\n")
            await seen.wait()
            await response.write(b"data: 2\n\n")
            await asyncio.Event().wait()
        finally:
            ended.set()
        return response

    upstream.handler = events
    answer = await http.get("/events/job_1")
    assert await answer.content.readuntil(b"\n\n") == b"data: 1\n\n"
    seen.set()
    assert await answer.content.readuntil(b"\n\n") == b"data: 2\n\n"
    answer.close()
    await ended.wait()


async def test_an_upload_is_sent_on_while_it_comes(
    http: aiohttp.ClientSession, upstream: Upstream
) -> None:
    first = asyncio.Event()

    async def upload(request: web.Request) -> web.StreamResponse:
        size = len(await request.content.readany())
        first.set()
        async for chunk in request.content.iter_any():
            size += len(chunk)
        return web.json_response([size, request.headers.get("Content-Length")])

    async def content() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        await first.wait()
        yield b"y" * 1000

    upstream.handler = upload
    async with http.put("/files/a", data=content(), headers={"Content-Length": "2000"}) as answer:
        assert await answer.json() == [2000, "2000"]


async def test_a_range_and_a_compressed_body_pass_unchanged(
    http: aiohttp.ClientSession, upstream: Upstream
) -> None:
    async def part(request: web.Request) -> web.StreamResponse:
        assert request.headers["Range"] == "bytes=1-3"
        return web.Response(
            status=206,
            body=b"zip",
            headers={"Content-Range": "bytes 1-3/9", "Content-Encoding": "gzip"},
        )

    upstream.handler = part
    async with http.get("/outputs/a/b", headers={"Range": "bytes=1-3"}) as answer:
        assert (answer.status, answer.headers["Content-Range"]) == (206, "bytes 1-3/9")
        assert (await answer.read(), answer.headers["Content-Length"]) == (b"zip", "3")


async def test_an_answer_that_breaks_off_is_not_passed_on_as_whole(
    http: aiohttp.ClientSession, upstream: Upstream
) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    upstream.handler = broken
    with pytest.raises(aiohttp.ClientError):
        async with http.get("/outputs/a/b") as answer:
            await answer.read()


async def test_a_server_that_is_not_there_is_a_bad_gateway() -> None:
    async with (
        loopback(BrowserProxy("http://127.0.0.1:9", {}), 0) as url,
        aiohttp.ClientSession() as http,
        http.get(url) as answer,
    ):
        assert answer.status == 502
        assert "cannot reach http://127.0.0.1:9" in await answer.text()


def test_keys_are_those_of_the_client() -> None:
    assert keys_of({}) == {}
    assert (
        keys_of({"COMFYSNAP_API_KEY": "sesame", "MODAL_KEY": "wk-1", "MODAL_SECRET": "ws-1"})
        == KEYS
    )
    for wrong in ({"MODAL_KEY": "wk-1"}, {"MODAL_SECRET": "x"}, {"COMFYSNAP_API_KEY": "a\nb"}):
        with pytest.raises(ValueError, match="must"):
            keys_of(wrong)


@pytest.mark.parametrize(
    "url", ["me--flux.modal.run", "", "ftp://x", "https://", "https://a:b@x", "https://x?a=1"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="the URL must"):
        checked_url(url)
    assert checked_url("https://x/prefix/") == "https://x/prefix"
