import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from comfysnap_server.pins import TESTED, read_version
from comfysnap_server.ui.command import comfyui_command
from comfysnap_server.ui.proxy import UiProxy
from tests.servers import free_port

TOKEN = "a-token-of-some-length"


async def listen(app: web.Application) -> tuple[web.AppRunner, str]:
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    return runner, f"http://{host}:{port}"


async def echo(request: web.Request) -> web.StreamResponse:
    if request.headers.get("Upgrade", "").lower() == "websocket":
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                await socket.send_str(f"{request.path_qs} {message.data}")
            else:
                await socket.send_bytes(message.data + b"!")
        return socket
    seen: dict[str, Any] = {
        "method": request.method,
        "path": request.path_qs,
        "headers": dict(request.headers),
        "body": (await request.read()).decode(),
    }
    return web.json_response(seen, status=201, headers={"X-Upstream": "yes"})


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """The proxy in front of a server that echoes requests."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", echo)
    upstream, upstream_url = await listen(app)
    proxy, proxy_url = await listen(UiProxy(TOKEN, upstream_url, secure=False).app())
    yield proxy_url
    await proxy.cleanup()
    await upstream.cleanup()


@pytest.fixture
async def stranger() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        yield session


@pytest.mark.parametrize("path", ["/", "/prompt", "/?token=wrong", "/?token=", "/view?filename=a"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_requests_without_the_token_are_rejected(
    url: str, stranger: aiohttp.ClientSession, path: str, method: str
) -> None:
    async with stranger.request(method, url + path, allow_redirects=False) as response:
        assert response.status == 401
        assert "X-Upstream" not in response.headers


@pytest.mark.parametrize(
    "headers",
    [{"Cookie": "comfysnap_ui="}, {"Cookie": "comfysnap_ui=x"}, {"Authorization": "Bearer é"}],
)
async def test_a_wrong_cookie_or_bearer_is_rejected(
    url: str, stranger: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    async with stranger.get(url, headers=headers) as response:
        assert response.status == 401
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await stranger.ws_connect(f"{url}/ws", headers=headers)


async def test_a_bearer_that_is_not_utf8_is_rejected(url: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"401"
    finally:
        writer.close()
        await writer.wait_closed()


async def test_the_printed_url_gives_access(url: str, stranger: aiohttp.ClientSession) -> None:
    async with stranger.get(f"{url}/?token={TOKEN}&a=1", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (303, "/?a=1")
        assert "HttpOnly" in response.headers["Set-Cookie"]
        assert TOKEN not in response.headers["Set-Cookie"]
    async with stranger.post(f"{url}/upload?x=1", data=b"picture", cookies={"b": "2"}) as response:
        seen = await response.json()
        assert (response.status, response.headers["X-Upstream"]) == (201, "yes")
    assert (seen["method"], seen["path"], seen["body"]) == ("POST", "/upload?x=1", "picture")
    assert seen["headers"]["Host"] == url.removeprefix("http://")
    assert "comfysnap_ui" not in seen["headers"].get("Cookie", "")
    assert "b=2" in seen["headers"]["Cookie"]


async def test_a_bearer_gives_access_and_is_not_forwarded(
    url: str, stranger: aiohttp.ClientSession
) -> None:
    async with stranger.get(url, headers={"Authorization": f"Bearer {TOKEN}"}) as response:
        assert "Authorization" not in (await response.json())["headers"]


async def test_messages_go_both_ways(url: str, stranger: aiohttp.ClientSession) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with stranger.ws_connect(f"{url}/ws?clientId=7", headers=headers) as connection:
        await connection.send_str("hello")
        assert await connection.receive_str(timeout=30) == "/ws?clientId=7 hello"
        await connection.send_bytes(b"x" * 3_000_000)
        assert len(await connection.receive_bytes(timeout=30)) == 3_000_001


async def test_the_cookie_is_secure_unless_plain_http_is_set(
    stranger: aiohttp.ClientSession,
) -> None:
    proxy, url = await listen(UiProxy(TOKEN, "http://127.0.0.1:9").app())
    async with stranger.get(f"{url}/?token={TOKEN}", allow_redirects=False) as response:
        assert "Secure" in response.headers["Set-Cookie"]
    await proxy.cleanup()


async def test_a_page_says_that_comfyui_is_starting(stranger: aiohttp.ClientSession) -> None:
    proxy, url = await listen(UiProxy(TOKEN, "http://127.0.0.1:9", secure=False).app())
    async with stranger.get(url, headers={"Authorization": f"Bearer {TOKEN}"}) as response:
        assert response.status == 503
        assert "refresh" in await response.text()
    await proxy.cleanup()


async def test_a_link_on_another_site_only_opens_the_page(
    url: str, stranger: aiohttp.ClientSession
) -> None:
    # ComfyUI answers 403 to whatever a browser marks as cross-site
    clicked = {"Authorization": f"Bearer {TOKEN}", "Sec-Fetch-Site": "cross-site"}
    async with stranger.get(f"{url}/?a=1", headers=clicked) as response:
        assert "Sec-Fetch-Site" not in (await response.json())["headers"]
    for method, path in (("GET", "/manager/reboot"), ("POST", "/")):
        async with stranger.request(method, url + path, headers=clicked) as response:
            assert (await response.json())["headers"]["Sec-Fetch-Site"] == "cross-site"


async def test_a_request_is_forwarded_without_additional_headers(
    url: str, stranger: aiohttp.ClientSession
) -> None:
    own = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with stranger.post(url, data=b"x", headers=headers, skip_auto_headers=own) as response:
        seen = (await response.json())["headers"]
    assert [name for name in own if name in seen] == []


async def test_requests_work_with_more_than_a_hundred_open_pages(
    url: str, stranger: aiohttp.ClientSession
) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as pages:
        opened = [await pages.ws_connect(f"{url}/ws") for _ in range(105)]
        timeout = aiohttp.ClientTimeout(total=30)
        async with stranger.get(url, headers=headers, timeout=timeout) as response:
            assert response.status == 201
        assert not any(page.closed for page in opened)


async def test_a_rejected_websocket_keeps_its_status(
    stranger: aiohttp.ClientSession,
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=403)

    app = web.Application()
    app.router.add_get("/ws", refuse)
    upstream, upstream_url = await listen(app)
    proxy, url = await listen(UiProxy(TOKEN, upstream_url, secure=False).app())
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await stranger.ws_connect(f"{url}/ws", headers={"Authorization": f"Bearer {TOKEN}"})
    assert refused.value.status == 403
    await proxy.cleanup()
    await upstream.cleanup()


async def test_a_page_that_does_not_answer_pings_is_disconnected(
    stranger: aiohttp.ClientSession,
) -> None:
    ended = asyncio.Event()

    async def wait(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        ended.set()
        return socket

    app = web.Application()
    app.router.add_get("/ws", wait)
    upstream, upstream_url = await listen(app)
    proxy, url = await listen(UiProxy(TOKEN, upstream_url, heartbeat=0.1).app())
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with stranger.ws_connect(f"{url}/ws", headers=headers, autoping=False):
        await asyncio.wait_for(ended.wait(), 30)
    await proxy.cleanup()
    await upstream.cleanup()


async def test_a_restart_during_a_request_shows_the_starting_page(
    stranger: aiohttp.ClientSession,
) -> None:
    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as restarting:
        port = restarting.sockets[0].getsockname()[1]
        proxy, url = await listen(UiProxy(TOKEN, f"http://127.0.0.1:{port}", secure=False).app())
        async with stranger.post(f"{url}/prompt", data=b"{}", headers=headers) as response:
            assert response.status == 503
            assert "refresh" in await response.text()
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await stranger.ws_connect(f"{url}/ws", headers=headers)
        assert refused.value.status == 503
        await proxy.cleanup()


def test_an_empty_token_is_rejected() -> None:
    with pytest.raises(ValueError, match="COMFYSNAP_UI_TOKEN"):
        UiProxy("", "http://127.0.0.1:9")


async def start_proxy(port: int, upstream: int, *command: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "comfysnap_server.ui.proxy", "--host", "127.0.0.1",
        "--port", str(port), "--upstream", str(upstream), "--plain-http", *command,
        env=os.environ | {"COMFYSNAP_UI_TOKEN": TOKEN},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip


async def test_the_page_shows_that_comfyui_exited_and_does_not_reload(
    stranger: aiohttp.ClientSession,
) -> None:
    port, inner = free_port(), free_port()
    process = await start_proxy(port, inner, sys.executable, "-c", "raise SystemExit(7)")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        await until_answered(stranger, f"http://127.0.0.1:{port}", headers, 502)
        async with stranger.get(f"http://127.0.0.1:{port}", headers=headers) as response:
            text = await response.text()
        assert "7" in text
        assert "refresh" not in text
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 60)


ECHO = """
import sys
from aiohttp import web

