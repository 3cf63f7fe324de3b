"""Downloads of input files: what a stranger names must not reach what they should not."""

import hashlib
import ipaddress
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from comfysnap_server.jobs.fetch import FetchError, FetchPolicy, fetch
from comfysnap_server.jobs.ssrf import is_public
from tests.server.jobs.conftest import Site

LOOPBACK = FetchPolicy(allow=("127.0.0.1/32",), max_bytes=100_000, timeout=60)
CONTENT = bytes(range(256)) * 100


def send(
    content: bytes = CONTENT, status: int = 200, headers: dict[str, str] | None = None
) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def test_an_allowed_address_is_downloaded_and_hashed(site: Site, tmp_path: Path) -> None:
    site.routes["/a.png?size=1"] = send()
    digest = fetch(f"{site.url}/a.png?size=1", tmp_path / "a.png", LOOPBACK)
    assert digest == hashlib.sha256(CONTENT).hexdigest()
    assert (tmp_path / "a.png").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",  # noqa: S104 -- a host to refuse, nothing listens there
        "127.1",
        "2130706433",
        "0x7f000001",
    ],
)
def test_a_loopback_server_is_never_asked(site: Site, tmp_path: Path, host: str) -> None:
    site.routes["/"] = send()
    port = site.url.rpartition(":")[2]
    with pytest.raises(FetchError):
        fetch(f"http://{host}:{port}/", tmp_path / "a", FetchPolicy(timeout=60))
    assert site.asked == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.2", "169.254.169.254", "100.64.0.1",
        "224.0.0.1", "240.0.0.1", "255.255.255.255", "168.63.129.16", "100.100.100.200",
        "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1",
        "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "2001:db8::1", "192.0.0.192",
        "fec0::1", "3fff::1", "64:ff9b:1::a00:1", "::127.0.0.1", "2001:0:7f00:1::",
        "192.88.99.1", "::ffff:192.88.99.1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_a_redirect_to_a_forbidden_address_is_refused(site: Site, tmp_path: Path) -> None:
    port = site.url.rpartition(":")[2]
    site.routes["/"] = send(status=302, headers={"Location": f"http://127.0.0.2:{port}/secret"})
    with pytest.raises(FetchError):
        fetch(site.url, tmp_path / "a", LOOPBACK)
    assert site.asked == ["/"]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://x"])
def test_a_redirect_to_another_scheme_is_refused(site: Site, tmp_path: Path, location: str) -> None:
    site.routes["/"] = send(status=302, headers={"Location": location})
    with pytest.raises(FetchError):
        fetch(site.url, tmp_path / "a", LOOPBACK)


def test_a_good_redirect_is_followed(site: Site, tmp_path: Path) -> None:
    site.routes["/"] = send(b"", status=307, headers={"Location": "/b"})
    site.routes["/b"] = send()
    fetch(site.url, tmp_path / "a", LOOPBACK)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_endless_redirects_end(site: Site, tmp_path: Path) -> None:
    site.routes["/"] = send(b"", status=301, headers={"Location": "/"})
    with pytest.raises(FetchError):
        fetch(site.url + "/", tmp_path / "a", LOOPBACK)
    assert len(site.asked) == LOOPBACK.max_redirects + 1


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/a",
        "http://",
        "http://user:secret@127.0.0.1/",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/a\r\nX: y",
        "http://127.0.0.1:99999/",
        "http://no-such-host.invalid/",
    ],
)
def test_an_address_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(FetchError):
        fetch(url, tmp_path / "a", LOOPBACK)


def test_a_file_that_is_too_large_is_refused_by_its_announced_size(
    site: Site, tmp_path: Path
) -> None:
    site.routes["/"] = send(b"", headers={"Content-Length": "100001"})
    with pytest.raises(FetchError):
        fetch(site.url, tmp_path / "a", LOOPBACK)


