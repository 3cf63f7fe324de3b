"""A loopback server of models (plain files, Hugging Face, Civitai) with faults to inject."""

import hashlib
import json
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from comfysnap_server.models.download import download

COMMIT = "c0ffee" + "0" * 34


def safetensors(data: bytes) -> bytes:
    """A safetensors file with one tensor."""
    tensor = {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}
    header = json.dumps({"a": tensor}).encode()
    return len(header).to_bytes(8, "little") + header + data


@dataclass
class Served:
    """A file and how it is served."""

    content: bytes
    token: str | None = None
    ranges: bool = True
    etag: str | None = None
    break_after: list[int] = field(default_factory=list[int])
    """Bytes after which the first, second, ... request loses its connection."""
    bodies: list[bytes] = field(default_factory=list[bytes])
    """Other content for the first, second, ... request."""
    statuses: list[int] = field(default_factory=list[int])
    """Error status of the first, second, ... request."""
    location: str | None = None
    told: int | None = None
    """Size that it lies about; -1: it tells none, and closes the connection at the end."""
    content_type: str = "application/octet-stream"
    chunked: bool = False
    """Whether it is stored in Xet."""
    hold_after: int | None = None
    """Bytes after which a download waits until the server's ``release``."""


@dataclass
class Asked:
    """A received request."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class ModelServer:
    """The files of the server, and the requests it received."""

    url: str = ""
    files: dict[str, Served] = field(default_factory=dict[str, Served])
    """By path, with its leading slash."""
    repositories: dict[str, dict[str, Served]] = field(default_factory=dict[str, dict[str, Served]])
    answers: dict[str, Any] = field(default_factory=dict[str, Any])
    """JSON by path."""
    gated: set[str] = field(default_factory=set[str])
    commit: str = COMMIT
    asked: list[Asked] = field(default_factory=list[Asked])
    holding: threading.Event = field(default_factory=threading.Event)
    """Set once a download waits."""
    release: threading.Event = field(default_factory=threading.Event)

    def downloads(self, path: str) -> list[Asked]:
        """The requests for the content of a path."""
        return [ask for ask in self.asked if ask.method == "GET" and ask.path == path]


class Handler(BaseHTTPRequestHandler):
    """Serves one ``ModelServer``."""

    protocol_version = "HTTP/1.1"
    models: ModelServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.models.asked.append(Asked(self.command, parts.path, dict(self.headers)))
        if parts.path in self.models.answers:
            self.answer(200, {"Content-Type": "application/json"}, self.models.answers[parts.path])
        elif parts.path in self.models.files:
            self.plain(self.models.files[parts.path], parse_qs(parts.query))
        else:
            self.hub(parts.path)

    do_HEAD = do_GET

    def plain(self, file: Served, query: Mapping[str, list[str]]) -> None:
        wanted = f"Bearer {file.token}"
        if file.token and self.headers.get("Authorization") != wanted and "signed" not in query:
            self.answer(401, {}, b"no")
        elif file.statuses:
            self.answer(file.statuses.pop(0), {}, b"")
        elif file.location:
            self.answer(302, {"Location": file.location}, b"")
        else:
            self.content(file, {})

    def hub(self, path: str) -> None:
        for repo, files in self.models.repositories.items():
            if path.startswith(f"/api/models/{repo}/tree/"):
                if not self.refused(repo, files):
                    self.tree(files)
                return
            if path.startswith(f"/{repo}/resolve/"):
                revision, _, name = path.removeprefix(f"/{repo}/resolve/").partition("/")
                if name not in files or revision not in {"main", self.models.commit}:
                    self.answer(404, {"X-Error-Code": "EntryNotFound"}, b"")
                    return
                if not self.refused(repo, files):
                    self.content(files[name], self.facts(files[name]))
                return
        self.answer(404, {"X-Error-Code": "RepoNotFound"}, b"")

    def refused(self, repo: str, files: Mapping[str, Served]) -> bool:
        token = next((file.token for file in files.values() if file.token), None)
        refused = bool(token) and self.headers.get("Authorization") != f"Bearer {token}"
        if refused:
            gated = repo in self.models.gated
            self.answer(
                403 if gated else 401,
                {"X-Error-Code": "GatedRepo" if gated else "RepoNotFound"},
                b"",
            )
        return refused

    def facts(self, file: Served) -> dict[str, str]:
        digest = hashlib.sha256(file.content).hexdigest()
        facts = {
            "X-Repo-Commit": self.models.commit,
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(len(file.content)),
        }
        if file.chunked:
            auth = f"{self.models.url}/xet"
            facts |= {"X-Xet-Hash": digest, "Link": f'<{auth}>; rel="xet-auth"'}
        return facts

    def tree(self, files: Mapping[str, Served]) -> None:
        entries = [
            {"type": "file", "path": name, "size": len(file.content), "oid": "0" * 40}
            for name, file in files.items()
        ]
        self.answer(200, {"Content-Type": "application/json"}, entries)

    def content(self, file: Served, extra: Mapping[str, str]) -> None:
        body = file.content
        downloading = self.command == "GET"
        if downloading and file.bodies:
            body = file.bodies.pop(0)
        headers = {"Content-Type": file.content_type, **extra}
        etag = file.etag or f'"{hashlib.sha256(file.content).hexdigest()[:16]}"'
        headers["ETag"] = etag
        if self.headers.get("If-None-Match") == etag:
            self.send_response(304)
            self.end_headers()
            return
        start, status = 0, 200
        asked = self.headers.get("Range", "").removeprefix("bytes=").rstrip("-")
        same = self.headers.get("If-Range") in {None, etag}
        if asked.isdigit() and file.ranges and same:
            start, status = int(asked), 206
            if start >= len(body):
                self.answer(416, {}, b"")
                return
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        body = body[start:]
        cut = file.break_after.pop(0) if downloading and file.break_after else None
        self.answer(status, headers, body, cut, file.hold_after, file.told)

    def answer(
        self,
        status: int,
        headers: Mapping[str, str],
        body: Any,
        cut: int | None = None,
        hold_after: int | None = None,
        told: int | None = None,
    ) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if told is None or told >= 0:
            self.send_header("Content-Length", str(told or len(content)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "GET":
            try:
                self.send(content if cut is None else content[:cut], hold_after)
            except OSError:
                self.close_connection = True
        if cut is not None:
            self.close_connection = True

    def send(self, content: bytes, hold_after: int | None) -> None:
        self.wfile.write(content[:hold_after])
        if hold_after is not None:
            self.models.holding.set()
            self.models.release.wait(200)
            self.wfile.write(content[hold_after:])


def when_received(patch: pytest.MonkeyPatch, count: int) -> threading.Event:
    """Set once the download of a job has so many bytes; a server that sent them does not know."""
    received = threading.Event()

    def seen(*arguments: Any, progress: Callable[[int], None], **options: Any) -> str:
        def advance(done: int) -> None:
            progress(done)
            if done >= count:
                received.set()

        return download(*arguments, progress=advance, **options)

    patch.setattr("comfysnap_server.models.remote.download", seen)
    return received


@contextmanager
def serve_models() -> Generator[ModelServer]:
    models = ModelServer()
    handler = type("Bound", (Handler,), {"models": models})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    models.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield models
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
