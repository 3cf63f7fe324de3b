"""More strangers than the server has places for."""

import hashlib
import logging
import resource
import select
import socket
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from comfysnap_schema.workflow.apply import Workflow
from comfysnap_server.gateway import bodies
from comfysnap_server.gateway.app import create_app
from comfysnap_server.gateway.capacity import Capacity, raise_descriptor_limit
from comfysnap_server.gateway.connections import BoundedHttpProtocol
from comfysnap_server.gateway.keys import hash_key, new_key
from comfysnap_server.gateway.serving import GatewayServer
from comfysnap_server.gateway.settings import GatewaySettings
from tests.server.gateway.fakes import FakeBackend
from tests.servers import running

SMALL = Capacity(connections=8, waits=4, uploads=2, downloads=2, bodies=2, backlog=8)
CONTENT = b"content"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
SLOW_UPLOAD = f"PUT /files/{DIGEST} HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\nc".encode()
SLOW_BODY = b"POST /infer_async HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{"


@contextmanager
def serving(
    workflow: Workflow,
    *,
    backend: FakeBackend | None = None,
    settings: GatewaySettings | None = None,
    capacity: Capacity = SMALL,
) -> Generator[GatewayServer]:
    app = create_app(
        backend or FakeBackend(), {workflow.name: workflow}, settings or GatewaySettings(),
        capacity=capacity,
    )  # fmt: skip
    with running(app) as server:
        yield server


class Crowd(ExitStack):
    """Connections of one stranger, closed at the end."""

    def __init__(self, server: GatewayServer) -> None:
        super().__init__()
        url = httpx.URL(server.url)
        self._address = (url.host, url.port or 80)

    def connect(self, sent: bytes = b"") -> socket.socket:
        connection = self.enter_context(socket.create_connection(self._address, timeout=60))
        connection.sendall(sent)
        return connection


def status_of(connection: socket.socket) -> bytes:
    """Of the answer: ``200``; empty when the server hung up."""
    try:
        return connection.recv(65536)[9:12]
    except ConnectionResetError:
        return b""


def until(done: bool, limit: float) -> bool:
    assert done or time.monotonic() < limit
    if not done:
        time.sleep(0.01)
    return done


def until_healthy(server: GatewayServer) -> None:
    """Come back until there is a place, as a client does."""
    limit = time.monotonic() + 60
    while not until(_is_healthy(server), limit):
        pass


