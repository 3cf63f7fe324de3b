"""How worker processes come to be: forked from a warm parent, or afresh where that is not safe."""

import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from comfysnap_schema.wire.jobs import JobStatus
from comfysnap_server.backends.local import LocalBackend, LocalLimits
from comfysnap_server.backends.local.channel import receive
from comfysnap_server.engine.registry import EngineChoiceError, make_engine
from tests.paths import ROOT
from tests.server.backends.local.conftest import StartBackend
from tests.server.backends.local.test_crashes import fork_server_of, is_alive, parent_of
from tests.server.backends.suite import finish, request, run

ENGINES = "tests.server.backends.local.engines"


def children() -> set[str]:
    return {
        pid for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    }  # fmt: skip


async def failure_of(backend: LocalBackend) -> str:
    async with asyncio.timeout(60):
        while backend.engine_failure is None:  # noqa: ASYNC110 -- read as an operator would
            await asyncio.sleep(0.01)
    return backend.engine_failure


async def test_the_first_worker_is_cold_a_forked_one_is_not(backend: LocalBackend) -> None:
    first = await run(backend, request())
    assert first.timings.start_kind == "cold"
    assert first.timings.load is not None
    second = await run(backend, request())
    assert (second.timings.start_kind, second.timings.start) == ("warm", 0.0)
    parent = fork_server_of(await backend.worker_pid())
    os.kill(await backend.worker_pid(), signal.SIGKILL)
    third = await run(backend, request())
    assert third.timings.start_kind in ("restored", "warm")
    assert third.timings.load == first.timings.load
    assert fork_server_of(await backend.worker_pid()) == parent


async def test_a_parent_with_threads_is_not_forked_and_says_who_left_them(
    start_backend: StartBackend,
) -> None:
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:ThreadedEngine",
        engine_options={"step_seconds": 0},
        python_path=[ROOT],
    )
    assert (await run(backend, request())).status is JobStatus.SUCCEEDED
    assert backend.thread_holders == ["pack-thread"]
    first = await backend.worker_pid()
    assert parent_of(parent_of(first)) == os.getpid()
    os.kill(first, signal.SIGKILL)
    job = await run(backend, request())
    assert job.status is JobStatus.SUCCEEDED
    assert await backend.worker_pid() != first
    await backend.stop()
    assert not is_alive(first)


def test_a_worker_says_that_it_cannot_read_an_order_and_asks_to_be_replaced() -> None:
    script = (
        "import socket, sys\n"
        "from comfysnap_server.backends.local.worker_main import WorkerMain\n"
        "from comfysnap_server.engine.simulated.engine import SimulatedEngine\n"
        "WorkerMain(SimulatedEngine(0), socket.socket(fileno=int(sys.argv[1]))).serve()\n"
    )
    ours, theirs = socket.socketpair()
    ours.settimeout(30)
    command = [sys.executable, "-c", script, str(theirs.fileno())]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL) as worker:
        theirs.close()
        assert json.loads(receive(ours) or b"")["op"] == "ready"
        order = b'{"op": "run", "request": {}}'
        ours.sendall(struct.pack("!I", len(order)) + order)
        told = json.loads(receive(ours) or b"")
        ours.close()
        assert worker.wait(30) == 0
    assert (told["op"], told["outcome"]["status"]) == ("done", "failed")
    assert told["outcome"]["must_restart"] is True


async def test_jobs_wait_while_the_engine_cannot_be_loaded_and_run_once_it_can(
    start_backend: StartBackend, tmp_path: Path
) -> None:
    blocker = tmp_path / "blocker"
    blocker.touch()
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:UnloadableEngine",
        engine_options={"blocker": str(blocker)},
        python_path=[ROOT],
    )
    job = (await backend.submit(request())).job
    assert "not mounted" in await failure_of(backend)
    assert not await backend.ready()
    assert not (await backend.get("anna", job.id)).is_final
    blocker.unlink()
    assert (await finish(backend, job)).status is JobStatus.SUCCEEDED
    assert await backend.ready()
    assert backend.engine_failure is None


@pytest.mark.parametrize("python", ["/does/not/exist", sys.executable])
async def test_another_interpreter_runs_the_workers_or_it_is_told_that_it_cannot(
    start_backend: StartBackend, python: str
) -> None:
    backend: LocalBackend = await start_backend(python=python)
    if python == sys.executable:
        assert (await run(backend, request())).status is JobStatus.SUCCEEDED
        return
    assert python in await failure_of(backend)


async def test_an_engine_without_its_device_runs_no_job_and_the_reason_is_known(
    start_backend: StartBackend,
) -> None:
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:DevicelessEngine", python_path=[ROOT]
    )
    job = (await backend.submit(request())).job
    assert "no CUDA device: found no driver" in await failure_of(backend)
    assert not await backend.ready()
    assert not (await backend.get("anna", job.id)).is_final


async def test_an_engine_that_takes_too_long_to_load_is_told(start_backend: StartBackend) -> None:
    backend: LocalBackend = await start_backend(limits=LocalLimits(start_timeout=0.0))
    assert "too long" in await failure_of(backend)


async def test_a_stop_while_a_slow_engine_is_given_up_leaves_no_process(
    start_backend: StartBackend,
) -> None:
    before = children()
    backend: LocalBackend = await start_backend(
        engine=f"{ENGINES}:SlowEngine",
        python_path=[ROOT],
        limits=LocalLimits(start_timeout=0.0),
    )
    async with asyncio.timeout(60):
        while not children() - before:  # noqa: ASYNC110 -- a child announces nothing
            await asyncio.sleep(0)
    await asyncio.sleep(0.1)  # it was given up by now, and its end is waited for
    await backend.stop()
    assert children() <= before


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("magic", {}),
        ("no.such.module:Engine", {}),
        ("comfysnap_server.engine.simulated.engine:NoSuchEngine", {}),
        ("simulated", {"speed": 3}),
        ("simulated", {"step_seconds": -1}),
    ],
)
def test_an_engine_that_does_not_exist_is_refused(name: str, options: dict[str, int]) -> None:
    with pytest.raises(EngineChoiceError):
        make_engine(name, options)
