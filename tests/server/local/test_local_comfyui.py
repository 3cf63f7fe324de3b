"""The local backend on a real ComfyUI, in an interpreter of its own."""

import os
import signal

import pytest

from comfysnap_schema.graph import Graph
from comfysnap_schema.jobs import JobStatus
from comfysnap_server.backends.local import LocalBackend
from tests.server.backend_suite import request, run
from tests.server.local.conftest import StartBackend
from tests.server.local.test_crashes import parent_of

PYTHON = os.environ.get("COMFYUI_PYTHON")

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(
        not (PYTHON and os.environ.get("COMFYUI_PATH")),
        reason="needs COMFYUI_PATH and COMFYUI_PYTHON",
    ),
]

HELLO: Graph = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 255},
    },
    "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "hello"}},
}


async def test_a_killed_worker_is_forked_again_from_the_loaded_comfyui(
    start_backend: StartBackend,
) -> None:
    backend: LocalBackend = await start_backend(engine="comfyui", python=PYTHON, engine_options={})
    first = await run(backend, request(HELLO, timeout=60))
    assert (first.status, first.error) == (JobStatus.SUCCEEDED, None)
    assert first.timings.start_kind == "cold"
    assert backend.thread_holders == []
    worker = await backend.worker_pid()
    parent = parent_of(worker)
    os.kill(worker, signal.SIGKILL)
    second = await run(backend, request(HELLO, timeout=60))
    assert (second.status, second.error) == (JobStatus.SUCCEEDED, None)
    assert second.timings.load == first.timings.load
    assert await backend.worker_pid() != worker
    assert parent_of(await backend.worker_pid()) == parent
