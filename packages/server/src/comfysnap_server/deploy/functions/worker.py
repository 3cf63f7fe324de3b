"""The GPU class: loads before the snapshot, takes the GPU after it, runs one job at a time."""

# modal's stubs leave the types of its decorators partly unknown
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import modal
import modal.experimental

from comfysnap_schema.wire import JobStatus, Progress
from comfysnap_server.backends.modal import JobRunner
from comfysnap_server.deploy.deployment import engine_options
from comfysnap_server.deploy.functions.platform import (
    app,
    deployment,
    files_dir,
    files_volume,
    make_platform,
    models_volume,
    resolving,
    settings,
)
from comfysnap_server.deploy.image import build_image
from comfysnap_server.deploy.settings import MODELS_DIR, STOP_MARGIN_S
from comfysnap_server.engine.protocol import Engine, EngineJob, PreviewFrame
from comfysnap_server.engine.registry import make_engine
from comfysnap_server.jobs import execute

log = logging.getLogger(__name__)

SNAPSHOT: Final = settings.snapshot != "off"
GPU_SNAPSHOT: Final = settings.snapshot == "gpu" and settings.gpus is not None


def _before_snapshot(method: Callable[[Any], None]) -> Any:
    return cast("Any", modal.enter(snap=True)(method)) if SNAPSHOT else method


def _gpu() -> Any:
    gpus = settings.gpus
    return gpus[0] if gpus and len(gpus) == 1 else gpus


def _volumes() -> dict[str | Any, Any]:
    extra = {
        mount.path: modal.Volume.from_name(mount.volume).with_mount_options(
            read_only=mount.read_only
        )
        for mount in settings.mounts
    }
    # read-only: Modal commits what it may write to at each exit, and only 'models sync' writes
    models = models_volume.with_mount_options(read_only=True)
    return {files_dir: files_volume, MODELS_DIR: models, **extra}


def _warm_up(engine: Engine) -> None:
    """Run the workflow ``warm_up`` with its defaults, so that the first job finds models loaded
    and kernels compiled. A failure is only logged."""
    name = settings.warm_up
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


def _log_report(engine: Engine) -> None:
    """Log what ComfyUI could not load; the simulated engine has no report."""
    report = getattr(engine, "report", None)
    if report is None:
        return
    log.info("ComfyUI %s loaded, %d node packs", report.version, len(report.packs))
    for pack in report.packs:
        if not pack.loaded:
            log.warning("node pack %s was not loaded: %s", pack.name, pack.reason)
    for note in report.notes:
        log.warning("%s", note)


def _ignore(_: Progress | PreviewFrame) -> None:
    return


@app.cls(
    image=build_image(deployment),
    gpu=_gpu(),
    cpu=settings.cpu,
    memory=settings.memory,
    ephemeral_disk=settings.ephemeral_disk,
    region=settings.region or None,
    cloud=settings.cloud,
    volumes=_volumes(),
    secrets=[modal.Secret.from_name(name) for name in settings.worker_secrets],
    timeout=settings.longest_run + STOP_MARGIN_S,
    startup_timeout=settings.startup_timeout,
    min_containers=settings.min_containers,
    max_containers=settings.max_containers,
    buffer_containers=settings.buffer_containers,
    scaledown_window=settings.scaledown_window,
    enable_memory_snapshot=SNAPSHOT,
    experimental_options={"enable_gpu_snapshot": True} if GPU_SNAPSHOT else None,
)
class Worker:
    """Runs jobs. The hooks work with a snapshot and without one."""

    @_before_snapshot
    def load(self) -> None:
        """Everything that the snapshot can contain."""
        engine = make_engine(settings.engine, engine_options(deployment))
        retire = cast("Any", modal.experimental.stop_fetching_inputs).aio
        self._worker = JobRunner(engine, make_platform(), retire=retire)
        self._worker.load()
        _log_report(engine)
        if GPU_SNAPSHOT:
            engine.attach()
            _warm_up(engine)

    @modal.enter(snap=False)
    def attach(self) -> None:
        """Runs after a restore, or after ``load`` without one."""
        if not SNAPSHOT:
            self.load()
        restored = os.environ.get("MODAL_ENABLE_SNAP_RESTORE") == "1"
        engine = self._worker.engine
        with resolving(models_volume):
            self._worker.attach(
                restored=restored,
                warm_up=lambda: None if GPU_SNAPSHOT else _warm_up(engine),
            )

    @modal.exit()
    def close(self) -> None:
        """End the threads, which Modal would wait for."""
        self._worker.close()

    @modal.method()
    async def run(self, job_id: str, request: str | None) -> str:
        """Run a job; see ``JobRunner.run``."""
        return await self._worker.run(job_id, request, modal.current_function_call_id() or job_id)