async def wait(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_str("open")
    await socket.receive()
    return socket

app = web.Application()
app.router.add_get("/ws", wait)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""


async def test_an_open_page_does_not_delay_the_shutdown(stranger: aiohttp.ClientSession) -> None:
    port, inner = free_port(), free_port()
    process = await start_proxy(port, inner, sys.executable, "-c", ECHO, str(inner))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"http://127.0.0.1:{port}"
    await until_answered(stranger, f"{url}/nothing", headers, 404)
    async with stranger.ws_connect(f"{url}/ws", headers=headers) as page:
        assert await page.receive_str(timeout=30) == "open"
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 10)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", inner)


GRAPH = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 255},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "seen"}},
}


@pytest.mark.comfyui
async def test_comfyui_and_its_manager_run_behind_the_proxy(
    tmp_path: Path, stranger: aiohttp.ClientSession
) -> None:
    checkout, python = os.environ.get("COMFYUI_PATH"), os.environ.get("COMFYUI_PYTHON")
    if not checkout or not python:
        pytest.skip("COMFYUI_PATH and COMFYUI_PYTHON are not set")
    port, inner = free_port(), free_port()
    command = comfyui_command(
        Path(checkout), python, port=inner, own=tmp_path / "own", database=tmp_path / "comfyui.db",
        arguments=["--cpu", "--temp-directory", str(tmp_path), "--disable-all-custom-nodes"],
    )  # fmt: skip
    process = await start_proxy(port, inner, *command.argv)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"http://127.0.0.1:{port}"
    page = headers | {"Origin": "https://example.com", "Host": "example.com"}
    try:
        status = await until_answered(stranger, f"{url}/system_stats", headers, 200, 502)
        if status == 502 and read_version(Path(checkout)) != TESTED[-1]:
            pytest.skip("main.py of this release does not start with the packages installed here")
        assert status == 200
        async with stranger.get(f"{url}/system_stats") as refused:
            assert refused.status == 401
        async with stranger.get(f"{url}/", headers=page | {"Sec-Fetch-Site": "cross-site"}) as root:
            assert "<title>ComfyUI</title>" in await root.text()
        assert (tmp_path / "comfyui.db").is_file()
        async with stranger.ws_connect(f"{url}/ws?clientId=1", headers=page) as connection:
            assert (await connection.receive_json(timeout=30))["type"] == "status"
            prompt = {"prompt": GRAPH, "client_id": "1"}
            async with stranger.post(f"{url}/prompt", json=prompt, headers=page) as response:
                assert response.status == 200
            types: list[str] = []
            while "execution_success" not in types:
                types.append((await connection.receive_json(timeout=30))["type"])
        assert "execution_error" not in types
        view = f"{url}/view?filename=seen_00001_.png&type=output"
        async with stranger.get(view, headers=page) as response:
            picture = await response.read()
        assert (tmp_path / "own" / "output" / "seen_00001_.png").read_bytes() == picture

        async with stranger.get(f"{url}/v2/manager/version", headers=page) as response:
            assert response.status == (200 if command.manager else 404)
        if command.manager:
            async with stranger.get(f"{url}/v2/snapshot/get_current", headers=page) as response:
                assert "cnr_custom_nodes" in await response.json()
            async with stranger.ws_connect(f"{url}/ws?clientId=1", headers=page) as connection:
                async with stranger.post(f"{url}/v2/manager/reboot", headers=page) as response:
                    assert response.status == 503
                while (await connection.receive(timeout=30)).type is aiohttp.WSMsgType.TEXT:
                    pass
                assert connection.closed
            await until_answered(stranger, f"{url}/system_stats", headers, 200)
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 60)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", inner)


async def until_answered(
    session: aiohttp.ClientSession, url: str, headers: dict[str, str], *statuses: int
) -> int:
    """Send requests until ComfyUI, or its stand-in, is up or has exited; returns the status."""
    async with asyncio.timeout(120):
        while True:
            with suppress(aiohttp.ClientConnectionError):  # the proxy itself is starting
                async with session.get(url, headers=headers) as response:
                    if response.status in statuses:
                        return response.status
                    assert response.status == 503
            await asyncio.sleep(0.1)
