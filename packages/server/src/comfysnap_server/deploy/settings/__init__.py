"""The tables of ``[deploy]``, a file for each."""

from comfysnap_server.deploy.settings.containers import MAX_TIMEOUT, STOP_MARGIN_S, WorkerSettings
from comfysnap_server.deploy.settings.pools import DEFAULT_POOL
from comfysnap_server.deploy.settings.table import DeploySettings
from comfysnap_server.deploy.settings.volumes import (
    COMFYUI_DIR,
    FILES_DIR,
    MODEL_CACHE_DIR,
    MODELS_DIR,
    PROJECT_DIR,
)

__all__ = [
    "COMFYUI_DIR",
    "DEFAULT_POOL",
    "FILES_DIR",
    "MAX_TIMEOUT",
    "MODELS_DIR",
    "MODEL_CACHE_DIR",
    "PROJECT_DIR",
    "STOP_MARGIN_S",
    "DeploySettings",
    "WorkerSettings",
]
