"""``comfysnap purge`` on the data folder of a server, and on one that runs."""

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from comfysnap_schema.cli import build_app
from comfysnap_schema.wire import Scope
from comfysnap_server.gateway import KeyFile, KeyRecord, hash_key
from tests.contract.processes import new_mark, serving

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

HELLO = {"width": 32, "height": 32}
UPLOAD = hashlib.sha256(b"x").hexdigest()


def purge(data: Path, *arguments: str, answer: str | None = None) -> tuple[int, str]:
    done = CliRunner().invoke(build_app(), ["purge", f"--data={data}", *arguments], input=answer)
    return done.exit_code, done.output


def bearer(owner: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {owner}"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Of a stopped server: ``anna`` and ``ben`` have a job, its picture and an upload each."""
    data = tmp_path / "data"
    for owner in ("anna", "ben"):
        KeyFile(data / "keys.json").add(KeyRecord(name=owner, owner=owner, hash=hash_key(owner)))
    with serving(new_mark(), data, "--auth=keys") as (_, url):
        for owner in ("anna", "ben"):
            options: Any = {"headers": bearer(owner), "timeout": 30}
            done = httpx.post(f"{url}/infer_sync/hello", json=HELLO, **options).json()
            assert done["status"] == "succeeded"
            assert httpx.put(f"{url}/files/{UPLOAD}", content=b"x", **options).is_success
    return data


def left(data: Path) -> dict[str, tuple[int, bool]]:
    """How many jobs each owner has, and whether its upload is there."""
    with serving(new_mark(), data, "--auth=keys") as (_, url):
        return {
            owner: (
                len(httpx.get(f"{url}/jobs", headers=bearer(owner)).json()["jobs"]),
                httpx.head(f"{url}/files/{UPLOAD}", headers=bearer(owner)).is_success,
            )
            for owner in ("anna", "ben")
        }


def pictures(data: Path) -> int:
    return len(list((data / "jobs").glob("*/*")))


def test_all_ended_jobs_and_unused_uploads_are_deleted(data: Path) -> None:
    assert pictures(data) == 2
    code, output = purge(data, "--yes", "--json")
    assert code == 0
    deleted = json.loads(output)
    assert (deleted["jobs"], deleted["files"], deleted["file_bytes"]) == (2, 2, 2)
    assert deleted["job_bytes"] > 100
    assert pictures(data) == 0
    assert left(data) == {"anna": (0, False), "ben": (0, False)}
    assert "nothing to delete" in purge(data)[1]


def test_another_owner_keeps_jobs_and_uploads(data: Path) -> None:
    assert purge(data, "--owner=anna", "--yes")[0] == 0
    assert pictures(data) == 1
    assert left(data) == {"anna": (0, False), "ben": (1, True)}


@pytest.mark.parametrize(("option", "expected"), [("--jobs", (0, True)), ("--files", (1, False))])
def test_jobs_or_files_alone_are_deleted(
    data: Path, option: str, expected: tuple[int, bool]
) -> None:
    assert purge(data, option, "--yes")[0] == 0
    assert left(data) == {"anna": expected, "ben": expected}


def test_what_is_newer_than_the_age_stays(data: Path) -> None:
    assert "nothing to delete" in purge(data, "--before=1h", "--yes")[1]
    for path in (data / "files").glob(f"*/*/{UPLOAD}"):
        hours_ago = time.time() - 7200
        os.utime(path, (hours_ago, hours_ago))
    code, output = purge(data, "--before=1h", "--yes", "--json")
    assert code == 0
    assert json.loads(output) == {"jobs": 0, "job_bytes": 0, "files": 2, "file_bytes": 2}


def test_it_says_what_it_will_delete_and_asks(data: Path) -> None:
    code, output = purge(data, answer="n\n")
    assert code == 1
    assert "2 jobs" in output
    assert "2 uploads" in output
    assert left(data) == {"anna": (1, True), "ben": (1, True)}
    assert purge(data, answer="y\n")[0] == 0
    assert pictures(data) == 0


def test_a_folder_that_a_server_uses_is_left_alone(data: Path) -> None:
    with serving(new_mark(), data, "--auth=keys"):
        code, output = purge(data, "--yes")
    assert code == 1
    assert "in use by another server" in output
    assert pictures(data) == 2


def test_a_folder_without_jobs_or_a_wrong_age_is_an_error(tmp_path: Path) -> None:
    code, output = purge(tmp_path, "--yes")
    assert code == 1
    assert "jobs.sqlite3: not found" in output
    assert list(tmp_path.iterdir()) == []
    code, output = purge(tmp_path, "--before=yesterday")
    assert code == 2
    assert "yesterday" in output


def test_an_admin_purges_a_running_server(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    KeyFile(data / "keys.json").add(
        KeyRecord(name="boss", owner="boss", hash=hash_key("boss"), scopes=(Scope.ADMIN,))
    )
    for path in (data / "files").glob(f"*/*/{UPLOAD}"):
        hours_ago = time.time() - 7200
        os.utime(path, (hours_ago, hours_ago))
    with serving(new_mark(), data, "--auth=keys") as (_, url):
        monkeypatch.setenv("COMFYSNAP_API_KEY", "anna")
        code, output = purge(data, f"--url={url}", "--yes")
        assert code == 1
        assert "scope 'admin'" in output
        monkeypatch.setenv("COMFYSNAP_API_KEY", "boss")
        code, output = purge(data, f"--url={url}", "--owner=anna", answer="n\n")
        assert code == 1
        assert f"to delete in {url}: 1 job" in output
        assert pictures(data) == 2
        code, output = purge(data, f"--url={url}", "--owner=anna", "--yes", "--json")
        assert code == 0
        deleted = json.loads(output)
        assert (deleted["jobs"], deleted["files"], deleted["file_bytes"]) == (1, 1, 1)
        assert pictures(data) == 1
        assert "nothing to delete" in purge(data, f"--url={url}", "--owner=anna", "--yes")[1]
        for owner, count in (("anna", 0), ("ben", 1)):
            page = httpx.get(f"{url}/jobs", headers=bearer(owner)).json()
            assert len(page["jobs"]) == count
            uploads = httpx.head(f"{url}/files/{UPLOAD}", headers=bearer(owner))
            assert uploads.is_success == bool(count)


def test_a_server_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    code, output = purge(tmp_path, "--url=http://127.0.0.1:9", "--yes")
    assert code == 3
    assert len(output.splitlines()) == 1
    code, output = purge(tmp_path, "--url=ftp://127.0.0.1", "--yes")
    assert code == 2
    assert len(output.splitlines()) == 1


@contextmanager
def answering(content: bytes) -> Generator[str]:
    """The URL of a server that answers every POST with this."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(OSError):  # who has read enough hangs up
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<p>hello", "is not a comfysnap server"),
        (b" " * (9 << 20), "is not a comfysnap server"),
        (
            b'{"jobs": 0, "job_bytes": 0, "files": 0, "file_bytes": 0, "complete": false}',
            "the server deletes nothing more",
        ),
    ],
    ids=["a page", "too much", "no end"],
)
def test_a_server_of_another_kind_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    with answering(content) as url:
        code, output = purge(tmp_path, f"--url={url}", "--yes")
    assert code == 1
    assert output.startswith("error: ")
    assert message in output
    assert len(output.splitlines()) == 1
