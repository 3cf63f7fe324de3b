"""The GPU class of each pool: loads before the snapshot, takes the GPU after it, runs one job at a
time."""

# modal's stubs leave the types of its decorators partly unknown
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false

import functools
import logging
import os
import tempfile
from pathlib import Path
from typing import Any, Final, cast

import modal
import modal.experimental

from comfysnap_schema.wire import JobStatus
from comfysnap_server.backends.modal import WARM_UP_JOB, JobRunner
from comfysnap_server.deploy.deployment import Deployment, engine_options
from comfysnap_server.deploy.functions.platform import (
    app,
    deployment,
    files_dir,
    files_volume,
    make_platform,
    model_cache_dir,
    model_cache_volume,
    models_volume,
    resolving,
    settings,
)
from comfysnap_server.deploy.image import build_image
from comfysnap_server.deploy.settings import MODELS_DIR, STOP_MARGIN_S
from comfysnap_server.engine.protocol import Engine, EngineJob
from comfysnap_server.engine.registry import make_engine
from comfysnap_server.jobs import execute, open_output_store

log = logging.getLogger(__name__)


def _has_gpu_snapshot(pool: Deployment) -> bool:
    return pool.settings.snapshot == "gpu" and pool.settings.gpus is not None


def _gpu(pool: Deployment) -> Any:
    gpus = pool.settings.gpus
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
    if model_cache_volume is not None:
        extra[model_cache_dir] = model_cache_volume.with_mount_options(read_only=True)
    return {files_dir: files_volume, MODELS_DIR: models, **extra}


def _secrets() -> list[modal.Secret]:
    names = (*settings.worker_secrets, *deployment.output_secrets)
    return [modal.Secret.from_name(name) for name in names]


def _warm_up(engine: Engine, name: str) -> None:
    """Run the workflow of ``warm_up`` with its defaults, so that the first job finds models loaded
    and kernels compiled. A failure is only logged."""
    workflow = deployment.workflows[name]
    with tempfile.TemporaryDirectory(prefix="comfysnap-") as folder:
        inputs, outputs = Path(folder, "input"), Path(folder, "output")
        inputs.mkdir()
        outputs.mkdir()
        job = EngineJob(
            job_id=WARM_UP_JOB,
            graph=workflow.apply(workflow.complete({})),
            outputs=dict(workflow.outputs),
            input_dir=inputs,
            output_dir=outputs,
        )
        outcome = execute(engine, job, _ignore)
    if outcome.status is JobStatus.FAILED:  # a job may have interrupted it
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


def _ignore(_: object) -> None:
    return


class _Worker:
    """Runs the jobs of a pool. The hooks work with a snapshot and without one."""

    @property
    def _pool(self) -> Deployment:
        return _POOLS[type(self).__name__]

    def _load_engine(self) -> None:
        """Everything that the snapshot can contain."""
        pool = self._pool
        engine = make_engine(settings.engine, engine_options(pool))
        retire = cast("Any", modal.experimental.stop_fetching_inputs).aio
        self._worker = JobRunner(
            engine,
            make_platform(),
            retire=retire,
            pool=pool.pool,
            outputs=open_output_store(deployment.outputs),
        )
        self._worker.load()
        _log_report(engine)
        if _has_gpu_snapshot(pool):
            engine.attach()
            if pool.settings.warm_up is not None:
                _warm_up(engine, pool.settings.warm_up)

    @modal.enter(snap=False)
    def attach(self) -> None:
        """Runs after a restore, or after ``load`` without one."""
        pool = self._pool
        if pool.settings.snapshot == "off":
            self._load_engine()
        restored = os.environ.get("MODAL_ENABLE_SNAP_RESTORE") == "1"
        name = None if _has_gpu_snapshot(pool) else pool.settings.warm_up
        engine = self._worker.engine
        with resolving(models_volume):
            self._worker.attach(
                restored=restored,
                warm_up=None if name is None else functools.partial(_warm_up, engine, name),
            )

    @modal.exit()
    def close(self) -> None:
        """End the threads, which Modal would wait for."""
        self._worker.close()

    @modal.method()
    async def run(self, job_id: str, request: str | None) -> str:
        """Run a job; see ``JobRunner.run``."""
        return await self._worker.run(job_id, request, modal.current_function_call_id() or job_id)


class _SnapshotWorker(_Worker):
    @modal.enter(snap=True)
    def load(self) -> None:
        """Runs before the snapshot."""
        self._load_engine()


def _make_class(pool: Deployment) -> Any:
    """The Modal class of a pool."""
    settings, snapshot = pool.settings, pool.settings.snapshot != "off"
    base = _SnapshotWorker if snapshot else _Worker
    made = type(pool.class_name, (base,), {"__module__": __name__, "__doc__": base.__doc__})
    return app.cls(
        image=build_image(pool),
        gpu=_gpu(pool),
        cpu=settings.cpu,
        memory=settings.memory,
        ephemeral_disk=settings.ephemeral_disk,
        region=settings.region or None,
        cloud=settings.cloud,
        volumes=_volumes(),
        secrets=_secrets(),
        timeout=settings.longest_run + STOP_MARGIN_S,
        startup_timeout=settings.startup_timeout,
        min_containers=settings.min_containers,
        max_containers=settings.max_containers,
        buffer_containers=settings.buffer_containers,
        scaledown_window=settings.scaledown_window,
        enable_memory_snapshot=snapshot,
        experimental_options={"enable_gpu_snapshot": True} if _has_gpu_snapshot(pool) else None,
    )(made)


_POOLS: Final = {pool.class_name: pool for pool in deployment.pools}
workers: Final = {pool.pool: _make_class(pool) for pool in deployment.pools}
"""The class of each pool, by the pool's name."""
globals().update({pool.class_name: workers[pool.pool] for pool in deployment.pools})  # for Modal
