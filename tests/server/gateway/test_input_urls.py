"""Input files that a caller names by URL: downloaded before the job is accepted."""

import asyncio
import hashlib
import os
import socket
import tempfile
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from comfysnap_schema.workflow.apply import Workflow
from comfysnap_server.backends.local import LocalBackend
from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.settings import GatewaySettings
from comfysnap_server.jobs import FetchPolicy
from tests.server.gateway.fakes import FakeBackend
from tests.servers import running

LOOPBACK = FetchPolicy(allow=("127.0.0.1/32",), max_bytes=100_000, timeout=60)
CONTENT = b"a picture" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Site:
    """A small web site on the loopback."""

    def __init__(self) -> None:
        self.url = ""
        self.content = CONTENT
        self.requests = 0


@pytest.fixture
def site() -> Generator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests += 1
            self.send_response(404 if "gone" in self.path else 200)
            self.send_header("Content-Length", str(len(site.content)))
            self.end_headers()
            self.wfile.write(site.content)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}/a/fox.WEBP?size=2"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@asynccontextmanager
async def gateway(
    backend: FakeBackend, workflow: Workflow, fetch: FetchPolicy | None = LOOPBACK
) -> AsyncGenerator[httpx.AsyncClient]:
    app = create_app(backend, {workflow.name: workflow}, GatewaySettings(), fetch=fetch)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as http:
        yield http


def asking_for(url: str) -> dict[str, Any]:
    return {"prompt": "x", "image": {"url": url}}


async def test_a_file_by_url_is_stored_by_its_content(
    backend: FakeBackend, workflow: Workflow, site: Site
) -> None:
    async with gateway(backend, workflow) as http:
        answer = await http.post("/infer_async", json=asking_for(site.url))
    assert answer.json()["inputs"]["image"] == {"sha256": DIGEST}
    assert backend.files == {f"local/{DIGEST}": CONTENT}
    request = backend.requests[answer.json()["id"]]
    assert list(request.files) == [f"{DIGEST[:32]}.webp"]
    assert request.graph["10"]["inputs"]["image"] == f"{DIGEST[:32]}.webp"


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"url": "gone"}, "404"), ({"content": bytes(100_001)}, "larger"),
     ({"fetch": None}, "public")],
)  # fmt: skip
async def test_a_file_that_cannot_be_had_is_a_problem_of_its_field(
    backend: FakeBackend, workflow: Workflow, site: Site, change: dict[str, Any], reason: str
) -> None:
    site.content = change.get("content", CONTENT)
    url = site.url + change.get("url", "")
    async with gateway(backend, workflow, change.get("fetch", LOOPBACK)) as http:
        answer = await http.post(
            "/infer_async", json=asking_for(url), headers={"Idempotency-Key": "k"}
        )
        assert (answer.status_code, answer.json()["code"]) == (422, "input_unavailable")
        assert reason in answer.json()["fields"][0]["message"]
        assert answer.json()["fields"][0]["field"] == "image"
        assert not backend.jobs
        body = {"prompt": "another, with the same key"}
        again = await http.post("/infer_async", json=body, headers={"Idempotency-Key": "k"})
        assert again.status_code == 202


async def test_a_replay_downloads_nothing(
    backend: FakeBackend, workflow: Workflow, site: Site
) -> None:
    async with gateway(backend, workflow) as http:
        body, key = asking_for(site.url), {"Idempotency-Key": "k"}
        first = await http.post("/infer_async", json=body, headers=key)
        again = await http.post("/infer_async", json=body, headers=key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.headers["idempotency-replayed"] == "true"
    assert (len(backend.jobs), site.requests) == (1, 1)


@pytest.fixture
def silent_name_server(monkeypatch: pytest.MonkeyPatch) -> Generator[threading.Semaphore]:
    """Names in ``.silent`` are not resolved before the test ends; released once for each."""
    ended, asked = threading.Event(), threading.Semaphore(0)
    resolve = socket.getaddrinfo

    def wait(host: Any, *args: Any, **options: Any) -> Any:
        if str(host).endswith(".silent"):
            asked.release()
            ended.wait(200)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", wait)
    yield asked
    ended.set()


async def test_names_that_are_never_resolved_hold_up_nothing_else(
    workflow: Workflow, silent_name_server: threading.Semaphore, tmp_path: Path
) -> None:
    backend = LocalBackend(tmp_path)
    fetch = FetchPolicy(timeout=1)
    app = create_app(backend, {workflow.name: workflow}, GatewaySettings(), fetch=fetch)
    with running(app) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            hung = [
                asyncio.create_task(
                    http.post("/infer_async", json=asking_for(f"http://{number}.silent/a.png"))
                )
                for number in range(12)
            ]
            for _ in hung:
                assert await asyncio.to_thread(silent_name_server.acquire, timeout=60)
            stored = await http.put(f"/files/{DIGEST}", content=CONTENT)
            assert stored.status_code == 204
            body = {"prompt": "x", "image": {"sha256": DIGEST}}
            done = await http.post("/infer_sync", json=body)
            assert done.json()["status"] in ("succeeded", "failed")
            for answer in await asyncio.gather(*hung):
                assert (answer.status_code, answer.json()["code"]) == (422, "input_unavailable")


async def test_downloads_too_many_are_refused_until_their_threads_have_ended(
    backend: FakeBackend, workflow: Workflow, silent_name_server: threading.Semaphore
) -> None:
    async with gateway(backend, workflow, FetchPolicy(timeout=1)) as http:
        answers = await asyncio.gather(
            *(
                http.post("/infer_async", json=asking_for(f"http://{number}.silent/a.png"))
                for number in range(40)
            )
        )
        codes = sorted(answer.status_code for answer in answers)
        assert codes == [422] * 32 + [429] * 8
        late = await http.post("/infer_async", json=asking_for("http://late.silent/a.png"))
        assert late.status_code == 429
        assert (await http.post("/infer_async", json={"prompt": "x"})).status_code == 202


def test_what_a_killed_server_left_of_downloads_is_deleted(
    workflow: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, new = tmp_path / "comfysnap-input-old", tmp_path / "comfysnap-input-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "file").touch()
    os.utime(old, (1, 1))
    create_app(FakeBackend(), {workflow.name: workflow}, GatewaySettings())
    assert (old.exists(), new.exists()) == (False, True)
