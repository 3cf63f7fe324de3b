"""The GPU class: loads before the snapshot, attaches after it, runs one job at a time."""

# modal's stubs leave the types of its decorators partly unknown
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false
# pyright: reportUntypedClassDecorator=false

import logging
import os
from collections.abc import Callable
from typing import Any, Final, cast

import modal

from comfysnap_server.backends.modal import JobRunner
from comfysnap_server.deploy.engine_options import engine_options
from comfysnap_server.deploy.functions.platform import (
    app,
    deployment,
    files_dir,
    files_volume,
    make_platform,
    models_volume,
    resolve_handles,
    settings,
)
from comfysnap_server.deploy.image import build_image
from comfysnap_server.deploy.settings import MODELS_DIR
from comfysnap_server.deploy.warm_up import warm_up
from comfysnap_server.engine.registry import make_engine

log = logging.getLogger(__name__)

SNAPSHOT: Final = settings.snapshot != "off"
GPU_SNAPSHOT: Final = settings.snapshot == "gpu" and settings.gpus is not None
STOP_MARGIN_S: Final = 120
"""How much later than the longest job Modal's own timeout ends a container that hangs."""


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
    return {files_dir: files_volume, MODELS_DIR: models_volume, **extra}


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
    timeout=settings.timeout + STOP_MARGIN_S,
    startup_timeout=settings.startup_timeout,
    min_containers=settings.min_containers,
    max_containers=settings.max_containers,
    buffer_containers=settings.buffer_containers,
    scaledown_window=settings.scaledown_window,
    enable_memory_snapshot=SNAPSHOT,
    experimental_options={"enable_gpu_snapshot": True} if GPU_SNAPSHOT else None,
)
class Worker:
    """Runs jobs. The hooks are right with a snapshot, and when Modal boots without one."""

    @_before_snapshot
    def load(self) -> None:
        """All that a snapshot may hold."""
        engine = make_engine(settings.engine, engine_options(deployment))
        self._worker = JobRunner(engine, make_platform())
        self._worker.load()
        if GPU_SNAPSHOT:
            engine.attach()
            warm_up(deployment, engine)
        resolve_handles()

    @modal.enter(snap=False)
    def attach(self) -> None:
        """After a restore, or right after ``load``."""
        if not SNAPSHOT:
            self.load()
        restored = os.environ.get("MODAL_ENABLE_SNAP_RESTORE") == "1"
        engine = self._worker.engine
        self._worker.attach(
            restored=restored,
            warm_up=lambda: None if GPU_SNAPSHOT else warm_up(deployment, engine),
        )

    @modal.method()
    async def run(self, job_id: str, request: str | None) -> str:
        """Run a job; see ``JobRunner.run``."""
        return await self._worker.run(job_id, request, modal.current_function_call_id() or job_id)
