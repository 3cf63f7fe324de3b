"""The local backend on ComfyUI, in an interpreter of its own."""

import os
import signal
import sys
from pathlib import Path

import pytest

from comfysnap_schema.comfy.graph import Graph
from comfysnap_schema.wire.jobs import JobStatus
from comfysnap_server.backends.local import LocalBackend
from tests.server.backends.local.conftest import StartBackend
from tests.server.backends.local.test_crashes import fork_server_of
from tests.server.backends.suite import finish, request, run
from tests.server.engine.comfyui.conftest import REAL, real_comfyui
from tests.server.engine.comfyui.trees import RELEASES, build_tree

HELLO: Graph = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 255},
    },
    "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "hello"}},
}


@pytest.fixture(params=[*RELEASES, REAL])
def comfyui(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """An interpreter and a checkout: of our tree, or a real one."""
    if request.param == "real":
        return real_comfyui()
    return sys.executable, build_tree(request.param, tmp_path / "ComfyUI")


async def test_a_killed_worker_is_forked_again_from_the_loaded_comfyui(
    start_backend: StartBackend, comfyui: tuple[str, Path]
) -> None:
    python, checkout = comfyui
    backend: LocalBackend = await start_backend(
        engine="comfyui", python=python, engine_options={"path": str(checkout)}
    )
    first = await run(backend, request(HELLO, timeout=60))
    assert (first.status, first.error) == (JobStatus.SUCCEEDED, None)
    assert first.timings.start_kind == "cold"
    assert backend.thread_holders == []
    worker = await backend.worker_pid()
    parent = fork_server_of(worker)
    os.kill(worker, signal.SIGKILL)
    second = await run(backend, request(HELLO, timeout=60))
    assert (second.status, second.error) == (JobStatus.SUCCEEDED, None)
    assert second.timings.load == first.timings.load
    assert await backend.worker_pid() != worker
    assert fork_server_of(await backend.worker_pid()) == parent


async def test_two_workers_run_a_job_each_at_once(
    start_backend: StartBackend, comfyui: tuple[str, Path]
) -> None:
    python, checkout = comfyui
    backend: LocalBackend = await start_backend(
        engine="comfyui",
        python=python,
        engine_options={"path": str(checkout), "device": "cpu"},
        workers=2,
    )
    workers = [await backend.worker_pid(slot) for slot in (0, 1)]
    assert fork_server_of(workers[0]) == fork_server_of(workers[1])
    submitted = [(await backend.submit(request(HELLO, timeout=60))).job for _ in range(2)]
    assert [job.status for job in submitted] == [JobStatus.RUNNING] * 2
    ended = [await finish(backend, job) for job in submitted]
    assert {(job.status, job.timings.device) for job in ended} == {(JobStatus.SUCCEEDED, "cpu")}
