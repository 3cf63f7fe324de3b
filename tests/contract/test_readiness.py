"""A server that cannot run jobs says so, and one that never could does not stay."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from comfysnap_server.backends.local import LocalBackend, LocalLimits, supervisor
from tests.contract.processes import COMMAND, environment, left_behind, new_mark, serving
from tests.paths import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def failed_start(mark: str, data: Path, *options: str, **variables: str) -> str:
    """What a server that ends by itself says of it; the exit code is 2."""
    done = subprocess.run(
        [*COMMAND, "serve", "--port=0", f"--data={data}", *options],
        env={**environment(mark), **variables}, capture_output=True, text=True, timeout=60,
        cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert left_behind(mark) == []
    return done.stderr


@pytest.mark.parametrize(
    ("variables", "reason"),
    [({"COMFYUI_PATH": "/nope"}, "not a ComfyUI checkout"),
     ({"COMFYUI_PATH": str(ROOT / "tests" / "comfyui_tree"), "COMFYUI_PYTHON": "/nope/python"},
      "COMFYUI_PYTHON")],
)  # fmt: skip
def test_a_comfyui_that_is_not_there_is_one_line_at_start(
    tmp_path: Path, variables: dict[str, str], reason: str
) -> None:
    said = failed_start(new_mark(), tmp_path, **variables)
    assert said.startswith("error: ")
    assert reason in said
    assert len(said.splitlines()) == 1


def test_an_engine_that_never_loads_ends_the_server(tmp_path: Path) -> None:
    options = ("--engine=simulated", "--engine-option=no_such_option=1")
    said = failed_start(new_mark(), tmp_path, *options)
    assert said.splitlines()[-1].startswith("error: the engine cannot be loaded: ")
    assert "no_such_option" in said.splitlines()[-1]


def ready(url: str, expected: int) -> None:
    limit = time.monotonic() + 60
    while httpx.get(f"{url}/ready").status_code != expected:
        assert time.monotonic() < limit
        time.sleep(0.1)


def test_a_server_that_cannot_write_files_is_not_ready(tmp_path: Path) -> None:
    with serving(new_mark(), tmp_path / "data") as (process, url):
        ready(url, 200)
        before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1 << 20, -1))
        ready(url, 503)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
        ready(url, 200)
    assert not list((tmp_path / "data").glob("ready*"))


@asynccontextmanager
async def backend(data: Path, **limits: int) -> AsyncGenerator[LocalBackend]:
    backend = LocalBackend(data, limits=LocalLimits(takeover_patience=30, **limits))
    await backend.start()
    try:
        await backend.worker_pid()
        yield backend
    finally:
        await backend.stop()


async def test_a_server_whose_disk_is_full_is_not_ready(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with backend(tmp_path, keep_free_bytes=1 << 60) as full:
        assert not await full.ready()
        assert not await full.ready()
    assert caplog.text.count("MiB are free") == 1


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def becomes(backend: LocalBackend, *, ready: bool) -> None:
    limit = time.monotonic() + 60
    while await backend.ready() is not ready:
        assert time.monotonic() < limit
        await asyncio.sleep(0.05)


async def test_a_server_whose_next_worker_never_comes_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_START_PATIENCE_S", 0.5)
    async with backend(tmp_path) as waiting:
        assert await waiting.ready()
        pid = await waiting.worker_pid()
        fork_server = parent_of(parent_of(pid))
        os.kill(fork_server, signal.SIGSTOP)
        try:
            os.kill(pid, signal.SIGKILL)
            await becomes(waiting, ready=False)
        finally:
            os.kill(fork_server, signal.SIGCONT)
        await becomes(waiting, ready=True)
