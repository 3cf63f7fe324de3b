"""``[deploy]`` of ``comfysnap.toml``, and what it becomes on Modal."""

from comfysnap_server.deploy.deployment import (
    Deployment,
    SettingsError,
    engine_options,
    read_deployment,
    select_project,
)
from comfysnap_server.deploy.image import build_image, comfyui_commit, notice, read_nodes
from comfysnap_server.deploy.plan import plan_lines
from comfysnap_server.deploy.settings import FILES_DIR, MAX_TIMEOUT, MODELS_DIR, DeploySettings

__all__ = [
    "FILES_DIR",
    "MAX_TIMEOUT",
    "MODELS_DIR",
    "DeploySettings",
    "Deployment",
    "SettingsError",
    "build_image",
    "comfyui_commit",
    "engine_options",
    "notice",
    "plan_lines",
    "read_deployment",
    "read_nodes",
    "select_project",
]