def test_a_file_that_is_too_large_is_refused_while_it_comes(site: Site, tmp_path: Path) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 10_000)
        except OSError:
            handler.close_connection = True

    site.routes["/"] = endless
    with pytest.raises(FetchError):
        fetch(site.url, tmp_path / "a", LOOPBACK)
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_breaks_off_is_no_file(site: Site, tmp_path: Path) -> None:
    site.routes["/"] = send(b"half", headers={"Content-Length": "8"})
    with pytest.raises(FetchError):
        fetch(site.url, tmp_path / "a", LOOPBACK)
    assert list(tmp_path.iterdir()) == []


def test_an_error_page_is_no_file(site: Site, tmp_path: Path) -> None:
    site.routes["/"] = send(status=404)
    with pytest.raises(FetchError):
        fetch(site.url, tmp_path / "a", LOOPBACK)


def test_a_compressed_answer_is_refused(site: Site, tmp_path: Path) -> None:
    site.routes["/"] = send(headers={"Content-Encoding": "gzip"})
    with pytest.raises(FetchError):
        fetch(site.url, tmp_path / "a", LOOPBACK)


def test_a_trickle_meets_the_deadline(site: Site, tmp_path: Path) -> None:
    ended = threading.Event()

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not ended.wait(0.01):
                handler.wfile.write(b"x")
        except OSError:
            handler.close_connection = True

    site.routes["/"] = trickle
    with pytest.raises(FetchError):
        fetch(site.url, tmp_path / "a", FetchPolicy(allow=LOOPBACK.allow, timeout=0.3))
    ended.set()


@pytest.mark.parametrize(
    ("head", "drip"),
    [
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    ],
    ids=["header", "chunk-size", "trailer"],
)
@pytest.mark.parametrize("ended_by", ["deadline", "stop"])
def test_a_trickle_around_the_content_ends_too(
    site: Site, tmp_path: Path, head: bytes, drip: bytes, ended_by: str
) -> None:
    hung_up, dripped = threading.Event(), threading.Event()

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        try:
            handler.wfile.write(head)
            for count in range(6000):  # a minute, if nobody hangs up
                handler.wfile.write(drip)
                if count == 10:
                    dripped.set()
                if hung_up.wait(0.01):
                    return
        except OSError:
            hung_up.set()

    site.routes["/"] = trickle
    policy = FetchPolicy(allow=LOOPBACK.allow, timeout=1 if ended_by == "deadline" else 60)
    stop = dripped.is_set if ended_by == "stop" else lambda: False
    with pytest.raises(FetchError):
        fetch(site.url + "/", tmp_path / "a", policy, stop=stop)
    assert not site.asked or hung_up.wait(60), "the server was read to its end"
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_never_shakes_hands_meets_the_deadline(tmp_path: Path) -> None:
    ended = threading.Event()

    def drip(listener: socket.socket) -> None:
        """A TLS record that is announced long and comes byte by byte."""
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"\x16\x03\x03\x3f\xff\x02\x00\x3f\xf0")
            try:
                for _ in range(6000):
                    connection.sendall(b"\x03")
                    threading.Event().wait(0.01)
            except OSError:
                ended.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        policy = FetchPolicy(allow=LOOPBACK.allow, timeout=1)
        with pytest.raises(FetchError):
            fetch(f"https://127.0.0.1:{listener.getsockname()[1]}/", tmp_path / "a", policy)
        thread.join()
    assert ended.is_set(), "the server was read to its end"


def test_a_download_can_be_stopped(site: Site, tmp_path: Path) -> None:
    site.routes["/"] = send()
    with pytest.raises(FetchError):
        fetch(site.url, tmp_path / "a", LOOPBACK, stop=lambda: True)


def test_a_name_is_resolved_once(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that means a public address at the check and the loopback after it gains nothing."""
    port = int(site.url.rpartition(":")[2])
    answers = iter(["127.0.0.1", "127.0.0.2"])
    asked: list[str] = []

    def resolve(host: str, *_args: object, **_options: object) -> list[object]:
        if host != "rebind.test":
            return [*real(host, port, type=socket.SOCK_STREAM)]
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    site.routes["/"] = send()
    fetch(f"http://rebind.test:{port}/", tmp_path / "a", LOOPBACK)
    assert asked == ["rebind.test"]
