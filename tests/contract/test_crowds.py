"""More connections than the system lets the server open."""

import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.processes import COMMAND, environment, new_mark
from tests.paths import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs ulimit")

FILES = 96


@contextmanager
def serving_within(ulimit: str, data: Path) -> Generator[tuple[int, str, Path]]:
    """A server that the shell's ``ulimit`` limits: its process, URL and log."""
    log = data.with_suffix(".log")
    options = ["serve", "--port=0", "--engine=simulated", f"--data={data}", "--until-stdin-closes"]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            ["/bin/bash", "-c", f'ulimit {ulimit}; exec "$@"', "bash", *COMMAND, *options],
            env=environment(new_mark()), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=errors, text=True, cwd=ROOT,
        )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        found = re.search(r"http://\S+$", process.stdout.readline().rstrip("\n"))
        assert found, log.read_text()
        yield process.pid, found[0], log
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def patient(http: httpx.Client, method: str, path: str, **sent: Any) -> httpx.Response:
    """The answer to a client that comes back when it is refused, as ours does."""
    limit = time.monotonic() + 60
    while (answer := http.request(method, path, **sent)).status_code == 503:
        assert time.monotonic() < limit
        time.sleep(float(answer.headers.get("Retry-After", 1)))  # as the server asks
    return answer


def is_served(url: str) -> bool:
    """Whether a job runs and a file is stored, for a client that comes back when refused."""
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    sides = {"width": 16, "height": 16}
    transport = httpx.HTTPTransport(retries=3)
    with httpx.Client(base_url=url, transport=transport, timeout=60) as http:
        job = patient(http, "POST", "/infer_async/hello", json=sides).json()["id"]
        limit = time.monotonic() + 60
        while patient(http, "GET", f"/check_status/{job}").json()["status"] != "succeeded":
            assert time.monotonic() < limit
            time.sleep(0.05)
        return patient(http, "PUT", f"/files/{empty}").is_success


@pytest.mark.parametrize("kind", ["idle", "waiting"])
def test_twice_as_many_connections_as_files_leave_room_for_a_job(tmp_path: Path, kind: str) -> None:
    with (
        serving_within(f"-n {FILES}", tmp_path / "data") as (_, url, log),
        ExitStack() as crowd,
    ):
        address = httpx.URL(url)
        assert is_served(url)
        slow = httpx.post(f"{url}/infer_async/hello", json={"width": 16, "height": 16}).json()["id"]
        sent = {"idle": "", "waiting": f"GET /events/{slow}?x HTTP/1.1\r\nHost: x\r\n\r\n"}[kind]
        for _ in range(2 * FILES):
            connection = crowd.enter_context(
                socket.create_connection((address.host, address.port or 80), timeout=60)
            )
            connection.sendall(sent.encode())
        assert is_served(url)
        assert "connections are in use" in log.read_text()


def test_the_server_raises_its_soft_limit_of_open_files(tmp_path: Path) -> None:
    with serving_within("-Sn 64", tmp_path / "data") as (process, _, _):
        soft, hard = resource.prlimit(process, resource.RLIMIT_NOFILE)
        assert soft == min(hard, 65_536)
