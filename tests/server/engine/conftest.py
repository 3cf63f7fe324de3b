"""Fixtures of the engine tests: a simulated engine without delays, and jobs with folders."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from comfysnap_schema.comfy.graph import Graph
from comfysnap_schema.wire.jobs import Progress, Timings
from comfysnap_schema.wire.options import JobOptions
from comfysnap_schema.workflow.map import OutputSpec
from comfysnap_server.engine.protocol import Engine, EngineJob
from comfysnap_server.engine.registry import make_engine
from comfysnap_server.jobs.run import JobEnd, Report, execute

MakeJob = Callable[..., EngineJob]
RunGraph = Callable[..., JobEnd]


@pytest.fixture
def engine() -> Engine:
    engine = make_engine("simulated", {"step_seconds": 0})
    engine.load()
    engine.attach()
    return engine


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    """Create a job with its folders."""
    made = 0

    def make(graph: Graph, outputs: Mapping[str, OutputSpec], **options: Any) -> EngineJob:
        nonlocal made
        made += 1
        folder = tmp_path / f"job{made}"
        options.setdefault("input_dir", folder / "input")
        options["input_dir"].mkdir(parents=True, exist_ok=True)
        if "previews" in options:
            options["options"] = JobOptions(previews=options.pop("previews"))
        (folder / "output").mkdir(parents=True)
        return EngineJob(
            job_id=f"job_{made:026}",
            graph=graph,
            outputs=outputs,
            output_dir=folder / "output",
            **options,
        )

    return make


@pytest.fixture
def run_graph(engine: Engine, make_job: MakeJob) -> RunGraph:
    """Run a graph to its end."""

    def run(
        graph: Graph,
        outputs: Mapping[str, OutputSpec],
        report: Report = lambda _event: None,
        **options: Any,
    ) -> JobEnd:
        outcome = execute(engine, make_job(graph, outputs, **options), report)
        return outcome.end(Timings(), Progress())

    return run
