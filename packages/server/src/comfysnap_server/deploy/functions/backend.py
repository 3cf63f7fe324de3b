"""What the functions on CPU share: their image, and the backend."""

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import modal

from comfysnap_server.backends.modal import ModalBackend
from comfysnap_server.deploy.functions.platform import (
    deployment,
    files_dir,
    files_volume,
    make_platform,
    settings,
)
from comfysnap_server.deploy.functions.worker import workers
from comfysnap_server.deploy.image import build_gateway_image
from comfysnap_server.jobs import open_output_store

TIMEOUT_S: Final = 3600
"""Seconds; limit of an event stream, after which the client reconnects, and of a sweep."""

image: Final = build_gateway_image(deployment)
outputs: Final = None if modal.is_local() else open_output_store(deployment.outputs)
output_secrets: Final = [modal.Secret.from_name(name) for name in deployment.output_secrets]
volumes: Final[dict[str | Any, Any]] = {files_dir: files_volume}


def make_backend(*, patience: float) -> ModalBackend:
    """The backend of this container; see ``make_platform``."""
    return ModalBackend(
        make_platform({name: cls().run for name, cls in workers.items()}, patience=patience),
        Path(tempfile.gettempdir()) / "comfysnap",
        retention=timedelta(hours=settings.retention_hours),
        max_unfinished_per_owner=settings.max_unfinished_per_owner,
        outputs=outputs,
    )