def _is_healthy(server: GatewayServer) -> bool:
    try:
        return httpx.get(f"{server.url}/health", timeout=60).status_code == 200
    except httpx.TransportError:  # refused before the request was read
        return False


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\nX-"])
def test_the_oldest_idle_connection_makes_room_for_a_new_one(
    workflow: Workflow, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(workflow) as server, Crowd(server) as crowd:
        idle = [crowd.connect(sent) for _ in range(8)]
        with caplog.at_level(logging.WARNING):
            until_healthy(server)
            until_healthy(server)
        assert status_of(idle[0]) == b""
        idle[-1].sendall((sent and b"Y: 1\r\n\r\n") or b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status_of(idle[-1]) == b"200"
    assert caplog.text.count("all 8 connections are in use") == 1


def test_a_connection_that_was_answered_is_idle_again(workflow: Workflow) -> None:
    with serving(workflow) as server, Crowd(server) as crowd:
        for _ in range(20):
            connection = crowd.connect(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert status_of(connection) == b"200"


def test_a_connection_whose_request_is_being_answered_is_kept(workflow: Workflow) -> None:
    with serving(workflow) as server, Crowd(server) as crowd:
        job = httpx.post(f"{server.url}/infer_async", json={"prompt": "x"}).json()["id"]
        wait = f"GET /check_status/{job}?wait=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        waiting = crowd.connect(wait)
        for _ in range(20):
            crowd.connect()
        until_healthy(server)
        assert status_of(waiting) == b"200"


def test_when_every_connection_is_busy_a_new_one_is_refused_at_once(workflow: Workflow) -> None:
    capacity = Capacity(connections=3, waits=3, uploads=1, downloads=1, bodies=1, backlog=8)
    with serving(workflow, capacity=capacity) as server, Crowd(server) as crowd:
        job = httpx.post(f"{server.url}/infer_async", json={"prompt": "x"}).json()["id"]
        stream = f"GET /events/{job} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        assert [status_of(crowd.connect(stream)) for _ in range(3)] == [b"200"] * 3
        answer = crowd.connect().recv(65536)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"Retry-After: 1\r\n" in answer
        assert b'"code":"unavailable"' in answer


def test_a_reader_who_stopped_reading_makes_room_for_a_new_connection(
    workflow: Workflow, tmp_path: Path
) -> None:
    backend = FakeBackend()
    capacity = Capacity(connections=2, waits=1, uploads=1, downloads=2, bodies=1, backlog=8)
    with serving(workflow, backend=backend, capacity=capacity) as server, Crowd(server) as crowd:
        job = httpx.post(f"{server.url}/infer_async", json={"prompt": "x"}).json()["id"]
        backend.add_output(tmp_path / "film.mp4", bytes(24 * 1024 * 1024), "video/mp4")
        get = f"GET /outputs/{job}/film.mp4 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        for _ in range(2):
            assert crowd.connect(get).recv(16)
        limit = time.monotonic() + 50
        while not until(status_of(crowd.connect(GET_HEALTH)) == b"200", limit):
            pass
        assert BoundedHttpProtocol.write_timeout > 50


GET_HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def test_waits_leave_room_for_requests_that_are_answered_at_once(workflow: Workflow) -> None:
    with serving(workflow) as server, Crowd(server) as crowd:
        job = httpx.post(f"{server.url}/infer_async", json={"prompt": "x"}).json()["id"]
        wait = f"GET /check_status/{job}?wait=25 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        waiting = [crowd.connect(wait) for _ in range(7)]
        refused = answered(waiting, 3)
        assert [status_of(connection) for connection in refused] == [b"429"] * 3
        assert httpx.get(f"{server.url}/check_status/{job}").status_code == 200


def answered(connections: list[socket.socket], count: int) -> list[socket.socket]:
    """The connections with an answer, once there are so many."""
    limit = time.monotonic() + 60
    while len(found := select.select(connections, [], [], 0.05)[0]) < count:
        assert time.monotonic() < limit
    return found


def test_one_owner_of_several_takes_at_most_half_of_the_waits(workflow: Workflow) -> None:
    alice, bob = new_key(), new_key()
    settings = GatewaySettings(auth="keys", keys={"a": hash_key(alice), "b": hash_key(bob)})
    with serving(workflow, settings=settings) as server, Crowd(server) as crowd:
        jobs: dict[str, str] = {}
        for key in (alice, bob):
            answer = httpx.post(
                f"{server.url}/infer_async", json={"prompt": "x"},
                headers={"Authorization": f"Bearer {key}"},
            )  # fmt: skip
            jobs[key] = answer.json()["id"]
        streams = {
            key: f"GET /events/{job} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
            for key, job in jobs.items()
        }
        answers = [status_of(crowd.connect(streams[alice].encode())) for _ in range(3)]
        assert answers == [b"200", b"200", b"429"]
        assert status_of(crowd.connect(streams[bob].encode())) == b"200"


@pytest.mark.parametrize("slow", [SLOW_UPLOAD, SLOW_BODY], ids=["upload", "body"])
def test_slow_senders_lose_their_place_to_one_who_sends(workflow: Workflow, slow: bytes) -> None:
    settings = GatewaySettings(body_timeout=100)
    with serving(workflow, settings=settings) as server, Crowd(server) as crowd:
        dripping = [crowd.connect(slow) for _ in range(6)]
        limit = time.monotonic() + 60
        while not until(_send(server, slow), limit):
            pass
        ended = answered(dripping, 5)  # one of two places was enough
        assert len(ended) == 5
        assert {status_of(connection) for connection in ended} == {b"408", b"429"}


def _send(server: GatewayServer, like: bytes) -> bool:
    if like is SLOW_UPLOAD:
        return httpx.put(f"{server.url}/files/{DIGEST}", content=CONTENT).is_success
    return httpx.post(f"{server.url}/infer_async", json={"prompt": "x"}).is_success


def test_a_sender_who_keeps_up_is_not_displaced(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_BEHIND_S", 30)  # even on a busy machine
    capacity = Capacity(connections=8, waits=1, uploads=1, downloads=1, bodies=1, backlog=8)
    settings = GatewaySettings(body_timeout=60, min_upload_rate=1)
    with (
        serving(workflow, settings=settings, capacity=capacity) as server,
        Crowd(server) as crowd,
    ):
        steady = crowd.connect(SLOW_UPLOAD)
        refused = httpx.put(f"{server.url}/files/{DIGEST}", content=CONTENT)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
        steady.sendall(CONTENT[1:])
        assert status_of(steady) == b"204"


def test_an_upload_slower_than_the_minimum_is_refused(workflow: Workflow) -> None:
    settings = GatewaySettings(body_timeout=0.5, min_upload_rate=1000)
    with serving(workflow, settings=settings) as server, Crowd(server) as crowd:
        head = f"PUT /files/{DIGEST} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n"
        upload = crowd.connect(head.encode())
        limit = time.monotonic() + 60
        while not select.select([upload], [], [], 0.05)[0]:
            assert time.monotonic() < limit
            upload.sendall(b"x")
        assert status_of(upload) == b"408"


def test_a_download_too_many_is_refused(workflow: Workflow, tmp_path: Path) -> None:
    backend = FakeBackend()
    with serving(workflow, backend=backend) as server, Crowd(server) as crowd:
        job = httpx.post(f"{server.url}/infer_async", json={"prompt": "x"}).json()["id"]
        backend.add_output(tmp_path / "film.mp4", bytes(24 * 1024 * 1024), "video/mp4")
        get = f"GET /outputs/{job}/film.mp4 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        first = [crowd.connect(get) for _ in range(2)]
        assert all(connection.recv(16) for connection in first)
        answer = httpx.get(f"{server.url}/outputs/{job}/film.mp4")
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
        assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("descriptors", [64, 256, 1024, 20_000, 65_536])
def test_everything_that_is_open_at_once_fits_into_the_limit(descriptors: int) -> None:
    shares = Capacity.of(descriptors)
    held = shares.waits + shares.uploads + shares.downloads + shares.bodies
    assert held < shares.connections
    open_files = shares.connections + shares.uploads + shares.downloads + shares.backlog
    assert open_files <= descriptors


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        raise_descriptor_limit()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft == min(hard, 65_536)
        assert Capacity.of_process() == Capacity.of(soft)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
