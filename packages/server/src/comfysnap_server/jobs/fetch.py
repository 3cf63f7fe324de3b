"""Downloads a file from an address that a stranger gave, without reaching what they should not."""

import hashlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from comfysnap_schema.wire import MAX_FILE_BYTES
from comfysnap_server.errors import ComfysnapServerError
from comfysnap_server.jobs.ssrf import Address, Network, is_allowed

_CHUNK: Final = 256 * 1024
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PORTS: Final = {"http": 80, "https": 443}
_QUIET_S: Final = 15.0
"""Longest silence of the other side."""
_LOOK_S: Final = 0.2
"""Between looks at the deadline, and at who may stop a download."""


class FetchError(ComfysnapServerError):
    """The file cannot be had; the message names the reason, never what a refused host said."""


@dataclass(frozen=True, kw_only=True)
class FetchPolicy:
    """What may be fetched."""

    max_bytes: int = MAX_FILE_BYTES
    timeout: float = 120.0
    """Seconds for the whole download, redirects included."""
    max_redirects: int = 5
    allow: tuple[str, ...] = ()
    """Networks (``10.1.0.0/16``) that may be reached although they are private."""

    @property
    def networks(self) -> tuple[Network, ...]:
        """``allow``, read.

        Raises:
            ValueError: An entry is not a network.
        """
        return tuple(ipaddress.ip_network(entry) for entry in self.allow)


def fetch(
    url: str,
    target: Path,
    policy: FetchPolicy,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> str:
    """Download ``url`` to ``target`` and return its SHA-256. The address is resolved once, checked
    and connected to, so that a name cannot change its meaning in between; each redirect is checked
    again. Proxies of the environment are not used.

    Args:
        url: ``http`` or ``https``.
        target: Appears whole or not at all.
        policy: Limits.
        stop: Asked between chunks; true ends the download.

    Raises:
        FetchError: Refused, not there, too large, too slow, or stopped.
    """
    deadline = time.monotonic() + policy.timeout
    part = target.with_name(target.name + ".part")
    try:
        for _ in range(policy.max_redirects + 1):
            with request(url, policy.networks, deadline, stop) as response:
                location = response.headers.get("Location")
                if response.status in _REDIRECTS and location:
                    url = urljoin(url, location)
                    continue
                return _save(response, part, target, policy, deadline, stop)
    except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
        _go_on(deadline, stop)
        raise FetchError(f"the download failed: {reason(error)}") from error
    finally:
        part.unlink(missing_ok=True)
    raise FetchError(f"more than {policy.max_redirects} redirects")


@contextmanager
def request(
    url: str,
    networks: tuple[Network, ...],
    deadline: float,
    stop: Callable[[], bool],
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Generator[http.client.HTTPResponse]:
    """Send one request, to a public address or one in ``networks``; a redirect is the answer.

    Raises:
        FetchError: The address is refused, or it is past ``deadline`` (monotonic).
        OSError, http.client.HTTPException, UnicodeError, ValueError: See ``reason``.
    """
    parts = _checked(url)
    host = str(parts.hostname).encode("idna").decode("ascii")
    port = parts.port or _PORTS[parts.scheme]
    address = resolve_address(host, port, networks)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    left = min(_go_on(deadline, stop), _QUIET_S)
    client = _PinnedConnection(host, port, address, parts.scheme, left)
    with closing(client), _cut_off(client, deadline, stop):
        ours = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "comfysnap"}
        client.request(method, path, body, {**ours, **(headers or {})})
        with closing(client.getresponse()) as response:
            yield response


@contextmanager
def _cut_off(
    client: "_PinnedConnection", deadline: float, stop: Callable[[], bool]
) -> Generator[None]:
    """Break the connection at the deadline: one byte in a while, in the handshake, the headers or
    a trailer, would hold the reading thread for as long as the other side likes."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_LOOK_S):
            if stop() or time.monotonic() >= deadline:
                client.cut()

    watcher = threading.Thread(target=watch, name="download-watcher", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _checked(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise FetchError("only http:// and https:// addresses can be fetched")
    if parts.username is not None or parts.password is not None:
        raise FetchError("an address with a user name or password is not fetched")
    if any(ord(letter) <= 32 or ord(letter) == 127 for letter in url):
        raise FetchError("the address has a space or a control character")
    return parts


def resolve_address(host: str, port: int, allowed: tuple[Network, ...]) -> str:
    """The address to connect to; a name that also means a forbidden address is refused.

    Raises:
        FetchError: Forbidden, or without an address.
        OSError: The name cannot be looked up.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses:
        raise FetchError("the host has no address")
    for text in addresses:
        address: Address = ipaddress.ip_address(text.partition("%")[0])
        if "%" in text or not is_allowed(address, allowed):
            raise FetchError("the host is not on the public internet")
    return addresses[0]


class _PinnedConnection(http.client.HTTPConnection):
    """Talks to one address under the name that was asked for."""

    def __init__(self, host: str, port: int, address: str, scheme: str, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout)
        self.default_port = _PORTS[scheme]
        self._address = address
        self._context = ssl.create_default_context() if scheme == "https" else None
        self._wire: socket.socket | None = None

    def connect(self) -> None:
        """Connect to the checked address, and check the certificate against the name."""
        self.sock = self._wire = socket.create_connection((self._address, self.port), self.timeout)
        if self._context is not None:
            wrapped = self._context.wrap_socket(
                self.sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            self.sock = self._wire = wrapped
            wrapped.do_handshake()

    def cut(self) -> None:
        """Break the connection, from any thread, so that a read from it ends."""
        if self._wire is not None:
            with suppress(OSError):
                # not that of SSLSocket, which takes the TLS state from under the reader
                socket.socket.shutdown(self._wire, socket.SHUT_RDWR)


def _save(
    response: http.client.HTTPResponse,
    part: Path,
    target: Path,
    policy: FetchPolicy,
    deadline: float,
    stop: Callable[[], bool],
) -> str:
    if response.status != http.client.OK:
        raise FetchError(f"the server answered {response.status}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise FetchError("the server answered in a compressed form that was not asked for")
    expected = response.length
    if (expected or 0) > policy.max_bytes:
        raise FetchError(f"the file is larger than {policy.max_bytes} bytes")
    digest = hashlib.sha256()
    size = 0
    with part.open("wb") as file:
        # read1 returns what came, so that a slow trickle still meets the deadline.
        while size != expected and (chunk := response.read1(_CHUNK)):
            size += len(chunk)
            if size > policy.max_bytes:
                raise FetchError(f"the file is larger than {policy.max_bytes} bytes")
            _go_on(deadline, stop)
            digest.update(chunk)
            file.write(chunk)
    _go_on(deadline, stop)  # a connection that was cut looks like the end of a file
    if expected is not None and size != expected:
        raise FetchError("the connection ended before the file did")
    part.replace(target)
    return digest.hexdigest()


def _go_on(deadline: float, stop: Callable[[], bool]) -> float:
    """Seconds left."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise FetchError("the download took too long")
    if stop():
        raise FetchError("the download was stopped")
    return left


def reason(error: Exception) -> str:
    """Why a request failed."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, socket.gaierror):
        return "the host is not known"
    if isinstance(error, ssl.SSLError):
        return "the server's certificate or TLS is not accepted"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was closed without an answer"
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
