import socket
import time
from collections.abc import Generator, Iterator

import httpx
import pytest

from comfysnap_schema.workflow.apply import Workflow
from comfysnap_server.gateway import serving
from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.serving import GatewayServer
from comfysnap_server.gateway.settings import GatewaySettings
from tests.server.gateway.fakes import FakeBackend
from tests.servers import running

FIFTY_MB = 50 * 1024 * 1024


@pytest.fixture
def server(workflow: Workflow) -> Generator[GatewayServer]:
    settings = GatewaySettings(max_waits=1, keep_alive=0.05)
    app = create_app(FakeBackend(), {workflow.name: workflow}, settings)
    with running(app) as server:
        yield server


def connect(server: GatewayServer) -> socket.socket:
    url = httpx.URL(server.url)
    assert url.port is not None
    return socket.create_connection((url.host, url.port), timeout=60)


def submit(server: GatewayServer) -> str:
    answer = httpx.post(server.url + "/infer_async", json={"prompt": "x"})
    return answer.json()["id"]


def test_an_announced_body_of_fifty_megabytes_is_refused_before_it_is_sent(
    server: GatewayServer,
) -> None:
    with connect(server) as connection:
        head = f"POST /infer_sync HTTP/1.1\r\nHost: x\r\nContent-Length: {FIFTY_MB}\r\n"
        connection.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b'"code":"body_too_large"' in answer


@pytest.mark.parametrize("path", ["/infer_sync", "/files/" + "0" * 64])
def test_a_body_that_is_sent_anyway_gets_its_answer(server: GatewayServer, path: str) -> None:
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        while sent < FIFTY_MB:
            sent += 1024 * 1024
            yield b" " * 1024 * 1024

    method = "PUT" if "files" in path else "POST"
    length = {"Content-Length": str(3 * 1024**3)} if "files" in path else {}
    answer = httpx.request(method, server.url + path, content=chunks(), headers=length)
    assert answer.status_code == 413
    assert answer.headers["connection"] == "close"
    assert sent < FIFTY_MB


@pytest.mark.parametrize("route", ["POST /infer_sync", "PUT /files/" + "0" * 64])
def test_a_body_that_never_comes_is_not_waited_for(workflow: Workflow, route: str) -> None:
    settings = GatewaySettings(body_timeout=0.5)
    app = create_app(FakeBackend(), {workflow.name: workflow}, settings)
    with running(app) as server, connect(server) as connection:
        head = f"{route} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
        connection.sendall(head.encode() + b"{")
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")
        assert connection.recv(65536) == b""


def test_a_client_that_hangs_up_frees_its_place(server: GatewayServer) -> None:
    job = submit(server)
    with connect(server) as connection:
        connection.sendall(f"GET /check_status/{job}?wait=25 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        _until(server, job, 429)
    _until(server, job, 200)


def test_a_job_that_is_accepted_while_all_waits_are_taken_is_never_refused(
    server: GatewayServer,
) -> None:
    first = submit(server)
    with connect(server) as connection:
        wait = f"GET /check_status/{first}?wait=25 HTTP/1.1\r\nHost: x\r\n\r\n"
        connection.sendall(wait.encode())
        _until(server, first, 429)
        answer = httpx.post(f"{server.url}/infer_sync", json={"prompt": "x"})
        assert answer.status_code == 202
        assert answer.json()["status"] == "queued"
        assert answer.headers["location"] == f"/check_status/{answer.json()['id']}"
        assert "retry-after" not in answer.headers


def test_an_event_stream_too_many_is_refused_before_it_begins(server: GatewayServer) -> None:
    job = submit(server)
    with httpx.stream("GET", f"{server.url}/events/{job}") as first:
        lines = first.iter_lines()
        assert next(lines).startswith("id:")
        second = httpx.get(f"{server.url}/events/{job}", headers={"X-Request-Id": "second"})
        assert (second.status_code, second.json()["code"]) == (429, "rate_limited")
        assert second.json()["request_id"] == "second"
    _until(server, job, 200)


def _until(server: GatewayServer, job: str, status: int) -> None:
    limit = time.monotonic() + 60
    while (answer := httpx.get(f"{server.url}/check_status/{job}?wait=0.01")).status_code != status:
        assert time.monotonic() < limit, answer.text
        time.sleep(0.01)


def test_a_silent_event_stream_is_kept_alive(server: GatewayServer) -> None:
    job = submit(server)
    with httpx.stream("GET", f"{server.url}/events/{job}") as answer:
        lines = answer.iter_lines()
        assert next(line for line in lines if line.startswith(":"))


def test_a_server_that_stops_does_not_wait_for_held_requests(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "_GRACE_S", 60)  # it does not break them off
    app = create_app(FakeBackend(), {workflow.name: workflow}, GatewaySettings())
    with running(app) as server, connect(server) as connection:
        job = submit(server)
        connection.sendall(f"GET /check_status/{job}?wait=25 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        with httpx.stream("GET", f"{server.url}/events/{job}") as events:
            lines = events.iter_lines()
            assert next(lines).startswith("id:")
            started = time.monotonic()
            server.stop()
            assert "event: done" not in list(lines)
        assert b'"status":"queued"' in connection.recv(65536)
    assert time.monotonic() - started < 20  # of 25 s that one would be held


def test_a_server_that_has_stopped_may_be_asked_again(workflow: Workflow) -> None:
    app = create_app(FakeBackend(), {workflow.name: workflow}, GatewaySettings())
    with running(app) as server:
        pass
    server.stop()
