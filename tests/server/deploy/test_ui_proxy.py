import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from comfysnap_server.deploy.ui_proxy import UiProxy

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
    """The proxy before a server that tells what it saw."""
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
async def test_nothing_is_answered_without_the_token(
    url: str, stranger: aiohttp.ClientSession, path: str, method: str
) -> None:
    async with stranger.request(method, url + path, allow_redirects=False) as response:
        assert response.status == 401
        assert "X-Upstream" not in response.headers


@pytest.mark.parametrize(
    "headers",
    [{"Cookie": "comfysnap_ui="}, {"Cookie": "comfysnap_ui=x"}, {"Authorization": "Bearer é"}],
)
async def test_a_wrong_cookie_or_bearer_is_refused(
    url: str, stranger: aiohttp.ClientSession, headers: dict[str, str]
) -> None:
    async with stranger.get(url, headers=headers) as response:
        assert response.status == 401
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await stranger.ws_connect(f"{url}/ws", headers=headers)


async def test_a_bearer_that_is_no_text_is_refused(url: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n")
    async with asyncio.timeout(5):
        assert (await reader.readline()).split()[1] == b"401"
    writer.close()


async def test_the_printed_address_opens_everything(
    url: str, stranger: aiohttp.ClientSession
) -> None:
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


async def test_a_bearer_works_for_programs_and_is_not_handed_on(
    url: str, stranger: aiohttp.ClientSession
) -> None:
    async with stranger.get(url, headers={"Authorization": f"Bearer {TOKEN}"}) as response:
        assert "Authorization" not in (await response.json())["headers"]


async def test_messages_go_both_ways(url: str, stranger: aiohttp.ClientSession) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with stranger.ws_connect(f"{url}/ws?clientId=7", headers=headers) as connection:
        await connection.send_str("hello")
        assert await connection.receive_str(timeout=5) == "/ws?clientId=7 hello"
        await connection.send_bytes(b"x" * 3_000_000)
        assert len(await connection.receive_bytes(timeout=5)) == 3_000_001


async def test_the_cookie_is_for_https_alone_unless_told_otherwise(
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


def test_no_token_opens_nothing() -> None:
    with pytest.raises(ValueError, match="COMFYSNAP_UI_TOKEN"):
        UiProxy("", "http://127.0.0.1:9")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.comfyui
@pytest.mark.timeout(180)
async def test_comfyui_itself_is_behind_the_proxy(
    tmp_path: Path, stranger: aiohttp.ClientSession
) -> None:
    checkout, python = os.environ.get("COMFYUI_PATH"), os.environ.get("COMFYUI_PYTHON")
    if not checkout or not python:
        pytest.skip("COMFYUI_PATH and COMFYUI_PYTHON are not set")
    port, inner = free_port(), free_port()
    for name in ("user", "output"):
        (tmp_path / name).mkdir()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "comfysnap_server.deploy.ui_proxy", "--host", "127.0.0.1",
        "--port", str(port), "--upstream", str(inner), "--plain-http",
        python, str(Path(checkout) / "main.py"), "--cpu", "--port", str(inner),
        "--user-directory", str(tmp_path / "user"), "--output-directory", str(tmp_path / "output"),
        "--disable-all-custom-nodes", "--disable-auto-launch", "--dont-print-server",
        env=os.environ | {"COMFYSNAP_UI_TOKEN": TOKEN},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            if await answers(stranger, f"{url}/system_stats", headers):
                break
            await asyncio.sleep(0.5)
        async with stranger.get(f"{url}/system_stats") as refused:
            assert refused.status == 401
        async with stranger.get(f"{url}/object_info/KSampler", headers=headers) as response:
            assert "KSampler" in await response.json()
        page = headers | {"Origin": "https://example.com", "Host": "example.com"}
        async with stranger.ws_connect(f"{url}/ws?clientId=1", headers=page) as connection:
            message = await connection.receive_json(timeout=10)
            assert message["type"] == "status"
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 30)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", inner)


async def answers(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> bool:
    try:
        async with session.get(url, headers=headers) as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False
