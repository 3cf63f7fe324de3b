"""What an operator sees of a server: its log and its metrics."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.contract.processes import COMMAND, environment, left_behind, new_mark, serving
from tests.paths import ROOT
from tests.servers import free_port

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_a_job_is_followed_through_a_log_of_json_and_the_metrics(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mark, port = new_mark(), free_port()
    options = ("--log-format=json", f"--metrics-port={port}")
    with serving(mark, tmp_path, *options) as (_, url):
        headers = {"X-Request-Id": "my-request"}
        job = httpx.post(f"{url}/infer_sync/hello", json={}, headers=headers, timeout=60).json()
        secret = "a prompt that is nobody's business"
        failed = httpx.post(
            f"{url}/infer_sync/flux?timeout=0.01", json={"prompt": secret}, timeout=60
        ).json()
        page = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert "comfysnap_jobs_running 0.0" in httpx.get(f"{url}/metrics").text
    text = capfd.readouterr().err
    lines = [json.loads(line) for line in text.splitlines()]
    accepted, ended = (
        next(line for line in lines if line["message"] == message and line["job"] == job["id"])
        for message in ("job accepted", "job ended")
    )
    assert accepted["request"] == "my-request"
    assert accepted["client"] == "127.0.0.1"
    assert (ended["status"], ended["workflow"], ended["owner"]) == ("succeeded", "hello", "local")
    assert ended["run_seconds"] == pytest.approx(job["timings"]["run"])
    (warning,) = (line for line in lines if line["level"] == "warning")
    assert warning["message"] == "job ended"
    assert (warning["job"], warning["error"]) == (failed["id"], "job_timed_out")
    assert secret not in text
    assert 'comfysnap_jobs_ended_total{code="",status="succeeded",workflow="hello"} 1.0' in page
    assert re.search(r"comfysnap_disk_free_bytes \S*[1-9]", page)
    assert left_behind(mark) == []


def test_strangers_without_a_key_cannot_fill_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "eA=="}
    with serving(new_mark(), tmp_path) as (_, url), httpx.Client(base_url=url) as http:
        host, port = url.removeprefix("http://").split(":")
        for _ in range(20):
            with socket.create_connection((host, int(port))) as junk:
                junk.sendall(b"not HTTP\r\n\r\n")
                assert junk.recv(12) == b"HTTP/1.1 400"
            assert http.options("/jobs", headers=preflight).status_code == 403
            http.get("/health", headers=upgrade).raise_for_status()
    text = capfd.readouterr().err
    for line in ("Invalid HTTP request", "pages of 'https://evil.example'", "Unsupported upgrade"):
        assert 0 < text.count(line) < 5, text  # on a busy machine it takes some minutes


def test_a_port_for_metrics_that_is_taken_is_one_line_at_start(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*COMMAND, "serve", "--port=0", "--engine=simulated", f"--data={tmp_path}",
             f"--metrics-port={port}"],
            env=environment(new_mark()), capture_output=True, text=True, timeout=60, cwd=ROOT,
        )  # fmt: skip
    assert done.returncode == 2
    message = f"error: cannot serve metrics on 127.0.0.1:{port}: Address already in use"
    assert done.stderr.splitlines() == [message]
