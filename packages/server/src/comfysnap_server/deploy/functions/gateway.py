"""The gateway and the sweep: functions on CPU, without ComfyUI."""

# modal's stubs leave the types of its decorators partly unknown
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false

import logging
import os
import tempfile
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import modal

from comfysnap_server.backends.modal import ModalBackend
from comfysnap_server.deploy.functions.platform import (
    app,
    deployment,
    files_dir,
    files_volume,
    make_platform,
    resolve_handles,
    settings,
)
from comfysnap_server.deploy.functions.worker import Worker
from comfysnap_server.deploy.gateway_settings import gateway_settings
from comfysnap_server.deploy.image import build_gateway_image

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 3600
"""Seconds; limit of an event stream, after which the client reconnects."""
SWEEP_PERIOD: Final = modal.Period(minutes=30)

image: Final = build_gateway_image(deployment)
secrets: Final = [modal.Secret.from_name(deployment.keys_secret)] if deployment.keys_secret else []
volumes: Final[dict[str | Any, Any]] = {files_dir: files_volume}


def make_backend() -> ModalBackend:
    """The backend of this container."""
    return ModalBackend(
        make_platform(Worker().run),
        Path(tempfile.gettempdir()) / "comfysnap",
        retention=timedelta(hours=settings.retention_hours),
        max_unfinished_per_owner=settings.max_unfinished_per_owner,
    )


def make_api() -> Any:
    """The ASGI app."""
    from comfysnap_server.gateway import create_app

    return create_app(
        make_backend(),
        deployment.workflows,
        gateway_settings(deployment, os.environ),
        default=deployment.project.default,
    )


api: Final = None if modal.is_local() else make_api()
"""Built at import, so that it is in the snapshot: loading FastAPI takes longer than a restore."""


@app.function(
    image=image,
    cpu=settings.gateway.cpu,
    memory=settings.gateway.memory,
    region=settings.region or None,
    volumes=volumes,
    secrets=secrets,
    timeout=TIMEOUT_S,
    min_containers=settings.gateway.min_containers,
    max_containers=settings.gateway.max_containers,
    buffer_containers=settings.gateway.buffer_containers,
    scaledown_window=settings.gateway.scaledown_window,
    enable_memory_snapshot=settings.gateway.snapshot,
)
@modal.concurrent(max_inputs=settings.gateway.max_inputs)
@modal.asgi_app(
    requires_proxy_auth=settings.auth == "proxy",
    custom_domains=settings.gateway.custom_domains or None,
)
def gateway() -> Any:
    """The HTTP API."""
    return api


@app.function(
    image=image, volumes=volumes, timeout=TIMEOUT_S, schedule=SWEEP_PERIOD, max_containers=1
)
async def sweep() -> int:
    """Update jobs that nobody polls, and delete files past their retention."""
    backend = make_backend()
    try:
        deleted = await backend.sweep()
    finally:
        await backend.stop()
    log.info("swept %d entries", deleted)
    return deleted


if not modal.is_local():
    import_module("aiohttp")  # else Modal's web wrapper imports it after the restore, for 0.3 s
    resolve_handles()
