"""What a stranger can do to a connection."""

import json
import os
import socket
import time
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from comfysnap_schema.workflow.apply import Workflow
from comfysnap_server.gateway import connections
from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.connections import MAX_HEAD_BYTES, BoundedHttpProtocol
from comfysnap_server.gateway.serving import GatewayServer
from comfysnap_server.gateway.settings import GatewaySettings
from tests.server.gateway.fakes import FakeBackend
from tests.servers import running

UNAUTHORIZED = b"POST /infer_sync HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def server(workflow: Workflow) -> Generator[GatewayServer]:
    settings = GatewaySettings(auth="keys", keys={"anna": "0" * 64})
    with running(create_app(FakeBackend(), {workflow.name: workflow}, settings)) as server:
        yield server


def connect(server: GatewayServer) -> socket.socket:
    url = httpx.URL(server.url)
    assert url.port is not None
    return socket.create_connection((url.host, url.port), timeout=60)


def read_all(connection: socket.socket) -> bytes:
    """Until the server hangs up."""
    parts: list[bytes] = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def flood(connection: socket.socket, piece: bytes) -> bool:
    """Send much more than any limit; whether the server hung up on it."""
    try:
        for _ in range(64):
            connection.sendall(piece * (MAX_HEAD_BYTES // len(piece)))
    except OSError:
        return True
    return False


@pytest.mark.parametrize("piece", [b"x", b"x: y\r\n"], ids=["one header", "many headers"])
def test_a_head_without_end_is_refused(server: GatewayServer, piece: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: 1\r\n")
        assert flood(connection, piece)


def test_a_head_that_is_a_little_too_large_gets_an_answer(server: GatewayServer) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: ")
        connection.sendall(b"x" * (MAX_HEAD_BYTES + 1))
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 431")
        assert json.loads(body)["code"] == "invalid_request"


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET /health HTTP/1.1\r\nHost: x\r\nX-"])
def test_a_head_that_does_not_come_is_not_waited_for(
    server: GatewayServer, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(BoundedHttpProtocol, "head_timeout", 0.3)
    with connect(server) as connection:
        connection.sendall(sent)
        assert read_all(connection).startswith(b"HTTP/1.1 408")


def test_a_second_head_that_does_not_come_is_not_waited_for_either(
    server: GatewayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        monkeypatch.setattr(BoundedHttpProtocol, "head_timeout", 0.3)
        connection.sendall(b"GET /health HT")
        assert b"HTTP/1.1 408" in read_all(connection)


def test_trailers_without_end_are_not_read(server: GatewayServer) -> None:
    with connect(server) as connection:
        connection.sendall(UNAUTHORIZED + b"2\r\n{}\r\n0\r\nX-Long: ")
        assert flood(connection, b"x")


def test_a_body_that_nobody_reads_does_not_keep_its_connection(
    server: GatewayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedHttpProtocol, "linger", 0.3)
    with connect(server) as connection:
        connection.sendall(UNAUTHORIZED)
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")
        connection.settimeout(0.05)
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            try:
                connection.sendall(b"1\r\nx\r\n")
                if not connection.recv(65536):
                    return
            except TimeoutError:
                continue
            except OSError:
                return
        pytest.fail("the server reads on")


def test_requests_on_one_connection_are_all_answered(server: GatewayServer) -> None:
    with connect(server) as connection:
        request = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Pad: %s\r\n\r\n" % (b"x" * 1000)
        connection.sendall(request * 99)
        connection.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert read_all(connection).count(b"HTTP/1.1 200") == 100


LARGE = 24 * 1024 * 1024
"""More than the kernel holds for a reader."""


@pytest.fixture
def reader(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Generator[tuple[GatewayServer, socket.socket]]:
    """Somebody who asked for a large file."""
    monkeypatch.setattr(BoundedHttpProtocol, "write_timeout", 0.5)
    backend = FakeBackend()
    with running(create_app(backend, {workflow.name: workflow}, GatewaySettings())) as server:
        job = httpx.post(f"{server.url}/infer_async", json={"prompt": "x"}).json()["id"]
        backend.add_output(tmp_path / "film.mp4", bytes(LARGE), "video/mp4")
        with connect(server) as connection:
            get = f"GET /outputs/{job}/film.mp4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            connection.sendall(get.encode())
            yield server, connection


def test_a_reader_who_stopped_reading_loses_the_connection(
    reader: tuple[GatewayServer, socket.socket],
) -> None:
    server, connection = reader
    assert connection.recv(16)
    limit = time.monotonic() + 60
    while server.server_state.connections:
        assert time.monotonic() < limit
        time.sleep(0.02)
    assert len(read_all(connection)) < LARGE


def test_a_little_that_nobody_reads_keeps_no_connection_that_closes(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(BoundedHttpProtocol, "write_timeout", 0.5)
    backend = FakeBackend()
    with running(create_app(backend, {workflow.name: workflow}, GatewaySettings())) as server:
        job = httpx.post(f"{server.url}/infer_async", json={"prompt": "x"}).json()["id"]
        backend.add_output(tmp_path / "note.txt", bytes(40_000), "text/plain")
        with socket.socket(fileno=os.dup(server.servers[0].sockets[0].fileno())) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            url = httpx.URL(server.url)
            connection.connect((url.host, url.port))
            get = f"GET /outputs/{job}/note.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            connection.sendall(get.encode())
            assert connection.recv(16)
            limit = time.monotonic() + 60
            while server.server_state.connections:
                assert time.monotonic() < limit
                time.sleep(0.02)


def test_a_reader_who_is_only_slow_gets_everything(
    reader: tuple[GatewayServer, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_SECOND_LOOK_S", 60)  # a busy machine makes longer pauses
    _, connection = reader
    read = 0
    for _ in range(12):
        time.sleep(0.1)  # the slowness under test
        read += len(connection.recv(1024 * 1024))
    assert read + len(read_all(connection)) > LARGE


def test_a_body_behind_another_request_has_its_time(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedHttpProtocol, "linger", 0.1)
    body = b'{"prompt": "x"}'
    post = (
        b"POST /infer_async HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    )
    app = create_app(FakeBackend(), {workflow.name: workflow}, GatewaySettings())
    with running(app) as server, connect(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" + post % len(body) + body[:5])
        time.sleep(0.5)  # longer than a body may take that nobody reads
        connection.sendall(body[5:])
        answers = read_all(connection)
        assert b"HTTP/1.1 200" in answers
        assert b"HTTP/1.1 202" in answers
