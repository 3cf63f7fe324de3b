"""The local backend with this engine: forked workers, and nodes that ignore interrupts."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from comfysnap_schema.wire.jobs import JobStatus
from comfysnap_schema.workflow.map import OutputSpec
from comfysnap_server.backends.local import LocalBackend, LocalLimits
from comfysnap_server.jobs.request import JobRequest
from tests.server.backends.suite import finish, request, run, stored
from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import Trees, paths_file
from tests.server.engine.comfyui.trees import LATEST

Start = Callable[..., Awaitable[LocalBackend]]


@pytest.fixture
async def start(tmp_path: Path, trees: Trees) -> AsyncIterator[Start]:
    """Start a backend, by default without packs that start threads."""
    made: list[LocalBackend] = []

    async def build(
        *, release: str = LATEST, threads: bool = False, **options: Any
    ) -> LocalBackend:
        engine_options: dict[str, Any] = {
            "path": str(trees(release)),
            "extra_model_paths": [str(paths_file(release, tmp_path))],
            "disabled_nodes": [] if threads else ["starts_thread"],
            **options,
        }
        backend = LocalBackend(
            tmp_path / "data",
            engine="comfyui",
            engine_options=engine_options,
            limits=LocalLimits(interrupt_grace=0.3),
        )
        made.append(backend)
        await backend.start()
        return backend

    yield build
    for backend in made:
        await backend.stop()


def asked(graph: graphs.Graph, *, output: str = "3", **options: Any) -> JobRequest:
    outputs = {"image": OutputSpec(node=output)}
    return request(cast("Any", graph), outputs=outputs, fields={}, **options)


async def test_jobs_run_and_their_files_can_be_downloaded(start: Start, release: str) -> None:
    backend = await start(release=release)
    job = await run(backend, asked(graphs.hello()))
    assert job.status is JobStatus.SUCCEEDED, job.error
    assert job.outputs is not None
    made = cast("dict[str, Any]", job.outputs["image"])
    assert (await stored(backend, job.id, made["name"])).path.is_file()
    assert backend.thread_holders == []


async def test_a_worker_whose_node_ignores_the_interrupt_is_killed(start: Start) -> None:
    backend = await start()
    job = (await backend.submit(asked(graphs.through("Stubborn", steps=100_000)))).job
    async for event in backend.events("anna", job.id, after=None):
        if event.progress is not None and (event.progress.step or 0) > 0:
            break
    await backend.cancel("anna", job.id)
    assert (await finish(backend, job)).status is JobStatus.CANCELLED
    next_job = await run(backend, asked(graphs.hello()))
    assert next_job.status is JobStatus.SUCCEEDED, next_job.error


async def test_a_job_is_stopped_at_its_timeout(start: Start) -> None:
    backend = await start()
    job = await run(backend, asked(graphs.through("Steps", steps=100_000), timeout=1.0))
    assert job.status is JobStatus.TIMED_OUT


async def test_a_broken_device_replaces_the_worker(start: Start) -> None:
    backend = await start()
    failed = await run(backend, asked(graphs.through("BreaksTheDevice")))
    assert failed.status is JobStatus.FAILED
    assert (await run(backend, asked(graphs.hello()))).status is JobStatus.SUCCEEDED


async def test_packs_with_threads_are_named_and_jobs_still_run(start: Start) -> None:
    backend = await start(threads=True)
    assert (await run(backend, asked(graphs.hello()))).status is JobStatus.SUCCEEDED
    assert backend.thread_holders == ["starts_thread"]


async def test_a_forked_worker_runs_models_that_the_parent_preloaded(
    start: Start, release: str
) -> None:
    backend = await start(release=release, preload=[f"checkpoints/{graphs.CHECKPOINT}"])
    job = await run(backend, asked(graphs.diffusion(), output="9"))
    assert job.status is JobStatus.SUCCEEDED, job.error
    assert backend.thread_holders == []


async def test_files_of_killed_workers_are_deleted_at_the_next_start(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    backend = await start()
    await backend.worker_pid()
    await backend.stop()
    left = {path.name for path in (tmp_path / "data" / "scratch").iterdir()}
    assert left
    again = await start()
    await again.worker_pid()
    assert not left & {path.name for path in (tmp_path / "data" / "scratch").iterdir()}
    assert [*elsewhere.iterdir()] == []
