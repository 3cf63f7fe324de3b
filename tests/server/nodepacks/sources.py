"""Loopback sources of node packs: real git repositories, a registry, and wheels."""

import base64
import io
import json
import os
import subprocess
import threading
import zipfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

BROKEN = 299
"""Pseudo status of a 200 response whose connection is lost in the middle."""

GIT_ENVIRONMENT = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@example.com",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@example.com",
}


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        env=GIT_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@dataclass
class Host:
    """A web server with git repositories and registry responses."""

    root: Path
    token: str | None = None
    """Token that every repository requires; None: no token."""
    url: str = ""
    authorizations: list[str] = field(default_factory=list[str])
    """Every Authorization header received."""
    sent: int = 0
    """Bytes of all responses."""
    answers: dict[str, list[tuple[int, bytes]]] = field(
        default_factory=dict[str, list[tuple[int, bytes]]]
    )
    """Path to its responses in order; the last one repeats."""

    @property
    def netloc(self) -> str:
        return urlsplit(self.url).netloc

    def repository(
        self,
        name: str,
        files: Mapping[str, str],
        *,
        submodules: Mapping[str, tuple[str, str]] | None = None,
    ) -> tuple[str, str]:
        """Create a repository; returns its URL and its commit."""
        folder = self.root / f"{name}.git"
        folder.mkdir(parents=True)
        git(folder, "init", "-q", "-b", "main")
        for path, (address, commit) in (submodules or {}).items():
            with (folder / ".gitmodules").open("a") as stream:
                stream.write(f'[submodule "{path}"]\n\tpath = {path}\n\turl = {address}\n')
            git(folder, "update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
        for path, content in files.items():
            (folder / path).write_text(content)
        git(folder, "add", "--", *files, *([".gitmodules"] if submodules else []))
        git(folder, "commit", "-q", "-m", "first")
        return f"{self.url}/{name}.git", git(folder, "rev-parse", "HEAD")

    def more(self, name: str, path: str, content: str) -> str:
        """Add a commit to a repository; returns it."""
        folder = self.root / f"{name}.git"
        (folder / path).write_text(content)
        git(folder, "add", path)
        git(folder, "commit", "-q", "-m", "more")
        return git(folder, "rev-parse", "HEAD")

    def version(self, pack: str, version: str, files: Mapping[str, str]) -> None:
        """Publish a version of a registry pack."""
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)
        self.answers[f"/zips/{pack}-{version}.zip"] = [(200, stream.getvalue())]
        answer = {"version": version, "downloadUrl": f"{self.url}/zips/{pack}-{version}.zip"}
        self.answers[f"/nodes/{pack}/install?version={version}"] = [
            (200, json.dumps(answer).encode())
        ]

    def allows(self, header: str | None) -> bool:
        if header:
            self.authorizations.append(header)
        if self.token is None:
            return True
        given = base64.b64decode((header or "").removeprefix("Basic ")).decode()
        return given.partition(":")[2] == self.token


@contextmanager
def serve(root: Path, token: str | None = None) -> Generator[Host]:
    host = Host(root, token)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            found = host.answers.get(self.path)
            if found:
                status, body = found.pop(0) if len(found) > 1 else found[0]
                self.answer(status, {}, body)
            elif ".git/" in self.path:
                self.git()
            else:
                self.answer(404, {}, b"")

        do_POST = do_GET

        def git(self) -> None:
            if not host.allows(self.headers.get("Authorization")):
                self.answer(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
                return
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            done = subprocess.run(
                ["git", "http-backend"],
                input=body,
                capture_output=True,
                check=False,
                env=GIT_ENVIRONMENT
                | {
                    "GIT_PROJECT_ROOT": str(host.root),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "PATH_INFO": parts.path.replace(".git/", ".git/.git/", 1),
                    "QUERY_STRING": parts.query,
                    "REQUEST_METHOD": self.command,
                    "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                    "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                    "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                },
            )
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
            status = int(headers.pop("Status", "200").split()[0])
            self.answer(status, headers, content)

        def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            broken = status == BROKEN
            self.send_response(200 if broken else status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if broken else body)
            host.sent += len(body)
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    host.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def make_wheel(folder: Path, name: str, version: str, *requires: str) -> None:
    """Build a wheel with one empty module."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {text}\n" for text in requires)
    entries = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*entries, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, content in (entries | {f"{info}/RECORD": record}).items():
            wheel.writestr(path, content)


INIT = {"__init__.py": "NODE_CLASS_MAPPINGS = {}\n"}


def git_nodes(*repositories: tuple[str, str], **options: Any) -> dict[str, Any]:
    return {"git_custom_nodes": {url: {"hash": commit, **options} for url, commit in repositories}}


def has(python: Path, requirement: str) -> bool:
    name, _, version = requirement.partition("==")
    code = f"import {name}; assert {name}.version == {version!r}"
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0
