"""The TypeScript client in Chromium, on a page of another origin than the server's."""

import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.contract.processes import new_mark, serving
from tests.paths import WORKFLOWS

PAGE = """<!doctype html>
<link rel="icon" href="data:,">
<script type="importmap">
{"imports": {"@comfysnap/client": "/node_modules/@comfysnap/client/dist/index.js"}}
</script>
<script type="module" src="/dist/browser.js"></script>
"""


@pytest.fixture
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("Chromium is not installed")
    return found


@contextmanager
def pages(folder: Path) -> Generator[tuple[str, "queue.Queue[Any]"]]:
    """The address of the pages in a folder, and what they report."""
    reports: queue.Queue[Any] = queue.Queue()

    class Handler(SimpleHTTPRequestHandler):
        def do_POST(self) -> None:
            reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", reports
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_page_runs_workflows_and_cancels_them(chromium: str, build: Path, tmp_path: Path) -> None:
    (build / "page.html").write_text(PAGE)
    with pages(build) as (origin, reports):
        (tmp_path / "comfysnap.toml").write_text(
            f'workflows = "{WORKFLOWS}"\ndefault = "hello"\n[serve]\norigins = ["{origin}"]\n'
        )
        options = (f"--project={tmp_path}", "--engine-option=step_seconds=0.1")
        with serving(new_mark(), tmp_path / "data", *options) as (_, url):
            browser = subprocess.Popen(
                [
                    chromium, "--headless", "--no-sandbox", "--disable-gpu",
                    "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}",
                    f"{origin}/page.html?server={url}", "--remote-debugging-port=0",
                ],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                report = reports.get(timeout=120)
            finally:
                browser.terminate()
                browser.wait(60)
    assert report == {
        "width": 1024, "status": "succeeded", "last": "done",
        "error": "AbortError: signal is aborted without reason", "aborted": "cancelled",
    }  # fmt: skip
