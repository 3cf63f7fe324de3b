"""Runs the warm-up workflow once, so that the first job finds models loaded and kernels ready."""

import logging
import tempfile
from pathlib import Path

from comfysnap_schema.wire import JobStatus, Progress
from comfysnap_server.deploy.deployment import Deployment
from comfysnap_server.engine.protocol import Engine, EngineJob, PreviewFrame
from comfysnap_server.jobs import execute

log = logging.getLogger(__name__)


def warm_up(deployment: Deployment, engine: Engine) -> None:
    """Run the workflow that ``warm_up`` names, with its defaults; a failure is only logged."""
    name = deployment.settings.warm_up
    if name is None:
        return
    workflow = deployment.workflows[name]
    with tempfile.TemporaryDirectory(prefix="comfysnap-") as folder:
        inputs, outputs = Path(folder, "input"), Path(folder, "output")
        inputs.mkdir()
        outputs.mkdir()
        job = EngineJob(
            job_id="warm-up",
            graph=workflow.apply(workflow.complete({})),
            outputs=dict(workflow.outputs),
            input_dir=inputs,
            output_dir=outputs,
        )
        outcome = execute(engine, job, _ignore)
    if outcome.status is not JobStatus.SUCCEEDED:
        log.warning("the warm-up workflow %r failed: %s", name, outcome.error)


def _ignore(_: Progress | PreviewFrame) -> None:
    return
