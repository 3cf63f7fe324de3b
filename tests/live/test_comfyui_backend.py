"""A real ComfyUI behind the local backend."""

from pathlib import Path
from typing import Any, cast

import pytest

from comfysnap_schema.wire.jobs import JobStatus
from comfysnap_schema.workflow.map import OutputSpec
from comfysnap_server.backends.local import LocalBackend, LocalLimits
from comfysnap_server.jobs.request import JobRequest
from tests.server.backends.suite import finish, request, run
from tests.server.engine.comfyui import graphs
from tests.server.engine.comfyui.conftest import paths_file, real_comfyui


def asked(graph: graphs.Graph, *, output: str = "3", **options: Any) -> JobRequest:
    outputs = {"image": OutputSpec(node=output)}
    return request(cast("Any", graph), outputs=outputs, fields={}, **options)


@pytest.mark.comfyui
@pytest.mark.timeout(600)
async def test_workers_are_forked_and_replaced_and_models_come_from_the_parent(
    tmp_path: Path,
) -> None:
    python, path = real_comfyui()
    backend = LocalBackend(
        tmp_path / "data",
        engine="comfyui",
        engine_options={
            "path": str(path),
            "extra_model_paths": [str(paths_file("real", tmp_path))],
            "disabled_nodes": ["starts_thread"],
            "preload": [f"checkpoints/{graphs.CHECKPOINT}"],
        },
        python=python,
        limits=LocalLimits(interrupt_grace=1.0),
    )
    await backend.start()
    try:
        first = await run(backend, asked(graphs.hello()))
        assert first.status is JobStatus.SUCCEEDED, first.error
        assert backend.thread_holders == []
        stubborn = (await backend.submit(asked(graphs.through("Stubborn", steps=100_000)))).job
        async for event in backend.events("anna", stubborn.id, after=None):
            if event.progress is not None and (event.progress.step or 0) > 0:
                break
        await backend.cancel("anna", stubborn.id)
        assert (await finish(backend, stubborn)).status is JobStatus.CANCELLED
        drawn = await run(backend, asked(graphs.diffusion(), output="9"))
        assert drawn.status is JobStatus.SUCCEEDED, drawn.error
        broken = await run(backend, asked(graphs.through("BreaksTheDevice")))
        assert broken.status is JobStatus.FAILED
        late = await run(backend, asked(graphs.through("Steps", steps=100_000), timeout=1.0))
        assert late.status is JobStatus.TIMED_OUT
    finally:
        await backend.stop()
